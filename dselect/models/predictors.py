"""Predict what a mixture of domains costs from mixtures that were tried.

Weights are float64 (n, d), rows that sum to 1; losses float64 (n,), lower is better. Nothing here is seeded: the same
points give the same predictor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import numpy as np

from dselect.errors import DselectError

Floats = np.ndarray[Any, np.dtype[np.float64]]
Name = Literal["gp", "ridge", "lightgbm"]

FOLDS = 5
_ROOT5 = 5**0.5
_START = 0.7  # a length scale on √w where the search begins
_SCALES = (np.log(0.02), np.log(100.0))  # bounds of the logarithms
_NOISES = (np.log(1e-5), np.log(1.0))
_EVALUATIONS = 300


class Predictor(Protocol):
    """What all predictors have in common."""

    def fit(self, weights: Floats, losses: Floats) -> Predictor:
        """Learn from mixtures that were tried, two or more."""

    def predict(self, weights: Floats) -> Floats:
        """Return the losses it expects of other mixtures: float64 (m,)."""

    def deviations(self, weights: Floats) -> Floats:
        """Return how far each of these may be off, one standard deviation: float64 (m,), in the unit of the losses."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS to one thread: with more of them sums come in another order, and the last digits differ."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


class Scale:
    """What the predictors learn in place of losses: their logarithms if all are above 0, standardized."""

    def __init__(self, losses: Floats) -> None:
        self.log = bool((losses > 0).all())
        values = np.log(losses) if self.log else losses
        self.mean, self.deviation = float(values.mean()), float(values.std()) or 1.0

    def to(self, losses: Floats) -> Floats:
        """Return losses as the predictors see them."""
        return np.asarray(((np.log(losses) if self.log else losses) - self.mean) / self.deviation)

    def back(self, values: Floats) -> Floats:
        """Return the losses that such values stand for."""
        found = values * self.deviation + self.mean
        return np.asarray(np.exp(found) if self.log else found)

    def spread(self, deviations: Floats, losses: Floats) -> Floats:
        """Return the deviations of losses: of logarithms, to first order."""
        return np.asarray(deviations * self.deviation * (losses if self.log else 1.0))


class GaussianProcess:
    """A Gaussian process with a Matérn-5/2 kernel on √w and a length scale for each domain (Rasmussen and Williams
    2006, eq. 4.17 and 5.9).

    √w lies on a sphere, where a step of given size moves a small weight as surely as a large one. The length scales,
    the signal's variance and the noise's maximise the marginal likelihood, with weak priors. `scales_`: float64 (d,),
    a long one says that the domain hardly matters.
    """  # noqa: D205

    def __init__(self) -> None:
        self.scales_: Floats = np.zeros(0)

    def fit(self, weights: Floats, losses: Floats) -> GaussianProcess:
        """Maximise the posterior of the kernel's parameters by L-BFGS."""
        from scipy.optimize import minimize

        self._scale = Scale(losses)
        self._x, y = np.sqrt(weights), self._scale.to(losses)
        domains = weights.shape[1]
        start = np.array([np.log(_START * max(domains, 4) ** 0.5 / 2)] * domains + [0.0, np.log(1e-2)])
        bounds = [_SCALES] * domains + [(np.log(0.05), np.log(1e3)), _NOISES]
        with one_thread():
            found = minimize(
                _negative, start, (self._x, y), "L-BFGS-B", jac=True, bounds=bounds, options={"maxfun": _EVALUATIONS}
            )
            self._at = np.asarray(found.x)
            self.scales_ = np.exp(self._at[:-2])
            self._lower = _cholesky(_covariance(self._x, self._x, self._at) + np.exp(self._at[-1]) * np.eye(len(y)))
            self._solved = _solve(self._lower, y)
        return self

    def predict(self, weights: Floats) -> Floats:
        """Return the posterior means."""
        means = np.empty(len(weights))
        with one_thread():
            for first in range(0, len(weights), 4096):  # memory does not grow with the number of candidates
                some = slice(first, first + 4096)
                means[some] = _covariance(np.sqrt(weights[some]), self._x, self._at) @ self._solved
        return self._scale.back(means)

    def deviations(self, weights: Floats) -> Floats:
        """Return the posterior's deviations, without the noise of a measurement."""
        from scipy.linalg import solve_triangular

        with one_thread():
            across = _covariance(np.sqrt(weights), self._x, self._at)
            explained = solve_triangular(self._lower, across.T, lower=True)
        left = np.maximum(np.exp(self._at[-2]) - (explained**2).sum(axis=0), 0.0)
        return self._scale.spread(np.sqrt(left), self.predict(weights))


def _covariance(x: Floats, others: Floats, at: Floats) -> Floats:
    """Return the kernel between rows; at: logarithms of the length scales, the variance and the noise's."""
    scaled = _ROOT5 * _distances(x / np.exp(at[:-2]), others / np.exp(at[:-2]))
    return np.asarray(np.exp(at[-2]) * (1 + scaled + scaled**2 / 3) * np.exp(-scaled))


