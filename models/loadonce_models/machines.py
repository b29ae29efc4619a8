"""Vibration of generated rotating machines: shaft orders, gears and rolling bearings.

Bearing defect frequencies follow the usual kinematic formulas (see for example
Randall and Antoni, "Rolling element bearing diagnostics: a tutorial", MSSP 25,
2011, section 2): with n rolling elements, ratio q = d/D * cos(contact angle)
and shaft frequency f, the outer race is hit at n f (1 - q) / 2, the inner race
at n f (1 + q) / 2 and a rolling element spins at f D/d (1 - q^2) / 2.
"""

from __future__ import annotations

import numpy as np

from .draw import F64, Draw

# Labels of the machine fault, shared by all families of this file.
FAULTS = ("none", "outer", "inner", "ball", "tooth", "imbalance")


def _impulses(d: Draw, rate: F64, slip: F64, resonance: F64, decay: F64) -> F64:
    """Decaying resonances that start at a rate with random slip: [templates, variants, size]."""
    hits = int(np.ceil(rate.max())) + 4
    gap = (1.0 + slip * d.noise(hits)) / rate
    start = np.cumsum(gap, -1) - gap[..., :1] * d.own(0.0, 3.0)
    since = d.time - start[..., None]
    # Before its start an impulse is silent; the clip keeps exp finite there.
    ring = np.exp(-np.clip(since, 0, None) * decay[..., None]) * (since >= 0)
    return (ring * np.sin(2 * np.pi * resonance[..., None] * since)).sum(-2)


def _shaft(d: Draw, f: F64, orders: int) -> F64:
    """Harmonics of the shaft with a template's own amplitudes and phases."""
    amplitude = np.abs(d.shared_noise(orders)) / np.arange(1, orders + 1)
    phase = d.rng.uniform(0, 2 * np.pi, (d.templates, 1, orders))
    start = d.own(0, 1)
    turns = f * d.time + start
    out = np.zeros((d.templates, d.variants, d.size))
    for k in range(orders):
        out += amplitude[..., k : k + 1] * np.sin(2 * np.pi * (k + 1) * turns + phase[..., k : k + 1])
    return out


def bearing(d: Draw) -> tuple[F64, F64, np.ndarray]:
    """A bearing with no, an outer, an inner or a ball fault: signal, log2 of shaft rate, fault."""
    f = d.rate(2.0, 12.0, 0.02)
    n, q = d.shared(7, 12).round(), d.shared(0.15, 0.35)
    fault = d.choice(4)
    outer, inner, ball = n * f * (1 - q) / 2, n * f * (1 + q) / 2, f / q * (1 - q * q) / 2
    rate = np.select([fault == 2, fault == 3], [inner, ball], outer)
    rate = np.minimum(rate, 46.0 * d.pace)
    hit = _impulses(d, rate, d.shared(0.005, 0.02), d.pace * d.shared(30, 110), d.pace * d.shared_log(25, 150))
    # The inner race and the balls pass through the load zone, so they are modulated.
    cage = f / 2 * (1 - q)
    turning = np.where(fault == 2, f, cage)
    load = 1 + np.where(fault >= 2, d.shared(0.5, 1.0), 0.0) * np.sin(2 * np.pi * turning * d.time + d.own(0, 6.3))
    strength = np.where(fault > 0, d.near_log(0.6, 4.0, 0.1), 0.0)
    signal = strength * load * hit + d.shared(0.1, 0.8) * _shaft(d, f, 3) + 0.3 * d.noise(d.size)
    return signal, np.log2(f), fault[:, 0, 0]


def gear(d: Draw) -> tuple[F64, F64, np.ndarray]:
    """Meshing harmonics with shaft sidebands; a broken tooth knocks once per turn."""
    f = d.rate(2.0, 8.0, 0.02)
    teeth = d.shared(6, 14).round()
    turns = f * d.time + d.own(0, 1)
    fault = (d.sometimes(0.5) * 4).astype(np.int64)
    wear = 1 + d.shared(0.0, 0.9) * np.cos(2 * np.pi * turns)
    mesh = np.sin(2 * np.pi * teeth * turns) + d.shared(0, 0.6) * np.sin(4 * np.pi * teeth * turns + 1.0)
    knock = _impulses(d, f, d.shared(0.001, 0.01), d.pace * d.shared(25, 90), d.pace * d.shared_log(20, 80))
    strength = np.where(fault == 4, d.near_log(0.8, 4.0, 0.1), 0.0)
    return wear * mesh + strength * knock + d.shared(0.05, 0.4) * d.noise(d.size), np.log2(f), fault[:, 0, 0]


def shaft(d: Draw) -> tuple[F64, F64, np.ndarray]:
    """Shaft orders; imbalance raises the first one."""
    f = d.rate(1.5, 20.0, 0.02)
    fault = (d.sometimes(0.5) * 5).astype(np.int64)
    once = np.sin(2 * np.pi * (f * d.time + d.own(0, 1)))
    strength = np.where(fault == 5, d.shared(1.0, 4.0), 0.2)
    signal = _shaft(d, f, 5) + strength * once + d.shared(0.05, 0.6) * d.noise(d.size)
    return signal, np.log2(f), fault[:, 0, 0]
