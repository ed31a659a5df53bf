"""Vectors of texts: the same in any company, as the libraries have them."""

import hashlib
import json

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from dselect.errors import DselectError, NotFitted
from dselect.kernels import vectors
from dselect.kernels.bags import bags
from dselect.models import kmeans
from dselect.models.hashed import Bags, Hashed
from dselect.models.kmeans import Clusters, characteristic_words
from dselect.models.sentences import SentenceSettings
from tests.conftest import make_pool

TEXTS = [record["text"].encode() for record in make_pool(90)]
ODD = [b"", b" \n", "漢字 हिन्दी 🤖 ΣΑΣ İ".encode(), b"stir stir stir", b"zzz qqq"]


@pytest.fixture(scope="module")
def hashed():
    return Hashed(dimension=16, ngrams=2).fit(Bags.of(TEXTS, 2), seed=1)


@given(st.lists(st.text(max_size=60), max_size=5), st.integers(1, 3))
def test_bags_are_what_counting_ngrams_gives(texts, longest):
    from dselect.kernels.ngrams import count_ngrams

    ends, buckets, counts = bags(texts, longest, 64)
    for number, text in enumerate(texts):
        expected = np.zeros(64, np.int64)
        count_ngrams([text], longest, expected)
        mine = slice(ends[number - 1] if number else 0, ends[number])
        assert len(set(buckets[mine].tolist())) == len(buckets[mine])
        found = np.zeros(64, np.int64)
        found[buckets[mine]] = counts[mine]
        assert (found == expected).all()


def test_parts_of_a_sample_join_in_the_order_wanted():
    order = np.random.default_rng(0).permutation(90)
    joined = Bags.ordered([Bags.of(TEXTS[:20], 1), Bags.of([], 1), Bags.of(TEXTS[20:], 1)], order)
    whole = Bags.of([TEXTS[i] for i in order.tolist()], 1)
    assert all((mine == theirs).all() for mine, theirs in zip(joined, whole, strict=True))


def test_hashed_vectors_are_tf_idf_projected_as_scikit_learn_weighs_it(hashed):
    from sklearn.feature_extraction.text import TfidfTransformer

    ends, buckets, counts = Bags.of(TEXTS, 2)
    matrix = np.zeros((len(TEXTS), 1 << 18), np.float32)
    matrix[np.repeat(np.arange(len(TEXTS)), np.diff(ends, prepend=0)), buckets] = counts
    features, projection = hashed.arrays().values()
    weighted = TfidfTransformer(sublinear_tf=True).fit(matrix).transform(matrix).toarray()[:, features]
    idf = TfidfTransformer(sublinear_tf=True).fit(matrix).idf_[features]
    expected = weighted @ (projection / idf[:, None])
    expected /= np.linalg.norm(expected, axis=1)[:, None]
    assert np.allclose(hashed.encode(TEXTS), expected, atol=2e-5)
    # and these are the directions in which the sample varies most
    kept = np.linalg.norm(weighted @ (projection / idf[:, None])) ** 2
    singular = np.linalg.svd(weighted, compute_uv=False)
    assert kept == pytest.approx((singular[:16] ** 2).sum(), rel=1e-2)  # randomised


def test_a_text_has_the_same_vector_in_any_company(hashed):
    together = hashed.encode(TEXTS + ODD)
    alone = np.concatenate([hashed.encode([text]) for text in TEXTS + ODD])
    assert together.tobytes() == alone.tobytes()
    assert hashed.encode([]).shape == (0, 16)


def test_rows_are_of_length_one_or_zero_where_nothing_is_known(hashed):
    lengths = np.linalg.norm(hashed.encode(TEXTS + ODD), axis=1)
    assert np.allclose(lengths[: len(TEXTS)], 1)
    empty, blank, _, repeated, unknown = lengths[len(TEXTS) :].round(5).tolist()
    assert [empty, blank, repeated, unknown] == [0, 0, 1, 0]


def test_a_model_of_tiny_numbers_gives_rows_of_length_one_too(hashed):
    tiny = Hashed(dimension=16, ngrams=2).fit(Bags.of(TEXTS, 2), seed=1)
    tiny.projection_ = hashed.projection_ * np.float32(1e-41)
    assert np.allclose(np.linalg.norm(tiny.encode(TEXTS), axis=1), 1, atol=0.01)


