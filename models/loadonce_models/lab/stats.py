"""Means, spreads and intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 of a single value."""
    if len(values) < 2:
        return 0.0
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1))


def interval(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean with its 95 % interval by Student's t; None below two values."""
    if len(values) < 2:
        return None
    df = len(values) - 1
    t = _T[df - 1] if df <= len(_T) else 1.96 + 2.37 / df + 2.8 / df**2
    half = t * spread(values) / math.sqrt(len(values))
    return mean(values), mean(values) - half, mean(values) + half


def paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float] | None:
    """Interval of a − b, draw by draw; None where the draws are all the same, as of a set with too few samples."""
    gaps = [x - y for x, y in zip(a, b, strict=True)]
    return interval(gaps) if len(set(gaps)) > 1 else None
