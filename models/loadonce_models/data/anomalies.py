"""Sets to find anomalies in: classes are `normal` and `anomalous`, and what counts as one event is fixed here.

Training uses the normal training samples only; anomalous training samples, where
there are any, are for the figures with a few labels. The split and the windows
of every set are repeated in models/protocol.toml.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import pictures, windows
from .archives import text
from .store import Data, keep

CLASSES = ["normal", "anomalous"]


class Watched(NamedTuple):
    """Data with the event each sample belongs to: 0 for none, else a number from 1.

    calibrate marks the training samples that set the alarm's threshold: of windows that overlap, the later ones, for
    a random half would hold the neighbours of what was trained on. None leaves it to a random half.
    """

    data: Data
    events: NDArray[np.int32]
    calibrate: NDArray[np.uint8] | None = None


def _each(data: Data) -> Watched:
    """Every anomalous sample is an event of its own."""
    bad = data.y == 1
    return Watched(data, np.where(bad, np.cumsum(bad), 0).astype(np.int32))


def _against(data: Data, normal: set[str]) -> Watched:
    """The named classes are normal, the others anomalous."""
    usual = np.array([name in normal for name in data.classes])
    return _each(data._replace(y=(~usual[data.y]).astype(np.uint8), classes=CLASSES))


def _cut(x: NDArray, bad: NDArray, cut: int, points: int, train_step: int, step: int) -> Watched:
    """Windows over one series [channels, T].

    Training windows lie wholly in its first half before `cut`, those that calibrate in the second, test windows begin
    at or after `cut`.
    """
    middle = cut // 2
    fit, calibrate = range(0, middle - points + 1, train_step), range(middle, cut - points + 1, train_step)
    starts = [*fit, *calibrate, *range(cut, x.shape[1] - points + 1, step)]
    flags = np.array([middle <= s < cut for s in starts], np.uint8)
    edge = np.diff(np.concatenate([[0], (bad > 0).astype(int)])) == 1
    number = np.where(bad > 0, np.cumsum(edge), 0)
    events = np.array([number[s : s + points].max() for s in starts], np.int32)
    test = np.array([s >= cut for s in starts], np.uint8)
    if events[test == 0].any():
        raise ValueError("the training stretch holds an anomaly")
    cuts = np.stack([x[:, s : s + points] for s in starts]).astype(np.float32)
    return Watched(Data(cuts, (events > 0).astype(np.uint8), test, CLASSES), events, flags)


def _column(archive: str, path: str, name: str) -> NDArray[np.float64]:
    rows = csv.DictReader(io.StringIO(text(archive, path)))
    return np.array([float(row[name]) for row in rows])


def bleeding() -> Watched:
    """Arterial pressure, UCR anomaly 135 (InternalBleeding16): the archive's training part and test part."""
    folder = "aeon/datasets/data/KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_"
    parts = [(_column("aeon", f"{folder}{p}.csv", "value"), _column("aeon", f"{folder}{p}.csv", "is_anomaly"))
             for p in ("TRAIN", "TEST")]  # fmt: skip
    (head, _), (whole, bad) = parts
    if not np.array_equal(head, whole[: len(head)]):
        whole, bad = np.concatenate([head, whole]), np.concatenate([np.zeros(len(head)), bad])
    return _cut(whole[None], bad, len(head), 128, 4, 16)


def arrhythmia() -> Watched:
    """A stretch of an ECG of the MIT-BIH database with one marked event; the first 3,000 points are to train on."""
    path = "sktime/datasets/data/mitdb/mitdb.csv"
    return _cut(_column("sktime", path, "data")[None], _column("sktime", path, "label"), 3000, 256, 8, 16)


def gait() -> Watched:
    """Daphnet S06R02E0: nine acceleration channels of a walker. The part that aeon carries has no marked anomaly."""
    rows = csv.reader(io.StringIO(text("aeon", "aeon/datasets/data/Daphnet_S06R02E0/S06R02E0.csv")))
    table = np.array([[float(v) for v in row[1:]] for row in list(rows)[1:]])
    return _cut(table[:, :-1].T, table[:, -1], len(table) // 2, 128, 16, 16)


def heartbeats() -> Watched:
    """ECG5000: every class but the normal one is an anomaly."""
    data = windows.univariate("ECG5000")
    return _against(data, {data.classes[0]})


def engine() -> Watched:
    """FordA: engine noise with the symptom is an anomaly."""
    return _against(windows.univariate("FordA"), {"no symptom"})


def motion() -> Watched:
    """BasicMotions: badminton is held out as the anomaly."""
    return _against(windows.archive("BasicMotions"), {"running", "standing", "walking"})


def exercises() -> Watched:
    """Shoulder exercises: the last of the seven, rowing, is held out as the anomaly."""
    data = windows.watch()
    return _against(data, set(data.classes) - {"ROW"})


def cells() -> Watched:
    """Solar cells: real defects, marked by experts."""
    return _against(pictures.cells(), {"functional"})


def brick() -> Watched:
    """A real brick surface with SYNTHETIC defects: scratches and spots drawn into half of the test patches."""
    data = pictures.textures()
    data = keep(data, np.where(data.y == data.classes.index("brick"))[0])
    rng = np.random.default_rng(1)
    x, y = data.x.copy(), np.zeros(len(data.y), np.uint8)
    for row in np.where(data.test == 1)[0][::2]:
        x[row], y[row] = _defect(x[row], rng), 1
    return _each(Data(x, y, data.test, CLASSES))


def _defect(patch: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A scratch one to two pixels wide, or a spot of two to four pixels' radius, 60 grey steps darker or lighter."""
    side = patch.shape[0]
    r, c = np.mgrid[:side, :side]
    centre, change = rng.uniform(side * 0.25, side * 0.75, 2), rng.choice([-60, 60])
    if rng.random() < 0.5:
        angle, half = rng.uniform(0, np.pi), rng.uniform(6, 12)
        along = (r - centre[0]) * np.sin(angle) + (c - centre[1]) * np.cos(angle)
        across = (r - centre[0]) * np.cos(angle) - (c - centre[1]) * np.sin(angle)
        where = (np.abs(along) <= half) & (np.abs(across) <= rng.uniform(0.5, 1.0))
    else:
        where = np.hypot(r - centre[0], c - centre[1]) <= rng.uniform(2, 4)
    return np.clip(patch.astype(int) + change * where, 0, 255).astype(np.uint8)


WATCHED: dict[str, Callable[[], Watched]] = {
    "arrhythmia": arrhythmia,
    "bleeding": bleeding,
    "brick-defects": brick,
    "cells-defects": cells,
    "engine-symptom": engine,
    "exercises-rowing": exercises,
    "gait": gait,
    "heartbeats-abnormal": heartbeats,
    "motion-badminton": motion,
}
