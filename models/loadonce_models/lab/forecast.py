"""Forecasts: the windows of each series, the two baselines, and what the backbones' modules reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ..data.series import SERIES
from .backbones import Bundle
from .classify import Lab
from .protocol import digest, forecast_manifest, protocol, write_if_new

F64 = NDArray[np.float64]
FLOOR = 1e-4
# Seconds of a step; the calendar counts in steps, so any will do.
STEP_S = 60.0


class Origins:
    """Windows with what follows them, cut as the protocol says."""

    def __init__(self, name: str):
        self.spec = protocol()["forecast"]["series"][name]
        self.series = SERIES[name]()
        window, horizon, cut = (self.spec[key] for key in ("window", "horizon", "cut"))
        train = range(window, cut - horizon + 1)
        test = range(cut, len(self.series) - horizon + 1, self.spec["step"])
        self.origins = np.array([*train, *test])
        self.test = np.repeat(np.array([0, 1], np.uint8), [len(train), len(test)])
        self.x = np.stack([self.series[o - window : o] for o in self.origins])
        self.future = np.stack([self.series[o : o + horizon] for o in self.origins])
        self.history = self.series[:cut]

    def write(self, path: Path) -> None:
        """The data file that `loadonce evaluate` reads."""
        tensors = {
            "x": self.x[:, None].astype(np.float32),
            "future": self.future.astype(np.float32),
            "test": self.test,
            "time": (self.origins - 1) * STEP_S,
            "history": self.history.astype(np.float64),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, part)
        part.replace(path)


def scores(origins: Origins, quantiles: F64, point: F64 | None = None) -> dict[str, float]:
    """MASE, WQL and coverage of quantiles [origins, horizon, levels] on the test origins.

    MASE is of the median, or of `point` [origins, horizon] where that is another forecast.
    """
    levels = np.array(protocol()["forecast"]["quantiles"])
    season, history = origins.spec["season"], origins.history
    actual = origins.future[origins.test == 1]
    naive = np.abs(history[season:] - history[:-season]).mean()
    median = quantiles[..., list(levels).index(0.5)] if point is None else point
    error = actual[..., None] - quantiles
    loss = 2 * np.maximum(levels * error, (levels - 1) * error).sum((0, 1)) / np.abs(actual).sum()
    inside = (quantiles[..., 0] <= actual) & (actual <= quantiles[..., -1])
    return {
        "mase": float(np.abs(actual - median).mean() / naive),
        "wql": float(loss.mean()),
        "coverage": float(inside.mean()),
    }


def _with_residuals(origins: Origins, point: F64, unit: F64) -> F64:
    """Points [n, horizon] of all windows to quantiles of the test ones: the training residuals', by step.

    `unit` [n] is what a residual is measured in.
    """
    levels = protocol()["forecast"]["quantiles"]
    train, test = origins.test == 0, origins.test == 1
    residuals = (origins.future - point)[train] / unit[train, None]
    spread = np.quantile(residuals, levels, axis=0)  # [levels, horizon]
    return point[test][..., None] + unit[test, None, None] * spread.T[None]


def naive(origins: Origins) -> dict[str, float]:
    """Repeats the last season."""
    season, horizon = origins.spec["season"], origins.spec["horizon"]
    # A window may be shorter than its season and horizon together: the series itself is looked at.
    at = origins.origins[:, None] + np.arange(horizon)[None] % season - season
    point = origins.series[at]
    return scores(origins, _with_residuals(origins, point, np.ones(len(point))), point[origins.test == 1])


def linear(origins: Origins) -> dict[str, float]:
    """Direct linear autoregression on the standardized window: ridge, penalty by generalized cross-validation."""
    lags = min(origins.spec["window"], origins.spec["season"] + origins.spec["horizon"])
    mean, unit = origins.x.mean(1), origins.x.std(1) + FLOOR
    x = (origins.x[:, -lags:] - mean[:, None]) / unit[:, None]
    y = (origins.future - mean[:, None]) / unit[:, None]
    train = origins.test == 0
    middle, level = x[train].mean(0), y[train].mean(0)
    u, s, vt = np.linalg.svd(x[train] - middle, full_matrices=False)
    target, n = y[train] - level, int(train.sum())
    along = u.T @ target
    best: tuple[float, float] = (np.inf, 1.0)
    for penalty in 10.0 ** np.arange(-3, 4.01, 0.25):
        shrink = s**2 / (s**2 + penalty)
        left = ((target - u @ (shrink[:, None] * along)) ** 2).sum()
        free = n - 1 - shrink.sum()
        if free > 0:
            best = min(best, (n * left / free**2, penalty))
    shrink = s / (s**2 + best[1])
    weight = vt.T @ (shrink[:, None] * along)
    point = ((x - middle) @ weight + level) * unit[:, None] + mean[:, None]
    found = scores(origins, _with_residuals(origins, point, unit))
    return found | {"penalty": float(best[1]), "lags": lags}


def measure(lab: Lab, name: str, bundle: Bundle, twins: dict[str, Bundle]) -> list[dict[str, Any]]:
    """Entries of the report: one per recipe and exit."""
    spec, fixed = protocol()["forecast"]["series"][name], {**protocol()["forecast"], "series": None}
    origins = Origins(name)
    data = lab.work / "data" / f"forecast-{name}-{digest(spec)}.safetensors"
    if not data.exists():
        origins.write(data)
    key = [spec, fixed, digest(origins.series.tolist())]
    baselines = lab.cached(
        "forecast baselines", name, key, lambda: {"naive": naive(origins), "linear": linear(origins)}
    )

    def run(of: Bundle, projected: int = fixed["projected"], recipes: list[str] = fixed["recipes"]) -> Any:
        task = lab.work / "tasks" / f"forecast-{name}-{of.folder.name}-{projected}.toml"
        write_if_new(task, forecast_manifest(name, spec, of, STEP_S, projected))
        more = ["--recipes", ",".join(recipes), *([] if lab.quick else ["--exits"])]
        return lab.evaluate(["--task", task, "--data", data, "--bundle", of.folder, *more])

    shipped = lab.cached(f"{bundle.name} forecast", name, [bundle.fingerprint, *key], lambda: run(bundle))
    wide = lab.cached(
        f"{bundle.name} forecast wide",
        name,
        [bundle.fingerprint, *key],
        lambda: run(bundle, bundle.directions, ["moments"]),
    )
    blank = None
    if "random" in twins:
        twin = twins["random"]
        blank = lab.cached(f"{bundle.name} forecast random", name, [twin.fingerprint, *key], lambda: run(twin))
    out = []
    for i, draw in enumerate(shipped["draws"]):
        for k in range(shipped["exits"]):
            out.append(
                {
                    "name": name,
                    "backbone": bundle.name,
                    "recipe": draw["recipe"],
                    "exit": k + 1,
                    "horizon": spec["horizon"],
                    "season": spec["season"],
                    "train": draw["samples"],
                    "origins": draw["origins"],
                    "mase": round(draw["mase"][k], 5),
                    "wql": round(draw["wql"][k], 6),
                    "coverage": round(draw["coverage"][k], 4),
                    "nominal": round(draw["nominal"], 4),
                    "choice": draw.get("choice"),
                    "random_mase": blank and round(blank["draws"][i]["mase"][k], 5),
                    "random_wql": blank and round(blank["draws"][i]["wql"][k], 6),
                    "wide_mase": round(wide["draws"][0]["mase"][k], 5),
                    "naive": baselines["naive"],
                    "linear": baselines["linear"],
                    "beats_naive": draw["mase"][k] < baselines["naive"]["mase"],
                    "beats_linear": draw["mase"][k] < baselines["linear"]["mase"],
                    "early": draw.get("early") if k + 1 == shipped["exits"] else None,
                }
            )
    return out
