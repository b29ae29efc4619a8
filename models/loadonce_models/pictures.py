"""Generated pictures in 14 families: surfaces with and without defects, shapes, characters.

No evaluation set was looked at, plotted or measured to draw or tune them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import glyphs
from .draw import F64, Draw
from .preprocess import SIDE, resample_matrix, standardize
from .signals import Batch

DEFECTS = ("none", "scratch", "spot", "crack", "patch")


def _turned(d: Draw, jitter: float = 0.03) -> tuple[F64, F64]:
    a = d.near(0, np.pi, jitter)
    return d.x * np.cos(a) + d.y * np.sin(a), -d.x * np.sin(a) + d.y * np.cos(a)


def _filtered(d: Draw, gain: F64) -> F64:
    return np.real(np.fft.ifft2(np.fft.fft2(d.noise(d.size, d.size)) * gain))


def _grating(d: Draw) -> tuple:
    f = d.rate(0.8, 9, 0.02)
    wave = np.sin(np.pi * f * _turned(d)[0] + d.own(0, 6.3))
    return np.tanh(wave * d.near_log(0.5, 8, 0.05)), np.log2(f)


def _plaid(d: Draw) -> tuple:
    f, (u, v) = d.rate(0.8, 8, 0.02), _turned(d)
    mix = d.near(0, 1, 0.05)
    a, b = np.sin(np.pi * f * u + d.own(0, 6.3)), np.sin(np.pi * f * d.near(0.5, 2, 0.02) * v + d.own(0, 6.3))
    return mix * a * b + (1 - mix) * (a + b), np.log2(f)


def _fractal(d: Draw) -> tuple:
    angle = d.frequency_angle - d.near(0, np.pi, 0.03)
    return _filtered(d, d.frequency ** -d.near(0.2, 2.4, 0.03) * (1 + d.near(0, 4, 0.03) * np.cos(angle) ** 4)), None


def _band(d: Draw) -> tuple:
    # Frequencies in cycles per pixel of the usual side, stretched with the picture.
    stretch = SIDE / d.size
    f, width = d.rate(0.04, 0.4, 0.02) * stretch, d.pace * d.near(0.02, 0.08, 0.05) * stretch
    return _filtered(d, np.exp(-0.5 * ((d.frequency - f) / width) ** 2)), np.log2(f * d.size)


def _weave(d: Draw) -> tuple:
    f, (u, v) = d.rate(2, 9, 0.02), _turned(d)
    u, v = f * u + d.own(0, 9), f * v + d.own(0, 9)
    over = (np.floor(u) + np.floor(v) * d.choice(3)) % 2
    thread = np.where(over > 0, np.abs(np.sin(np.pi * u)), d.near(0.2, 1, 0.05) * np.abs(np.sin(np.pi * v)))
    return thread, np.log2(f)


def _cells(d: Draw) -> tuple:
    # Grains: distance to the nearest and second nearest of random centres.
    near, next_ = np.full((2, d.templates, d.variants, d.size, d.size), 9.0)
    count = d.choice(20) + 4
    for k in range(24):
        gap = np.where(k < count, np.hypot(d.x - d.own(-1.1, 1.1), d.y - d.own(-1.1, 1.1)), 9.0)
        next_ = np.minimum(next_, np.maximum(near, gap))
        near = np.minimum(near, gap)
    walls = np.exp(-(next_ - near) / d.near_log(0.03, 0.15, 0.05))
    return np.where(d.sometimes(0.5) > 0, walls, near), None


def _blobs(d: Draw) -> tuple:
    out, size = 0.0, d.near_log(0.05, 0.3, 0.05)
    sign = np.where(d.sometimes(0.5) > 0, 1.0, 0.0)
    for _ in range(10):
        weight = np.where(sign > 0, 1.0, np.sign(d.own(-1, 1)))
        out = out + weight * np.exp(-0.5 * ((d.x - d.own(-1, 1)) ** 2 + (d.y - d.own(-1, 1)) ** 2) / size**2)
    return out, None


def _placed_blobs(d: Draw) -> tuple:
    out = 0.0
    for _ in range(5):
        x, y, size = d.near(-0.8, 0.8, 0.04), d.near(-0.8, 0.8, 0.04), d.near_log(0.08, 0.4, 0.05)
        out = out + d.near(-1, 1, 0.05) * np.exp(-0.5 * ((d.x - x) ** 2 + (d.y - y) ** 2) / size**2)
    return out, None


def _outline(d: Draw) -> tuple:
    # Machined parts: rounded polygons, filled or as a ring, sometimes with a bore.
    x, y = d.x - d.own(-0.2, 0.2), d.y - d.own(-0.2, 0.2)
    x = x * d.near_log(0.7, 1.5, 0.03)
    angle, corners = np.arctan2(y, x) + d.own(-0.4, 0.4), d.choice(5) + 2
    radius = np.hypot(x, y) * (1 + d.near(0, 0.3, 0.05) * np.cos(corners * angle))
    edge, size = d.near_log(8, 40, 0.05), d.near(0.35, 0.8, 0.04)
    disc = 1 / (1 + np.exp(np.clip(edge * (radius - size), -30, 30)))
    bore = 1 / (1 + np.exp(np.clip(edge * (radius - size * d.near(0.3, 0.8, 0.03)), -30, 30)))
    return disc - d.sometimes(0.6) * bore, None


def _edge(d: Draw) -> tuple:
    u, v = _turned(d)
    bend = u + d.near(-1, 1, 0.04) * v * v - d.near(-0.6, 0.6, 0.04)
    return np.tanh(bend * d.near_log(1, 20, 0.05)), None


def _brushed(d: Draw) -> tuple:
    angle = d.frequency_angle - d.near(0, np.pi, 0.02)
    grain = np.exp(-((np.sin(angle) / d.near_log(0.05, 0.4, 0.05)) ** 2))
    return _filtered(d, grain * d.frequency ** -d.near(0.0, 1.2, 0.03)), None


def _lattice(d: Draw) -> tuple:
    # Round dots on a grid: perforated sheet, solder pads.
    f, (u, v) = d.rate(1.5, 6, 0.02), _turned(d)
    a = (f * u + d.own(0, 1)) % 1 - 0.5
    b = (f * v + d.own(0, 1)) % 1 - 0.5
    return (np.hypot(a, b) < d.near(0.15, 0.45, 0.03)).astype(float), np.log2(f)


_SURFACES: tuple[Callable[[Draw], tuple], ...] = (
    _grating, _plaid, _fractal, _band, _weave, _cells, _blobs, _placed_blobs, _outline, _edge, _brushed, _lattice,
)  # fmt: skip
STROKES, CHARACTERS = len(_SURFACES), len(_SURFACES) + 1
FAMILIES = len(_SURFACES) + 2
# Drawings get more than their share: they have the most classes to tell apart.
_SHARE = np.array([0.052] * len(_SURFACES) + [0.156, 0.22])
DETAILS = len(glyphs.CHARACTERS) + len(DEFECTS)


def _with_defect(x: F64, d: Draw) -> tuple[F64, np.ndarray]:
    """Adds one defect of the template's kind to every variant, each in its own place."""
    kind = np.where(d.sometimes(0.5) > 0, d.choice(len(DEFECTS) - 1) + 1, 0)
    u, v = d.x - d.own(-0.6, 0.6), d.y - d.own(-0.6, 0.6)
    a = d.own(0, np.pi)
    u, v = u * np.cos(a) + v * np.sin(a), -u * np.sin(a) + v * np.cos(a)
    length, width = d.own(0.25, 0.8), d.own_log(0.03, 0.09)
    inside = 1 / (1 + np.exp(np.clip(20 * (np.abs(u) - length), -30, 30)))
    scratch = inside * np.exp(-0.5 * (v / width) ** 2)
    spot = np.exp(-0.5 * (u**2 + (v * d.own(0.6, 1.6)) ** 2) / d.own_log(0.07, 0.25) ** 2)
    jag = 0.1 * (d.noise(d.size, 6) @ resample_matrix(6, d.size).T)
    crack = inside * np.exp(-0.5 * ((v + jag) / width) ** 2)
    patch = 1 / (1 + np.exp(np.clip(25 * (np.maximum(np.abs(u), np.abs(v)) - length / 2), -30, 30)))
    mark = np.select([kind == 1, kind == 2, kind == 3, kind == 4], [scratch, spot, crack, patch], 0.0)
    sign = np.where(d.sometimes(0.5) > 0, 1.0, -1.0)
    # A patch loses the surface's own pattern; the other defects lie on top of it.
    x = np.where(kind == 4, x * (1 - mark), x)
    return x + sign * d.own(1.5, 4.5) * mark, kind[:, 0, 0, 0]


