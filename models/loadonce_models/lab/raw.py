"""Raw input as features: what the recipes and a logistic regression reach without any backbone."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ..data import Data, draw
from ..preprocess import resample, standardize
from .protocol import protocol

WORD = re.compile(r"[a-z]+|[0-9]")


def _windows(data: Data, numbers: int) -> NDArray[np.float64]:
    """Each channel standardized, resampled to its even share of the numbers."""
    points = max(1, numbers // data.channels)
    lengths = data.lengths if data.lengths is not None else np.full(len(data.x), data.x.shape[2])
    rows = []
    for window, length in zip(data.x, lengths, strict=True):
        cut = window[:, :length].astype(np.float64)
        rows.append(standardize(resample(cut, min(points, length)), (-1,)))
    widest = max(row.shape[1] for row in rows)
    return np.stack([resample(row, widest).reshape(-1) for row in rows])


def _pictures(data: Data, numbers: int) -> NDArray[np.float64]:
    """A square in every colour, standardized over the whole picture."""
    x = data.x.astype(np.float64) / 255.0
    x = x[..., None] if x.ndim == 3 else x
    side = int((numbers // x.shape[-1]) ** 0.5)
    rows = []
    for picture in x:
        planes = np.moveaxis(picture, -1, 0)
        small = resample(resample(planes, min(side, planes.shape[2])).swapaxes(1, 2), min(side, planes.shape[1]))
        rows.append(standardize(small, (0, 1, 2)).reshape(-1))
    return np.stack(rows)


def _texts(texts: list[str], buckets: int) -> NDArray[np.float64]:
    """Words counted in buckets with a sign each (feature hashing, Weinberger et al. 2009), to unit length."""
    out = np.zeros((len(texts), buckets))
    for row, sample in zip(out, texts, strict=True):
        for word in WORD.findall(sample.lower()):
            key = zlib.crc32(word.encode())
            row[key % buckets] += 1.0 if key >> 16 & 1 else -1.0
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def features(data: Data, most: int, fit: NDArray[np.int64]) -> NDArray[np.float32]:
    """[n, 1, numbers], every number scaled to unit variance over the samples `fit`, so that few are clamped."""
    make = {"window": _windows, "picture": _pictures, "text": lambda d, n: _texts(d.x, n)}[data.modality]
    x = make(data, most)
    x = (x - x[fit].mean(0)) / (x[fit].std(0) + 1e-6)
    return np.clip(x, -8, 8).astype(np.float32)[:, None]


def write(data: Data, digest: str, path: Path) -> None:
    """A feature file as `loadonce evaluate` writes them."""
    part = path.with_suffix(".part")
    z = features(data, protocol()["classify"]["raw"]["features"], np.where(data.test == 0)[0])
    save_file({"z": np.ascontiguousarray(z)}, part, metadata={"of": "raw input", "data": digest})
    part.replace(path)


def _whole(data: Data) -> NDArray[np.float64] | list[str]:
    if data.modality == "text":
        return data.x
    if data.lengths is None:
        return data.x.reshape(len(data.x), -1).astype(np.float64)
    rows = [resample(w[:, :n], int(data.lengths.max())).reshape(-1) for w, n in zip(data.x, data.lengths, strict=True)]
    return np.stack(rows)


def logistic(data: Data, labels: list[str], draws: int) -> dict[str, list[float]]:
    """Test accuracy of logistic regression on the whole sample, by labels per class, one per draw.

    Texts are its TF-IDF words and pairs of words. A class that a draw lacks is never answered.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # A last digit of the optimum does not move an accuracy.
    warnings.simplefilter("ignore", ConvergenceWarning)
    whole, train, test = _whole(data), np.where(data.test == 0)[0], np.where(data.test == 1)[0]
    pick = lambda rows: [whole[r] for r in rows] if isinstance(whole, list) else whole[rows]  # noqa: E731
    c = protocol()["classify"]["raw"]["logistic_c"]
    out: dict[str, list[float]] = {}
    for per_class in labels:
        out[per_class] = []
        for seed in range(1 if per_class == "all" else draws):
            rows = draw(data.y, train, None if per_class == "all" else int(per_class), seed)
            first = (
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True) if data.modality == "text" else StandardScaler()
            )
            last = LogisticRegression(C=10.0 if data.modality == "text" else c, max_iter=300)
            model = make_pipeline(first, last).fit(pick(rows), data.y[rows])
            out[per_class].append(float(model.score(pick(test), data.y[test])))
    return out
