"""Labelled pictures, grey and colour."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from .archives import names, read, text
from .store import Data, split_half

PATCH = 32


def _picture(archive: str, path: str, mode: str) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(read(archive, path))).convert(mode))


def digits() -> Data:
    """scikit-learn's 8x8 digits, 0..16 stretched to 0..255; the last 797 are the test set."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = np.rint(raw.images * 255 / 16).astype(np.uint8)
    test = (np.arange(len(x)) >= len(x) - 797).astype(np.uint8)
    return Data(x, raw.target.astype(np.uint8), test, [str(k) for k in range(10)])


def faces() -> Data:
    """100 faces and 100 other cut-outs of 25x25 pixels; the last 50 of each are the test set."""
    raw = np.load(io.BytesIO(read("scikit-image", "skimage/data/lfw_subset.npy")))
    row = np.arange(len(raw))
    x = np.rint(raw * 255).astype(np.uint8)
    return Data(x, (row >= 100).astype(np.uint8), (row % 100 >= 50).astype(np.uint8), ["face", "other"])


def _patches(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All whole patches of a photograph, and which lie in its right half, which is the test set."""
    rows, columns = picture.shape[0] // PATCH, picture.shape[1] // PATCH
    corners = [(r * PATCH, c * PATCH) for r in range(rows) for c in range(columns)]
    x = np.stack([picture[r : r + PATCH, c : c + PATCH] for r, c in corners])
    return x, np.array([c >= columns // 2 * PATCH for _, c in corners], np.uint8)


def _photographs(files: list[str], mode: str) -> Data:
    parts = [_patches(_picture("scikit-image", f"skimage/data/{file}", mode)) for file in files]
    y = np.repeat(np.arange(len(files), dtype=np.uint8), [len(x) for x, _ in parts])
    x, test = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Data(x, y, test, [file.rsplit(".", 1)[0] for file in files])


def textures() -> Data:
    """Brick, grass and gravel: 32x32 patches, left half of each photograph to train on, right half to test."""
    return _photographs(["brick.png", "grass.png", "gravel.png"], "L")


def scenes() -> Data:
    """Which of eight colour photographs a 32x32 patch is from; split as `textures`."""
    files = ["astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "ihc.png"]
    return _photographs([*files, "motorcycle_left.png", "retina.jpg", "rocket.jpg"], "RGB")


ICON_FOLDERS = ("actions", "apps", "categories", "devices", "mimetypes", "places", "status")


def icons() -> Data:
    """Colour icons of 48x48 pixels on white by the folder they are in; a fixed half is the test set."""
    from PIL import Image

    pictures, y, seen = [], [], set()
    for label, folder in enumerate(ICON_FOLDERS):
        prefix = f"./usr/share/icons/gnome/48x48/{folder}/"
        for path in names("gnome-icons"):
            if not (path.startswith(prefix) and path.endswith(".png")):
                continue
            try:
                raw = read("gnome-icons", path)
            except KeyError:
                continue  # a link to another package's file
            if raw in seen:
                continue  # the same picture under a second name
            seen.add(raw)
            picture = Image.open(io.BytesIO(raw)).convert("RGBA")
            if picture.size != (48, 48):
                continue
            white = Image.new("RGBA", picture.size, "white")
            pictures.append(np.asarray(Image.alpha_composite(white, picture).convert("RGB")))
            y.append(label)
    return Data(np.stack(pictures), np.array(y, np.uint8), split_half(len(y), "icons"), list(ICON_FOLDERS))


def cells() -> Data:
    """Electroluminescence pictures of solar cells, halved to 150x150; those the experts were unsure of are left out."""
    pictures, y = [], []
    for line in text("elpv", "elpv_dataset/data/labels.csv").splitlines():
        path, probability, _ = line.split()
        if probability not in ("0.0", "1.0"):
            continue
        whole = _picture("elpv", f"elpv_dataset/data/{path}", "L").astype(np.uint16)
        pictures.append((whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2] + 2) // 4)
        y.append(int(probability == "1.0"))
    x = np.stack(pictures).astype(np.uint8)
    return Data(x, np.array(y, np.uint8), split_half(len(y), "cells"), ["functional", "defective"])