def _spoil(x: F64, d: Draw, drawing: np.ndarray) -> F64:
    """What a camera adds to every variant: uneven light, noise, inversion, few pixels."""
    x = standardize(x, (-2, -1))
    a = d.own(0, 2 * np.pi)
    x = x + d.sometimes_own(0.4) * d.own(0, 0.8) * (d.x * np.cos(a) + d.y * np.sin(a))
    x = x + d.noise(d.size, d.size) * d.own_log(0.01, 0.4)
    x = x * np.where(d.rng.random(d.templates) < 0.3, -1.0, 1.0)[:, None, None, None]
    coarse = d.rng.random(d.templates) < np.where(drawing, 0.6, 0.3)
    for template in np.where(coarse)[0]:
        side = int(d.pace * d.rng.integers(8, 25))
        m = resample_matrix(side, d.size) @ resample_matrix(d.size, side)
        x[template] = m @ x[template] @ m.T
    return x


def pictures(
    rng: np.random.Generator, templates: int, variants: int, side: int = SIDE, pace: float = 1.0
) -> Batch:
    """A batch of generated pictures, standardized: x is [templates, variants, side, side]."""
    family = np.sort(rng.choice(FAMILIES, templates, p=_SHARE / _SHARE.sum()))
    x = np.empty((templates, variants, side, side))
    detail = np.full(templates, -1, np.int64)
    pitch = np.full(templates, np.nan, np.float32)
    for k in np.unique(family):
        rows = family == k
        d = Draw(rng, int(rows.sum()), variants, side, pace, dims=2)
        if k == CHARACTERS:
            x[rows], detail[rows] = glyphs.characters(d)
        elif k == STROKES:
            x[rows] = glyphs.strokes(d)
        else:
            surface, tone = _SURFACES[k](d)
            x[rows], defect = _with_defect(standardize(surface, (-2, -1)), d)
            detail[rows] = len(glyphs.CHARACTERS) + defect
            if tone is not None:
                pitch[rows] = tone.mean((1, 2, 3))
    x = standardize(_spoil(x, Draw(rng, templates, variants, side, pace, dims=2), family >= STROKES), (-2, -1))
    return Batch(x.astype(np.float32), family, detail, pitch)
