"""A labelled data set in memory and as one safetensors file, the form `loadonce evaluate` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import blake3
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file


class Data(NamedTuple):
    """Samples with their classes.

    x: windows f32 [n, channels, length], grey pictures u8 [n, h, w], colour pictures u8 [n, h, w, 3], or texts.
    test marks the held-out samples. lengths [n], only for windows of unequal length: points of each that count.
    """

    x: NDArray | list[str]
    y: NDArray[np.uint8]
    test: NDArray[np.uint8]
    classes: list[str]
    lengths: NDArray[np.int32] | None = None

    @property
    def modality(self) -> str:
        """window, picture or text."""
        if isinstance(self.x, list):
            return "text"
        return "picture" if self.x.dtype == np.uint8 else "window"

    @property
    def channels(self) -> int:
        """Channels that are encoded one by one: those of a window, 3 of a colour picture, else 1."""
        if self.modality == "window":
            return self.x.shape[1]
        return 3 if self.modality == "picture" and self.x.ndim == 4 else 1

    def __repr__(self) -> str:
        shape = len(self.x) if isinstance(self.x, list) else self.x.shape
        split = f"{int((self.test == 0).sum())} / {int((self.test == 1).sum())}"
        return f"{self.modality} {shape}, {len(self.classes)} classes, train / test {split}"


def save(data: Data, path: Path) -> None:
    """Writes `x` (or `text` with the byte at which each text ends in `ends`), `y`, `test` and the class names."""
    tensors: dict[str, NDArray] = {"y": data.y.astype(np.uint8), "test": data.test.astype(np.uint8)}
    if isinstance(data.x, list):
        parts = [sample.encode() for sample in data.x]
        tensors["text"] = np.frombuffer(b"".join(parts), np.uint8)
        tensors["ends"] = np.cumsum([len(part) for part in parts]).astype(np.int64)
    else:
        tensors["x"] = np.ascontiguousarray(data.x)
    if data.lengths is not None:
        tensors["lengths"] = data.lengths.astype(np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"classes": json.dumps(data.classes)})
    part.chmod(0o644)
    part.replace(path)


def load_file(path: Path) -> Data:
    """What `save` wrote."""
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        classes = json.loads(file.metadata()["classes"])
    x = tensors.get("x")
    if x is None:
        raw, ends = tensors["text"].tobytes(), tensors["ends"]
        starts = np.concatenate([[0], ends[:-1]])
        x = [raw[a:b].decode() for a, b in zip(starts, ends, strict=True)]
    return Data(x, tensors["y"], tensors["test"], classes, tensors.get("lengths"))


def order(seed: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """`rows` in the order of draw `seed`: by the blake3 of "seed row", so that Rust and Python draw alike."""
    keys = [blake3.blake3(f"{seed} {row}".encode()).digest() for row in rows]
    return rows[sorted(range(len(rows)), key=keys.__getitem__)]


def draw(y: NDArray, train: NDArray[np.int64], per_class: int | None, seed: int) -> NDArray[np.int64]:
    """Rows of the first `per_class` training samples of every class in the order of draw `seed`; None takes all."""
    if per_class is None:
        return train
    drawn = [order(seed, train[y[train] == c])[:per_class] for c in np.unique(y[train])]
    return np.sort(np.concatenate(drawn))


def split_half(n: int, salt: str) -> NDArray[np.uint8]:
    """A fixed half of n samples as the test set: the half whose blake3 of "salt row" comes last."""
    keys = [blake3.blake3(f"{salt} {row}".encode()).digest() for row in range(n)]
    ranked = sorted(range(n), key=keys.__getitem__)
    test = np.zeros(n, np.uint8)
    test[ranked[(n + 1) // 2 :]] = 1
    return test


def keep(data: Data, rows: NDArray[np.int64]) -> Data:
    """The given samples only."""
    x = [data.x[row] for row in rows] if isinstance(data.x, list) else data.x[rows]
    lengths = None if data.lengths is None else data.lengths[rows]
    return Data(x, data.y[rows], data.test[rows], data.classes, lengths)


def limit(data: Data, train: int, test: int, salt: str) -> Data:
    """At most so many training and test samples, drawn with the fixed order of `salt`, in the file's order."""
    rows = []
    for held, most in ((0, train), (1, test)):
        found = np.where(data.test == held)[0]
        keys = [blake3.blake3(f"{salt} {row}".encode()).digest() for row in found]
        rows.append(found[sorted(range(len(found)), key=keys.__getitem__)[:most]])
    return keep(data, np.sort(np.concatenate(rows)))
