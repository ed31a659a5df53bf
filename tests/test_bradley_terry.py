"""Ratings from pairwise judgments against the closed form, Zermelo's iteration, and scikit-learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect.models.bradley_terry import Free, components, cross_entropy, fit, groups, logistic, rate, tempered


@given(st.floats(0.01, 0.99))
def test_of_two_texts_the_gap_is_the_log_odds(p):
    first, second = rate(2, np.array([[0, 1]]), np.array([p]))
    assert second - first == pytest.approx(np.log(p / (1 - p)), abs=1e-5)
    assert first + second == pytest.approx(0, abs=1e-12)


def test_a_chain_of_texts_has_the_closed_form():
    p = np.array([0.7, 0.2, 0.9])
    found = rate(4, np.array([[0, 1], [1, 2], [2, 3]]), p)
    assert np.diff(found) == pytest.approx(np.log(p / (1 - p)), abs=1e-5)


def planted(count=12, pairs=400, seed=0):
    random = np.random.default_rng(seed)
    truth = random.normal(size=count)
    both = random.integers(count, size=(pairs, 2))
    both = both[both[:, 0] != both[:, 1]]
    p = (random.random(len(both)) < logistic(truth[both[:, 1]] - truth[both[:, 0]])).astype(float)
    return truth - truth.mean(), both, p


def test_ratings_are_those_of_zermelo_s_iteration():
    _, pairs, p = planted()
    strength = np.ones(12)
    for _ in range(20_000):  # Zermelo 1929: wins over Σ 1 / (own + other's strength)
        wins, games = np.zeros(12), np.zeros(12)
        for (a, b), label in zip(pairs, p, strict=True):
            wins[b] += label
            wins[a] += 1 - label
            games[[a, b]] += 1 / (strength[a] + strength[b])
        after = wins / games
        after /= np.exp(np.log(after).mean())
        if np.abs(after - strength).max() < 1e-12:
            break
        strength = after
    assert rate(12, pairs, p) == pytest.approx(np.log(strength), abs=1e-5)


def test_soft_labels_are_scikit_learn_s_logistic_regression_with_weights():
    sklearn = pytest.importorskip("sklearn.linear_model")
    _, pairs, _ = planted(seed=1)
    p = np.random.default_rng(2).random(len(pairs))
    rows = np.zeros((len(pairs), 12))
    rows[np.arange(len(pairs)), pairs[:, 1]] += 1
    rows[np.arange(len(pairs)), pairs[:, 0]] -= 1
    for ridge in (0.1, 1e-3):
        theirs = sklearn.LogisticRegression(C=1 / (ridge * len(pairs)), fit_intercept=False, tol=1e-10, max_iter=10_000)
        labels = np.repeat([1, 0], len(pairs))
        theirs.fit(np.vstack([rows, rows]), labels, np.concatenate([p, 1 - p]))
        assert rate(12, pairs, p, ridge) == pytest.approx(theirs.coef_[0] - theirs.coef_[0].mean(), abs=1e-4)


def test_planted_ratings_are_recovered_as_pairs_grow():
    errors = []
    for pairs in (300, 30_000):
        truth, both, p = planted(pairs=pairs, seed=3)
        errors.append(np.abs(rate(12, both, p) - truth).max())
    assert errors[1] < 0.1 < errors[0]


EDGES = st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda pair: pair[0] != pair[1])


@given(st.lists(EDGES, min_size=1, max_size=12), st.randoms())
def test_groups_are_who_reaches_whom_in_both_directions(pairs, random_):
    p = np.array([random_.choice([0.0, 0.5, 1.0]) for _ in pairs])
    reach = np.eye(8, dtype=bool)
    for (a, b), label in zip(pairs, p, strict=True):
        reach[a, b] |= label > 0
        reach[b, a] |= label < 1
    for k, i, j in itertools.product(range(8), repeat=3):
        reach[i, j] |= reach[i, k] and reach[k, j]
    found = groups(8, np.array(pairs), p)
    for i, j in itertools.product(range(8), repeat=2):
        assert (found[i] == found[j]) == (reach[i, j] and reach[j, i])
    parts = components(8, np.array(pairs))
    assert parts[0] == 0
    assert all(parts[a] == parts[b] for a, b in pairs)
    assert all(parts[i] == parts[j] for i, j in itertools.product(range(8), repeat=2) if found[i] == found[j])


def test_the_answer_is_a_minimum_whatever_it_starts_from():
    _, pairs, p = planted(seed=5)
    found = fit(Free(12), pairs, p, 0.01)
    again = fit(Free(12), pairs, p, 0.01, np.linspace(-30, 30, 12))
    assert found == pytest.approx(again, abs=1e-5)

    def objective(w):
        return cross_entropy(w[pairs[:, 1]] - w[pairs[:, 0]], p) + 0.005 * (w * w).sum()

    for move in np.eye(12) * 1e-3:
        assert objective(found) <= min(objective(found + move), objective(found - move))


def test_a_label_temperature_divides_log_odds_and_leaves_certainty():
    assert tempered(np.array([0.0, 0.5, 0.8, 1.0]), 2.0) == pytest.approx([0, 0.5, 2 / 3, 1])
    assert tempered(np.array([0.3, 0.9]), 1.0) == pytest.approx([0.3, 0.9])
