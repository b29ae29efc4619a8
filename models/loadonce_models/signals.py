"""Generated windows in 24 families, three of them rotating machines.

The families are textbook shapes of plant, process and body-worn sensors. No
evaluation set was looked at, plotted or measured to draw or tune them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import machines
from .draw import F64, Draw
from .preprocess import LENGTH, resample_matrix, standardize


class Batch(NamedTuple):
    """Samples with the axes [template, variant, ...] and one label of each kind per template."""

    x: NDArray[np.float32]
    family: NDArray[np.int64]
    detail: NDArray[np.int64]  # machine fault, glyph or defect; -1 where the family has none
    pitch: NDArray[np.float32]  # log2 of cycles per window or picture; NaN where there is none


def _sine(d: Draw, f: F64, phase: F64) -> F64:
    return np.sin(2 * np.pi * f * d.time + phase)


def _tone(d: Draw) -> tuple:
    f = d.rate(0.7, 40, 0.01)
    return _sine(d, f, d.phase()), np.log2(f)


def _two_tones(d: Draw) -> tuple:
    f, g = d.rate(0.7, 12, 0.01), d.rate(4, 45, 0.01)
    return _sine(d, f, d.phase()) + d.near(0.2, 1.2, 0.05) * _sine(d, g, d.phase()), np.log2(f)


def _harmonics(d: Draw) -> tuple:
    f = d.rate(0.7, 12, 0.01)
    phase, out = d.phase(), 0.0
    for k in range(1, 6):
        out = out + d.near(-1, 1, 0.05) / k * np.sin(k * (2 * np.pi * f * d.time + phase) + d.shared(0, 6.3))
    return out, np.log2(f)


def _rectangle(d: Draw) -> tuple:
    f = d.rate(0.7, 20, 0.01)
    return ((f * d.time + d.phase() / 6.3) % 1 < d.near(0.15, 0.85, 0.03)).astype(float), np.log2(f)


def _triangle(d: Draw) -> tuple:
    f, peak = d.rate(0.7, 20, 0.01), d.near(0.05, 0.95, 0.03)
    u = (f * d.time + d.phase() / 6.3) % 1
    return np.where(u < peak, u / peak, (1 - u) / (1 - peak)), np.log2(f)


def _chirp(d: Draw) -> tuple:
    f, g = d.rate(0.5, 20, 0.01), d.pace * d.near(-12, 25, 0.02)
    return np.sin(2 * np.pi * (f * d.time + g * d.time**2 / 2) + d.phase()), np.log2(f)


def _amplitude(d: Draw) -> tuple:
    f = d.rate(5, 45, 0.01)
    slow = 1 + d.near(0.3, 1, 0.05) * _sine(d, d.near_log(0.5, 5, 0.02), d.phase())
    return slow * _sine(d, f, d.own(0, 6.3)), np.log2(f)


def _frequency(d: Draw) -> tuple:
    f = d.rate(4, 30, 0.01)
    swing = d.near(0.5, 4, 0.05) * _sine(d, d.near_log(0.5, 4, 0.02), d.phase())
    return np.sin(2 * np.pi * f * d.time + swing), np.log2(f)


def _spectrum(d: Draw, gain: F64) -> F64:
    return np.fft.irfft(np.fft.rfft(d.noise(d.size)) * gain, d.size)


def _coloured(d: Draw) -> tuple:
    k = np.maximum(np.arange(d.size // 2 + 1), 1)
    return _spectrum(d, k ** -d.near(0.0, 2.2, 0.03)), None


def _resonant(d: Draw) -> tuple:
    # The spectrum of a second-order autoregression: one pole pair.
    w = np.pi * np.arange(d.size // 2 + 1) / (d.size // 2)
    radius, f = d.near(0.8, 0.99, 0.03), d.rate(2, 60, 0.02)
    pole = radius * np.exp(2j * np.pi * f / d.size)
    z = np.exp(-1j * w)
    return _spectrum(d, np.abs(1 / ((1 - pole * z) * (1 - pole.conj() * z)))), np.log2(f)


def _bumps(d: Draw) -> tuple:
    out = 0.0
    for _ in range(4):
        centre, width = d.near(0, 1, 0.03), d.near_log(0.01, 0.15, 0.05)
        out = out + d.near(-1, 1, 0.05) * np.exp(-0.5 * ((d.time - centre) / width) ** 2)
    return out, None


def _levels(d: Draw) -> tuple:
    out = 0.0
    for _ in range(4):
        height, at = d.near(-1, 1, 0.03), d.near(0, 1, 0.03)
        out = out + height * (at < d.time)
    return out, None


def _response(d: Draw) -> tuple:
    # Second-order lag with dead time, answering one step of the set point.
    since = np.clip(d.time - d.near(0.02, 0.6, 0.02), 0, None)
    zeta, w = d.near(0.08, 0.95, 0.02), 2 * np.pi * d.near_log(1, 15, 0.02)
    damped = w * np.sqrt(1 - zeta**2)
    wave = np.cos(damped * since) + zeta * w / damped * np.sin(damped * since)
    return d.shared(-1, 1) * (1 - np.exp(-zeta * w * since) * wave), None


def _ringdown(d: Draw) -> tuple:
    since, f = d.time - d.near(0.02, 0.7, 0.02), d.rate(3, 45, 0.02)
    return (since > 0) * np.exp(-np.clip(since, 0, None) * d.near_log(2, 30, 0.03)) * np.sin(
        6.283 * f * since
    ), np.log2(f)


def _daily_load(d: Draw) -> tuple:
    # Base load with a few broad daily peaks over one to seven days.
    days = (d.pace * d.shared(1, 7.99)).round().clip(1)
    u = (d.time * days + 0.0) % 1
    out = d.near(-0.3, 0.3, 0.05) * d.time
    for _ in range(3):
        gap = np.abs(u - d.near(0, 1, 0.02))
        out = out + d.near(0.1, 1, 0.04) * np.exp(-0.5 * (np.minimum(gap, 1 - gap) / d.near_log(0.03, 0.2, 0.03)) ** 2)
    return out, np.log2(days)


def _motion(d: Draw) -> tuple:
    # Quasi-periodic movement: cadence wanders, effort swells, and it may pause.
    f = d.rate(1.5, 14, 0.03)
    drift = np.cumsum(d.noise(d.size), -1) * d.shared(0.002, 0.02)
    turn, out = 2 * np.pi * (f * d.time + drift) + d.own(0, 6.3), 0.0
    for k in range(1, 5):
        out = out + d.near(-1, 1, 0.05) / k**0.7 * np.sin(k * turn + d.shared(0, 6.3))
    awake = 1 / (1 + np.exp(-40 * (d.shared(0.15, 0.5) - np.abs(d.time - d.near(0.2, 0.8, 0.1)))))
    swell = 1 + d.shared(0, 0.7) * _sine(d, d.own(0.5, 2.5), d.own(0, 6.3))
    return out * swell * np.where(d.sometimes(0.4) > 0, awake, 1.0) + d.shared(0, 0.4) * d.noise(d.size), np.log2(f)


def _cycles(d: Draw) -> tuple:
    # A machine cycle of random shape, repeated.
    f, knots = d.rate(1, 12, 0.01), d.shared_noise(9)
    u = (f * d.time + d.phase() / 6.3) % 1 * 8
    left = np.floor(u).astype(int)
    knots = np.broadcast_to(knots, (d.templates, d.variants, 9))
    a, b = np.take_along_axis(knots, left, -1), np.take_along_axis(knots, (left + 1) % 8, -1)
    return a + (b - a) * (u - left), np.log2(f)


def _smooth(d: Draw) -> tuple:
    # A random smooth curve: Fourier coefficients that fall with the order.
    out, roll = 0.0, d.shared(0.6, 1.6)
    for k in range(1, 13):
        weight = 1 / k**roll
        a, b = d.shared_noise(1) + 0.1 * d.noise(1), d.shared_noise(1) + 0.1 * d.noise(1)
        out = out + weight * (a * np.cos(np.pi * k * d.time) + b * np.sin(np.pi * k * d.time))
    return out, None


def _polyline(d: Draw) -> tuple:
    at = np.linspace(0, 1, 8)
    height = d.shared_noise(8) + 0.1 * d.noise(8)
    place = np.clip((d.time * 7).astype(int), 0, 6)
    broad = lambda i: np.broadcast_to(i, (d.templates, d.variants, d.size))  # noqa: E731
    a, b = np.take_along_axis(height, broad(place), -1), np.take_along_axis(height, broad(place + 1), -1)
    return a + (b - a) * (d.time - at[place]) * 7, None


def _valve(d: Draw) -> tuple:
    # Stick-slip of a control valve: a sine that is held until it has moved far enough.
    f = d.rate(1, 10, 0.01)
    coarse = d.near(0.15, 0.9, 0.03)
    return np.round(_sine(d, f, d.phase()) / coarse) * coarse, np.log2(f)


def _clipped(d: Draw) -> tuple:
    f = d.rate(1, 15, 0.01)
    wave = _sine(d, f, d.phase()) + d.shared(0, 0.6) * _sine(d, f * d.shared(1.5, 4), d.own(0, 6.3))
    return np.clip(wave, d.near(-1, -0.1, 0.03), d.near(0.1, 1, 0.03)), np.log2(f)


FAMILIES: tuple[Callable[[Draw], tuple], ...] = (
    _tone, _two_tones, _harmonics, _rectangle, _triangle, _chirp, _amplitude, _frequency,
    _coloured, _resonant, _bumps, _levels, _response, _ringdown, _daily_load, _motion,
    _cycles, _smooth, _polyline, _valve, _clipped, machines.bearing, machines.gear, machines.shaft,
)  # fmt: skip


# Few enough that their resampling matrices stay cached.
_COARSE = np.geomspace(20, 160, 16)


def _warp(x: F64, rng: np.random.Generator, strength: float) -> F64:
    """Stretch and squeeze time smoothly, keeping both ends."""
    size = x.shape[-1]
    rate = np.exp(strength * rng.normal(size=(len(x), 5)))
    pace = rate @ resample_matrix(5, size).T
    at = np.cumsum(pace, -1)
    at = (at - at[:, :1]) / (at[:, -1:] - at[:, :1]) * (size - 1)
    left = np.minimum(at.astype(int), size - 2)
    a, b = np.take_along_axis(x, left, 1), np.take_along_axis(x, left + 1, 1)
    return a + (b - a) * (at - left)


def _spoil(x: F64, d: Draw) -> F64:
    """What a real sensor adds to every variant: warped time, trend, bumps, coarse sampling, noise."""
    x = standardize(x, (-1,)).reshape(-1, d.size)
    rng = d.rng
    rows = np.where(rng.random(len(x)) < 0.6)[0]
    x[rows] = _warp(x[rows], rng, 0.25)
    x = x.reshape(d.templates, d.variants, d.size)
    x = x + d.sometimes_own(0.3) * d.own(-1, 1) * (d.time - 0.5) * 2
    centre, width = d.own(0, 1), d.own_log(0.02, 0.2)
    x = x + d.sometimes_own(0.25) * d.own(-1, 1) * np.exp(-0.5 * ((d.time - centre) / width) ** 2)
    x = x + d.noise(d.size) * d.own_log(0.005, 0.35)
    # Slow sensors deliver few points, which pre-processing joins by straight lines.
    for template in np.where(rng.random(d.templates) < 0.35)[0]:
        points = int(d.pace * rng.choice(_COARSE))
        down = resample_matrix(d.size, points)
        x[template] = x[template] @ (resample_matrix(points, d.size) @ down).T
    return x


def windows(
    rng: np.random.Generator, templates: int, variants: int, length: int = LENGTH, pace: float = 1.0
) -> Batch:
    """A batch of generated windows, standardized: x is [templates, variants, length]."""
    family = np.sort(rng.integers(0, len(FAMILIES), templates))
    x = np.empty((templates, variants, length))
    detail = np.full(templates, -1, np.int64)
    pitch = np.full(templates, np.nan, np.float32)
    for k in np.unique(family):
        rows = family == k
        d = Draw(rng, int(rows.sum()), variants, length, pace)
        signal, tone, *fault = FAMILIES[k](d)
        x[rows] = signal
        if tone is not None:
            pitch[rows] = np.broadcast_to(tone, (d.templates, tone.shape[1], 1)).mean((1, 2))
        if fault:
            detail[rows] = fault[0]
    x = standardize(_spoil(x, Draw(rng, templates, variants, length, pace)), (-1,))
    return Batch(x.astype(np.float32), family, detail, pitch)