def _distances(x: Floats, others: Floats) -> Floats:
    squares = (x**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * x @ others.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _cholesky(covariance: Floats) -> Floats:
    from scipy.linalg import cholesky

    return np.asarray(cholesky(covariance, lower=True))


def _solve(lower: Floats, right: Floats) -> Floats:
    from scipy.linalg import cho_solve

    return np.asarray(cho_solve((lower, True), right))


_SCALE_PRIOR = (np.log(4.0), 1.2)  # of the logarithm of a length scale: mean and deviation
_NOISE_PRIOR = (np.log(1e-3), 2.0)


def _negative(at: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
    """Return the negative logarithm of the posterior, and its gradient."""
    n, domains = x.shape
    scales, signal, noise = np.exp(at[:-2]), np.exp(at[-2]), np.exp(at[-1])
    scaled = _ROOT5 * _distances(x / scales, x / scales)
    decay = np.exp(-scaled)
    shape = (1 + scaled + scaled**2 / 3) * decay
    try:
        lower = _cholesky(signal * shape + noise * np.eye(n))
    except np.linalg.LinAlgError:
        return 1e25, np.zeros(domains + 2)
    inverse = _solve(lower, np.eye(n))
    solved = inverse @ y
    value = 0.5 * y @ solved + np.log(np.diag(lower)).sum() + 0.5 * n * np.log(2 * np.pi)
    # dK/dlogℓ_i = σ² 5/3 (1 + √5 r) e^(-√5 r) (x_i - x'_i)² / ℓ_i², and dL/dθ = ½ tr((K⁻¹ - αα') dK/dθ)
    outer = inverse - np.outer(solved, solved)
    slope = outer * (signal * 5 / 3) * (1 + scaled) * decay
    both = 2 * ((x**2).T @ slope.sum(axis=1)) - 2 * ((slope @ x) * x).sum(axis=0)  # Σ slope (x_i - x'_i)²
    gradient = np.concatenate(
        [
            0.5 * both / scales**2,
            [0.5 * signal * (outer * shape).sum(), 0.5 * noise * np.trace(outer)],
        ]
    )
    for part, (mean, deviation) in ((slice(0, domains), _SCALE_PRIOR), (slice(domains + 1, None), _NOISE_PRIOR)):
        away = (at[part] - mean) / deviation
        value += 0.5 * (away**2).sum()
        gradient[part] += away / deviation
    return float(value), gradient


class Ridge:
    """Least squares on [w, ln(w + 0.01)] with a penalty chosen by leave-one-out error (exact, from one
    eigendecomposition).
    """  # noqa: D205

    def fit(self, weights: Floats, losses: Floats) -> Ridge:
        """Solve for every penalty of a grid, keep the best."""
        self._scale = Scale(losses)
        x, y = _features(weights), self._scale.to(losses)
        self._centre, self._spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-12)
        x = (x - self._centre) / self._spread
        with one_thread():
            left, sizes, right = np.linalg.svd(x, full_matrices=False)
            best = np.inf
            for penalty in 10.0 ** np.arange(-4, 4.01, 0.5):
                shrunk = sizes**2 / (sizes**2 + penalty)
                leverage = (left**2 * shrunk).sum(axis=1) + 1 / len(y)
                residuals = (y - left @ (shrunk * (left.T @ y))) / np.maximum(1 - leverage, 1e-6)
                error = float((residuals**2).mean())
                if error < best:
                    best, chosen = error, penalty
            self._noise = best
            self._coefficients = right.T @ (sizes / (sizes**2 + chosen) * (left.T @ y))
            self._inverse = (right.T / (sizes**2 + chosen)) @ right
        return self

    def predict(self, weights: Floats) -> Floats:
        """Return the fitted values."""
        with one_thread():
            return self._scale.back(self._standardized(weights) @ self._coefficients)

    def deviations(self, weights: Floats) -> Floats:
        """Return what the leave-one-out error and the leverage of each mixture say."""
        x = self._standardized(weights)
        with one_thread():
            leverage = ((x @ self._inverse) * x).sum(axis=1)
        return self._scale.spread(np.sqrt(self._noise * np.maximum(leverage, 0.0)), self.predict(weights))

    def _standardized(self, weights: Floats) -> Floats:
        return np.asarray((_features(weights) - self._centre) / self._spread)


def _features(weights: Floats) -> Floats:
    return np.concatenate([weights, np.log(weights + 0.01)], axis=1)


class LightGbm:
    """Boosted trees with RegMix's settings: learning rate 0.01, 1,000 trees, the library's defaults. Extra `lightgbm`.

    RegMix stops early, on its test set; without one, all trees are grown. Of fewer than 200 points a leaf may hold 5
    (CLIMB's setting) in place of 20.
    """

    def fit(self, weights: Floats, losses: Floats) -> LightGbm:
        """Grow the trees; and once more without every tenth point, to see how far they are off."""
        self._scale = Scale(losses)
        y = self._scale.to(losses)
        held = np.arange(len(y)) % 10 == 9
        self._trees = _grown(weights, y)
        self._error = 1.0
        if held.any():
            others = _grown(weights[~held], y[~held])
            self._error = float(np.sqrt(((others.predict(weights[held]) - y[held]) ** 2).mean()))
        return self

    def predict(self, weights: Floats) -> Floats:
        """Return what the trees say."""
        return self._scale.back(np.asarray(self._trees.predict(weights), np.float64))

    def deviations(self, weights: Floats) -> Floats:
        """Return the error on every tenth point, grown without it: the same for all mixtures."""
        return self._scale.spread(np.full(len(weights), self._error), self.predict(weights))


def _grown(weights: Floats, values: Floats) -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise DselectError("--predictor lightgbm needs it", way_out="pip install 'dselect[lightgbm]'") from error
    settings = {
        "objective": "regression",
        "learning_rate": 0.01,
        "min_data_in_leaf": 20 if len(values) >= 200 else 5,
        "seed": 42,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    return lightgbm.train(settings, lightgbm.Dataset(weights, values), 1000)


PREDICTORS: dict[Name, Callable[[], Predictor]] = {"gp": GaussianProcess, "ridge": Ridge, "lightgbm": LightGbm}
