"""Line drawings: rendered characters and invented strokes, as distances to ink.

Working on distances rather than ink lets one drawing be thick or thin, sharp or
blurred. The characters come from Pillow's built-in scalable font.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from .draw import F64, Draw
from .preprocess import resample_matrix

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ATLAS_SIDE = 64


@lru_cache(maxsize=1)
def _atlas() -> F64:
    """Signed distance to the ink of every character, in half-widths: [characters, side, side]."""
    side, inner = _ATLAS_SIDE, 46
    font = ImageFont.load_default(size=96)
    pages = []
    for character in CHARACTERS:
        canvas = Image.new("L", (192, 192))
        ImageDraw.Draw(canvas).text((48, 30), character, fill=255, font=font)
        box = canvas.getbbox()
        if box is None:
            raise RuntimeError(f"the built-in font draws nothing for {character!r}")
        glyph = canvas.crop(box)
        scale = inner / max(glyph.size)
        glyph = glyph.resize([max(2, round(s * scale)) for s in glyph.size], Image.Resampling.LANCZOS)
        page = Image.new("L", (side, side))
        page.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        ink = np.asarray(page) > 127
        pages.append((distance_transform_edt(~ink) - distance_transform_edt(ink)) * 2 / side)
    return np.array(pages)


def _bent_grid(d: Draw) -> tuple[F64, F64]:
    """Sampling coordinates under a random affine map and a smooth displacement."""
    turn = d.own(-0.25, 0.25)
    wide, high, slant = d.own_log(0.7, 1.6), d.own_log(0.65, 1.3), d.own(-0.35, 0.35)
    x, y = d.x - d.own(-0.15, 0.15), d.y - d.own(-0.15, 0.15)
    u = (np.cos(turn) * x + np.sin(turn) * y) * wide + slant * y
    v = (-np.sin(turn) * x + np.cos(turn) * y) * high
    up = resample_matrix(5, d.size)
    strength = d.own(0.0, 0.12)
    bend = lambda: strength * (up @ d.noise(5, 5) @ up.T)  # noqa: E731
    return u + bend(), v + bend()


def _inked(d: Draw, distance: F64) -> F64:
    """Distance to ink intensity, with a variant's own pen and sharpness."""
    soft = d.own_log(0.03, 0.12)
    return 1 / (1 + np.exp(np.clip((distance - d.own(-0.03, 0.12)) / soft, -30, 30)))


def characters(d: Draw) -> tuple[F64, np.ndarray]:
    """Rendered characters and their index in CHARACTERS, one per template."""
    index = d.rng.integers(0, len(CHARACTERS), d.templates)
    u, v = _bent_grid(d)
    top = _ATLAS_SIDE - 1.001
    col, row = np.clip((u + 1) / 2 * top, 0, top), np.clip((v + 1) / 2 * top, 0, top)
    i, j = row.astype(int), col.astype(int)
    a, b = row - i, col - j
    page, at = _atlas(), index[:, None, None, None]
    distance = (1 - a) * ((1 - b) * page[at, i, j] + b * page[at, i, j + 1])
    distance += a * ((1 - b) * page[at, i + 1, j] + b * page[at, i + 1, j + 1])
    return _inked(d, distance), index


def strokes(d: Draw) -> F64:
    """Invented characters: one to four curved strokes, redrawn by an unsteady hand."""
    u, v = _bent_grid(d)
    count = d.choice(4) + 1
    s = np.linspace(0, 1, 12)
    basis = np.stack([(1 - s) ** 2, 2 * s * (1 - s), s**2])
    best = np.full(u.shape, 9.0)
    for k in range(4):
        knots = d.rng.uniform(-0.8, 0.8, (d.templates, 1, 2, 3)) + 0.07 * d.noise(2, 3)
        curve = knots @ basis
        for p in range(len(s)):
            gap = np.hypot(u - curve[:, :, 0, p, None, None], v - curve[:, :, 1, p, None, None])
            best = np.where(k < count, np.minimum(best, gap), best)
    return _inked(d, best - 0.06)