def test_a_fit_is_the_same_again_and_on_disk(hashed, tmp_path):
    again = Hashed(dimension=16, ngrams=2).fit(Bags.of(TEXTS, 2), seed=1)
    assert again.to_bytes() == hashed.to_bytes()
    (tmp_path / "e").write_bytes(hashed.to_bytes())
    assert Hashed.load(str(tmp_path / "e")).encode(TEXTS).tobytes() == hashed.encode(TEXTS).tobytes()


def test_a_small_sample_gives_fewer_dimensions_and_none_is_refused():
    assert Hashed().fit(Bags.of([b"one text", b"one word"], 1), 0).dimension == 2
    with pytest.raises(DselectError, match="no words"):
        Hashed().fit(Bags.of([b"", b" "], 1), 0)
    with pytest.raises(NotFitted):
        Hashed().encode([b"a"])


@pytest.mark.parametrize("wrong", ["features", "projection", "ngrams"])
def test_an_unsound_encoder_is_refused(hashed, wrong):
    settings, arrays = hashed.settings(), dict(hashed.arrays())
    if wrong == "ngrams":
        settings["ngrams"] = 0
    elif wrong == "features":
        arrays["features"] = arrays["features"][::-1].copy()
    else:
        arrays["projection"] = np.full_like(arrays["projection"], np.nan)
    with pytest.raises(DselectError, match="not a sound encoder"):
        Hashed.from_file(settings, arrays, "x")


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 12), st.integers(0, 99))
def test_the_nearest_centre_is_the_nearest(rows, width, centres, seed):
    random = np.random.default_rng(seed)
    points = random.integers(-9, 9, (rows, width)).astype(np.float32)  # whole numbers: no rounding decides
    middles = random.integers(-9, 9, (centres, width)).astype(np.float32)
    labels, distances = vectors.nearest(points, middles)
    exact = np.linalg.norm(points[:, None].astype(float) - middles[None], axis=2)
    assert (labels == exact.argmin(axis=1)).all()
    assert np.allclose(distances, exact.min(axis=1))


@given(st.integers(0, 25), st.integers(0, 99))
def test_a_row_is_alike_if_one_before_it_is_near(rows, seed):
    points = np.random.default_rng(seed).normal(size=(rows, 3)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1)[:, None]
    expected = np.triu(points @ points.T > 0.9, 1).any(axis=0)
    assert (vectors.alike(points, 0.9) == expected).all()


def blobs(count=300, kinds=6, width=8, seed=0):
    random = np.random.default_rng(seed)
    truth = np.arange(count) % kinds
    return (np.eye(width)[truth] * 5 + random.normal(0, 0.3, (count, width))).astype(np.float32), truth


def test_planted_blobs_are_found():
    points, truth = blobs()
    labels, _ = Clusters().fit(points, 6, seed=3, restarts=5).assign(points)
    assert adjusted_rand_score(truth, labels) == 1


def test_in_the_end_nothing_moves_by_scikit_learn_s_lloyd():
    points = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    ours = Clusters().fit(points, 7, seed=0, iterations=200)
    theirs = KMeans(7, init=ours.centres, n_init=1, max_iter=300, tol=0).fit(points)
    assert (theirs.labels_ == ours.assign(points)[0]).all()
    assert np.allclose(theirs.cluster_centers_, ours.centres, atol=1e-5)


def test_inertia_falls_with_iterations_and_restarts():
    points = np.random.default_rng(2).normal(size=(500, 4)).astype(np.float32)
    inertia = [
        (Clusters().fit(points, 20, 0, restarts, iterations).assign(points)[1] ** 2).sum()
        for restarts, iterations in ((1, 1), (1, 3), (1, 25), (8, 25))
    ]
    assert inertia == sorted(inertia, reverse=True)


