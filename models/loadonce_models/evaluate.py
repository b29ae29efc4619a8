"""Few-label transfer: how good is a linear probe on a backbone's features?

Measured once, at the end, on data that neither the generators nor pretraining
have seen. Each source of features gets the same probe and the same draws.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from . import features
from .engine import Engine
from .fetch_data import SERIES, Data, load
from .preprocess import PICTURE_IDS, WINDOW_IDS, picture_patches, window_patches

DATASETS = ("digits", *SERIES)
SHOTS = (5, 10)
DRAWS = 20
Score = tuple[float, float]  # mean and standard deviation over the draws


class Source:
    """A backbone given by its segments and feature statistics."""

    def __init__(self, engine: Engine, tensors: dict[str, NDArray]):
        self.engine, self.tensors = engine, tensors

    def channels(self, x: NDArray) -> NDArray[np.float32]:
        """Samples to z [samples, channels, exits, 128]."""
        if x.dtype == np.uint8:
            z = self.engine.pooled_all([picture_patches(picture) for picture in x], PICTURE_IDS)[:, None]
        else:
            flat = window_patches(x.astype(np.float64)).reshape(-1, 16, 16)
            z = self.engine.pooled_all(flat, WINDOW_IDS).reshape(*x.shape[:2], len(self.engine.sessions), -1)
        return features.project(z, self.tensors)

    def exits(self, x: NDArray) -> dict[str, NDArray[np.float32]]:
        """What a module sees: per exit, and all exits side by side."""
        z = features.combine(self.channels(x))
        out = {f"exit {k + 1}": z[:, k] for k in range(z.shape[1])}
        return out | {"exits together": z.reshape(len(z), -1)}


def draw(y: NDArray, shots: int, seed: int) -> NDArray[np.int64]:
    """Indices of `shots` samples of every class, or all there are."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.where(y == c)[0])[:shots] for c in np.unique(y)])


def probe(x: NDArray, data: Data) -> dict[str, Score]:
    """Test accuracy of a linear probe with few labels and with all of them."""
    train, test = data.test == 0, data.test == 1
    a, y, b, truth = x[train], data.y[train], x[test], data.y[test]
    out = {}
    for shots in (*SHOTS, None):
        rows = [np.arange(len(y))] if shots is None else [draw(y, shots, seed) for seed in range(DRAWS)]
        scores = []
        for index in rows:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300))
            scores.append(model.fit(a[index], y[index]).score(b, truth))
        out["all" if shots is None else str(shots)] = (float(np.mean(scores)), float(np.std(scores)))
    return out


def transfer(sources: dict[str, Source]) -> dict[str, dict[str, dict[str, Score]]]:
    """Scores by data set, then source and exit, then number of labels per class."""
    table: dict[str, dict[str, dict[str, Score]]] = {}
    for name in DATASETS:
        data = load(name)
        rows = {"raw input": probe(data.x.reshape(len(data.x), -1).astype(np.float64), data)}
        for label, source in sources.items():
            for exit_name, x in source.exits(data.x).items():
                rows[f"{label}, {exit_name}"] = probe(x, data)
        table[name] = rows
        print(
            name, {row: [round(score[0], 3) for score in scores.values()] for row, scores in rows.items()}, flush=True
        )
    return table
