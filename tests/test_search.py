"""Weight search: what is asked keeps to its bounds, what is told is used, and three rounds beat one."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dselect import search as searching
from dselect.errors import DselectError
from dselect.models import predictors
from dselect.search import (
    UNITS,
    WeightSearch,
    best_predictor,
    cross_validated,
    dirichlet,
    first_draws,
    rounded,
    within_caps,
)
from tests.conftest import SHARED, long

PRIOR = np.array([0.4, 0.3, 0.15, 0.1, 0.05])


def surface(seed, domains=6):
    """Return a loss with a known optimum, and that optimum: a bowl in the roots of the weights."""
    draw = np.random.default_rng(seed)
    best = draw.dirichlet(np.full(domains, 0.5))
    steep = draw.uniform(0.5, 2, domains)
    return lambda weights: 2 + (np.sqrt(weights) - np.sqrt(best)) ** 2 @ steep, best


def searched(rounds, seed):
    loss, _ = surface(seed)
    search = WeightSearch(np.full(6, 1 / 6), seed=seed)
    for count in rounds:
        tried = search.ask(count)
        search.tell(tried, loss(tried))
    return search, loss


def test_mixtures_sum_to_one_keep_to_the_caps_and_differ():
    caps = np.array([1.0, 0.5, 0.5, 0.3, 0.2])
    search = WeightSearch(PRIOR, caps)
    for count in (20, 10):
        tried = search.ask(count)
        assert tried.shape == (count, 5)
        units = tried * UNITS
        assert np.abs(units - np.round(units)).max() < 1e-9
        assert (np.round(units).sum(axis=1) == UNITS).all()
        assert (tried <= caps + 1 / UNITS).all()
        assert len(np.unique(np.concatenate([search.weights_, tried]), axis=0)) == len(search.weights_) + count
        search.tell(tried, tried @ np.arange(1.0, 6.0))


def test_the_same_seed_and_the_same_answers_ask_the_same_again():
    one, other, third = WeightSearch(PRIOR), WeightSearch(PRIOR), WeightSearch(PRIOR, seed=1)
    for _ in range(2):
        tried = one.ask(8)
        assert np.array_equal(tried, other.ask(8))
        assert not np.array_equal(tried, third.ask(8))
        for search in (one, other, third):
            search.tell(tried, tried[:, 0] + 1)
    assert np.array_equal(one.best_predicted(), other.best_predicted())


def test_tight_caps_leave_what_is_possible():
    caps = np.full(5, 0.2001)
    assert np.abs(first_draws(PRIOR, caps, 1, np.random.default_rng(0)) - 0.2).max() < 3 / UNITS
    with pytest.raises(DselectError, match="no mixture"):
        WeightSearch(PRIOR, np.full(5, 0.1))
    with pytest.raises(DselectError, match="different mixtures"):
        first_draws(np.array([1.0]), np.array([1.0]), 2, np.random.default_rng(0))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(0, 99))
def test_rounding_and_sharing_out_keep_the_sum(weights, seed):
    weights = np.array([weights]) + 1e-9
    weights /= weights.sum()
    found = rounded(weights)
    assert round(float(found.sum() * UNITS)) == UNITS
    assert (found >= 0).all()
    assert np.abs(found - weights).max() < len(weights[0]) / UNITS + 2e-4 * len(weights[0])
    caps = np.random.default_rng(seed).dirichlet(np.ones(weights.shape[1])) * 2
    caps = np.minimum(caps, 1.0)
    if caps.sum() >= 1:
        cut = within_caps(weights, caps)
        assert abs(cut.sum() - 1) < 1e-9
        assert (cut <= caps + 1e-9).all()
        below = (cut < caps - 1e-9) & (weights > 1e-6)
        if below.sum() > 1 and (cut[weights <= 1e-6] < 1e-6).all():
            shares = cut[below] / weights[below]
            assert np.allclose(shares, shares[0])


def test_dirichlet_draws_have_the_mean_and_variance_they_should_have_and_never_nan():
    alphas = np.array([0.3, 1.0, 4.0])
    found = dirichlet(np.tile(alphas, (40_000, 1)), np.random.default_rng(1))
    mean = alphas / alphas.sum()
    assert np.abs(found.mean(axis=0) - mean).max() < 0.01
    assert np.abs(found.var(axis=0) - mean * (1 - mean) / (alphas.sum() + 1)).max() < 0.005
    assert np.isfinite(dirichlet(np.full((100, 3), 1e-12), np.random.default_rng(2))).all()


def test_three_rounds_beat_one_of_the_same_size_on_average_over_twenty_seeds(monkeypatch):
    monkeypatch.setattr(searching, "CANDIDATES", 4000)
    lost, known = [], 2.0
    for seed in range(20):
        (three, loss), (one, _) = searched((16, 8, 4), seed), searched((28,), seed)
        assert len(three.losses_) == len(one.losses_)
        lost.append(
            [min(float(search.losses_.min()), float(loss(search.best_predicted()))) - known for search in (three, one)]
        )
    three, one = np.mean(lost, axis=0)
    assert three < one / 2


def test_the_gradient_of_the_process_is_that_of_its_value():
    from scipy.optimize import check_grad

    draw = np.random.default_rng(0)
    x, y, at = np.sqrt(draw.dirichlet(np.ones(4), 20)), draw.normal(size=20), draw.normal(size=6) * 0.3
    off = check_grad(lambda p: predictors._negative(p, x, y)[0], lambda p: predictors._negative(p, x, y)[1], at)
    assert off < 1e-5


def test_the_process_agrees_with_scikit_learn_s_at_the_same_parameters():
    learn = pytest.importorskip("sklearn.gaussian_process")
    draw = np.random.default_rng(3)
    weights, other = draw.dirichlet(np.ones(4), 25), draw.dirichlet(np.ones(4), 9)
    losses = 2 + weights @ np.array([1.0, 0.2, 0.1, 0.0]) + 0.01 * draw.normal(size=25)
    ours = predictors.GaussianProcess().fit(weights, losses)
    signal, noise = np.exp(ours._at[-2:])
    kernel = signal * learn.kernels.Matern(ours.scales_, nu=2.5) + learn.kernels.WhiteKernel(noise)
    theirs = learn.GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(
        np.sqrt(weights), ours._scale.to(losses)
    )
    means, deviations = theirs.predict(np.sqrt(other), return_std=True)
    assert np.allclose(ours.predict(other), ours._scale.back(means))
    without_noise = np.sqrt(deviations**2 - noise)
    assert np.allclose(ours.deviations(other), ours._scale.spread(without_noise, ours.predict(other)))


def test_ridge_is_the_least_squares_solution_with_its_penalty():
    draw = np.random.default_rng(4)
    weights = draw.dirichlet(np.ones(3), 40)
    losses = np.exp(weights @ np.array([1.0, 2.0, 3.0]))  # their logarithms are linear
    other = draw.dirichlet(np.ones(3), 5)
    ridge = predictors.Ridge().fit(weights, losses)
    assert np.allclose(ridge.predict(other), np.exp(other @ np.array([1.0, 2.0, 3.0])), rtol=1e-3)
    assert (ridge.deviations(other) < 0.05).all()


@pytest.mark.parametrize("name", list(predictors.PREDICTORS))
def test_every_predictor_ranks_a_simple_surface_and_says_how_sure_it_is(name):
    if name == "lightgbm":
        pytest.importorskip("lightgbm")
    loss, _ = surface(5, domains=4)
    draw = np.random.default_rng(5)
    tried, other = draw.dirichlet(np.ones(4), (60, 30)), draw.dirichlet(np.ones(4), 30)
    tried = tried[:, 0]
    fitted = predictors.PREDICTORS[name]().fit(tried, loss(tried))
    assert np.corrcoef(fitted.predict(other), loss(other))[0, 1] > 0.7
    assert (fitted.deviations(other) >= 0).all()
    again = predictors.PREDICTORS[name]().fit(tried, loss(tried))
    assert np.array_equal(fitted.predict(other), again.predict(other))


@pytest.mark.parametrize("name", ["gp", "ridge"])
def test_equal_losses_and_two_points_are_no_trouble(name):
    weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    for count in (2, 3):
        fitted = predictors.PREDICTORS[name]().fit(weights[:count], np.full(count, 3.0))
        assert np.allclose(fitted.predict(weights), 3.0)
    search = WeightSearch(np.array([0.5, 0.5]))
    search.tell(weights, np.full(3, -1.0))
    assert search.best_predicted().sum() == 1
    assert cross_validated("gp", weights, np.full(3, -1.0)).rank_correlation is None


def test_cross_validation_chooses_the_predictor_that_ranks_best():
    pytest.importorskip("lightgbm")
    draw = np.random.default_rng(6)
    weights = draw.dirichlet(np.ones(4), 40)
    losses = np.exp(np.log(weights + 0.01) @ np.array([-1.0, 0.5, 0.2, -0.3]))
    assert best_predictor(weights, losses) == "ridge"
    trusted = cross_validated("ridge", weights, losses)
    assert trusted.rank_correlation > 0.99
    assert trusted.error < 0.3


def regmix(part, what):
    with (SHARED / "truth" / f"regmix_{part}_{what}_1m.csv").open() as file:
        header, *rows = csv.reader(file)
    return header[1:], np.array(rows, float)[:, 1:]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no public runs here")
@pytest.mark.parametrize("size", [64, pytest.param(112, marks=long), pytest.param(512, marks=long)])
def test_the_process_ranks_the_public_runs_of_regmix(size):
    from scipy.stats import spearmanr

    mixtures, unseen = (regmix(part, "mixture")[1] for part in ("train", "test"))
    losses, true = (regmix(part, "pile_loss")[1] for part in ("train", "test"))
    found = []
    for draw in range(2 if size == 64 else 4 if size < 512 else 1):
        at = np.random.default_rng(draw).permutation(512)[:size]
        weights = mixtures[at] / mixtures[at].sum(axis=1, keepdims=True)
        fitted = [predictors.GaussianProcess().fit(weights, losses[at, c]) for c in range(13)]
        found.append([spearmanr(one.predict(unseen), true[:, c])[0] for c, one in enumerate(fitted)])
    means = np.mean(found, axis=0)
    assert means.mean() > {64: 0.975, 112: 0.98, 512: 0.99}[size]
    assert means.min() > 0.94