def test_spherical_centres_are_of_length_one():
    points, truth = blobs()
    points /= np.linalg.norm(points, axis=1)[:, None]
    clusters = Clusters(spherical=True).fit(points, 6, seed=0, restarts=5)
    assert np.allclose(np.linalg.norm(clusters.centres, axis=1), 1, atol=1e-5)
    assert adjusted_rand_score(truth, clusters.assign(points)[0]) == 1


def test_clusters_that_stay_empty_are_left_out():
    points = np.repeat(np.eye(4, dtype=np.float32), 20, axis=0)  # four places, eighty records
    clusters = Clusters().fit(points, 10, seed=0)
    assert len(clusters) == 4
    assert sorted(np.bincount(clusters.assign(points)[0]).tolist()) == [20] * 4
    with pytest.raises(DselectError, match="3 records cannot make 4 clusters"):
        Clusters().fit(points[:3], 4, seed=0)


def test_threads_do_not_change_a_fit():
    points = np.random.default_rng(3).normal(size=(3000, 16)).astype(np.float32)
    found = set()
    for threads in (1, 2, 4):
        faiss.omp_set_num_threads(threads)
        found.add(hashlib.sha256(Clusters().fit(points, 30, 0).centres.tobytes()).hexdigest())
        assert faiss.omp_get_max_threads() == threads
    assert len(found) == 1


def test_the_silhouette_is_scikit_learn_s_and_best_at_the_number_of_blobs():
    points, _ = blobs()
    found = {k: Clusters().fit(points, k, 0, 5).silhouette(points) for k in (2, 4, 6, 9)}
    assert max(found, key=found.get) == 6
    clusters = Clusters().fit(points, 4, 0, 5)
    assert found[4] == pytest.approx(float(silhouette_score(points, clusters.assign(points)[0])))
    assert Clusters().fit(points, 1, 0).silhouette(points) == -1


def test_the_grid_leaves_ten_records_a_cluster():
    assert kmeans.grid(300) == [4, 8, 16]
    assert kmeans.grid(10**9)[-1] == 1024
    assert kmeans.grid(3) == [2]
    assert kmeans.grid(1) == [1]


def test_a_cluster_is_named_by_words_that_the_others_lack():
    texts = [
        b"the onions and the sauce",
        b"the sauce and onions",
        b"the court and the tenant",
        b"a tenant, a court",
    ] * 3
    words = characteristic_words(texts, np.tile([0, 0, 1, 1], 3), 3)
    assert words[0][:2] == ["onions", "sauce"]
    assert words[1][:2] == ["court", "tenant"]
    assert words[2] == []


def test_clusters_and_their_encoder_share_a_file(hashed, tmp_path):
    points = hashed.encode(TEXTS)
    clusters = Clusters().fit(points, 3, 0).name(TEXTS, np.zeros(len(TEXTS), np.int64))
    (tmp_path / "c").write_bytes(kmeans.to_bytes(clusters, hashed))
    again, encoder = kmeans.load(str(tmp_path / "c"), SentenceSettings())
    assert (again.assign(encoder.encode(TEXTS))[1] == clusters.assign(points)[1]).all()
    (tmp_path / "d").write_bytes(kmeans.to_bytes(clusters, None))
    assert kmeans.load(str(tmp_path / "d"), SentenceSettings())[1] is None
    (tmp_path / "e").write_bytes(kmeans.to_bytes(Clusters().fit(points[:, :3], 3, 0), hashed))
    with pytest.raises(DselectError, match="another"):
        kmeans.load(str(tmp_path / "e"), SentenceSettings())


def test_clusters_survive_their_file_and_unsound_ones_are_refused():
    points, _ = blobs()
    clusters = Clusters().fit(points, 6, 0).name([b"abc def"] * 300, np.zeros(300, np.int64))
    settings = json.loads(json.dumps(clusters.settings()))
    again = Clusters.from_file(settings, clusters.arrays(), "x")
    assert again.words_ == clusters.words_
    assert (again.centres == clusters.centres).all()
    for wrong in ({"words": []}, {"spherical": 1}, {"trained_on": "a"}):
        with pytest.raises(DselectError, match="not a sound"):
            Clusters.from_file(settings | wrong, clusters.arrays(), "x")
    with pytest.raises(DselectError, match="numbers"):
        clusters.assign(points[:, :3])
