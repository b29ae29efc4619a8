"""Sums and closed forms of a forecast, from the samples themselves; held to scikit-learn where it is installed."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from passes import EXITS, F64, FEATURES, HORIZON, LEVELS, RANK, spectrum

PENALTIES = tuple(4.0**j for j in range(4, -11, -1))
# By how much more the backbone's features are penalized.
APART = (2.0**20, 2.0**10, 2.0**5, 1.0)
# A forecast's features by what they are: the backbone's, the last value, that of a season before it, two of a calendar
# (or whatever), and one per step the value a season before it.
BACKBONE, LAST, BEFORE, SEASON = 4, 4, 5, (7, 8, 9)


def forecast_sums(q: NDArray[np.int16], y: NDArray[np.int16]) -> NDArray[np.int64]:
    """Exact sums in the order count, y, y squared, plain, cross, gram."""
    wide, target = q.astype(np.int64), y.astype(np.int64)
    upper = np.triu_indices(FEATURES)
    plain = [wide[:, k].sum(0) for k in range(EXITS)]
    cross = [(target.T @ wide[:, k]).ravel() for k in range(EXITS)]
    gram = [(wide[:, k].T @ wide[:, k])[upper] for k in range(EXITS)]
    return np.concatenate([[len(q)], target.sum(0), (target * target).sum(0), *plain, *cross, *gram])


class Ridge:
    """One exit's regression of all steps, from the samples themselves, by the hat matrix.

    `patterned` tells it what the features are, and that there is a window at every step.
    """

    def __init__(self, z: F64, y: F64, penalty: float | None, patterned: bool = False):
        n, steps = len(z), np.arange(1, HORIZON + 1)
        self.centre, self.mean, scale = z.mean(0), y.mean(0), z.std(0)
        overlap = (2 * steps**2 + 1) / (3 * steps) if patterned else np.ones(HORIZON)
        shared, spent = np.zeros((HORIZON, FEATURES)), 0.0
        if patterned:
            shared, spent = self.pattern(z - self.centre, y - self.mean, overlap)
        target = y - self.mean - (z - self.centre) @ shared.T
        best = None
        for apart in APART if patterned and penalty is None else (1.0,):
            divisor = scale * np.where(np.arange(FEATURES) < BACKBONE, apart**0.5, 1.0)
            x = (z - self.centre) / divisor
            for lam in PENALTIES if penalty is None else (penalty,):
                inverse = np.linalg.inv(x.T @ x + n * lam * np.eye(x.shape[1]))
                hat = x @ inverse @ x.T + 1 / n
                rest = target - hat @ target
                freedom = n - overlap * (np.trace(hat) + spent)
                score = n * ((rest * rest).sum(0) / freedom**2).sum()
                if (freedom > 0).all() and (best is None or score < best[0]):
                    slopes = (inverse @ x.T @ target).T / divisor
                    best = (score, slopes, (rest * rest).sum(0) / freedom, lam)
        _, slopes, residual, self.penalty = best
        self.weight = slopes + shared
        self.residual = np.clip(residual, 1e-6, np.maximum(1.0, y.var(0)))
        self.covariance = np.cov(z.T, bias=True)

    @staticmethod
    def pattern(x: F64, y: F64, overlap: F64) -> tuple[F64, float]:
        """Slopes shared by all steps, as weights of every step, by least squares on (sample, step) pairs."""
        near = 1 / np.arange(1, HORIZON + 1)
        ones = np.ones(HORIZON)
        shapes = [(SEASON, ones), *(([at] * HORIZON, part) for at in (LAST, BEFORE) for part in (ones, near))]
        design = np.stack([x[:, list(at)] * part for at, part in shapes], -1).reshape(-1, len(shapes))
        normal = design.T @ design / y.size
        drawn = np.diag(normal) * overlap.mean() / (32 * len(x)) + 2.0**-20
        slopes = np.linalg.solve(normal + np.diag(drawn), design.T @ y.ravel() / y.size)
        weight = np.zeros((HORIZON, FEATURES))
        for slope, (at, part) in zip(slopes, shapes, strict=True):
            weight[np.arange(HORIZON), list(at)] += slope * part
        return weight, len(shapes) / HORIZON


def normal_quantiles() -> F64:
    return np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def forecast_solve(z: F64, y: F64, penalty: float | None, patterned: bool = False) -> F64:
    """Parameters of a forecast's moments module."""
    out = []
    for k in range(EXITS):
        exit_ = Ridge(z[:, k], y, penalty, patterned)
        point = exit_.mean - exit_.weight @ exit_.centre
        out += [np.repeat(exit_.weight, len(LEVELS), 0).ravel()]
        out += [(point[:, None] + exit_.residual[:, None] ** 0.5 * normal_quantiles()).ravel()]
    return np.concatenate(out)


def forecast_start(z: F64, y: F64, penalty: float | None) -> F64:
    """Starting parameters of a forecast's ladder."""
    exits = [Ridge(z[:, k], y, penalty) for k in range(EXITS)]
    predictions = [e.weight @ e.covariance @ e.weight.T for e in exits]
    _, basis = spectrum(sum(predictions) / EXITS)
    q, out, total, variance = basis[:RANK], [], 0.0, np.zeros(HORIZON)
    assert len(q) == RANK
    outside = np.eye(HORIZON) - q.T @ q
    for k, exit_ in enumerate(exits):
        down = q @ exit_.weight
        certainty = 1 / exit_.residual.mean()
        out += [down.ravel(), -down @ exit_.centre] + ([np.full(RANK, np.log(total / certainty))] if k else [])
        total += certainty
        variance += certainty * (exit_.residual + np.diag(outside @ predictions[k] @ outside))
        out += [np.repeat(q.T, len(LEVELS), 0).ravel()]
        out += [(exit_.mean[:, None] + (variance / total)[:, None] ** 0.5 * normal_quantiles()).ravel()]
    return np.concatenate(out)


def held_to_sklearn(z: F64, y: F64) -> None:
    """The regression against scikit-learn's, where it is installed."""
    try:
        from sklearn.linear_model import Ridge as Theirs
    except ImportError:
        return
    ours = Ridge(z[:, 0], y, None)
    x = (z[:, 0] - z[:, 0].mean(0)) / z[:, 0].std(0)
    theirs = Theirs(alpha=ours.penalty * len(z)).fit(x, y)
    assert np.allclose(ours.weight * z[:, 0].std(0), theirs.coef_, rtol=1e-8, atol=1e-10)
