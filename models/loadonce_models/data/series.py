"""Real series to forecast, as one regular sequence each. What is asked of them stands in models/protocol.toml."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from .archives import text

F64 = NDArray[np.float64]


def _rows(archive: str, path: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text(archive, path))))[1:]


def airline() -> F64:
    """International airline passengers, thousands a month, 1949-1960 (Box and Jenkins)."""
    return np.array([float(row[1]) for row in _rows("aeon", "aeon/datasets/data/Airline/Airline.csv")])


def scripts() -> F64:
    """Prescriptions of corticosteroids paid by Australia's PBS, a month, July 1991 to June 2008."""
    return np.array([float(row[1]) for row in _rows("aeon", "aeon/datasets/data/PBS_dataset/PBS_dataset.csv")])


def solar() -> F64:
    """Solar generation of Great Britain relative to capacity, half-hourly, six days of May 2021."""
    return np.array([float(row[1]) for row in _rows("aeon", "aeon/datasets/data/solar/solar.csv")])


def co2() -> F64:
    """CO2 at Mauna Loa, ppm: monthly means of the weekly values, March 1958 to December 2001; gaps filled linearly."""
    months: dict[int, list[float]] = {}
    for date, value in _rows("statsmodels", "statsmodels/datasets/co2/co2.csv"):
        if value not in ("", "NA", "nan"):
            months.setdefault(int(date[:4]) * 12 + int(date[4:6]) - 1, []).append(float(value))
    known = np.array(sorted(months))
    means = np.array([np.mean(months[month]) for month in known])
    return np.interp(np.arange(known[0], known[-1] + 1), known, means)


def sunspots() -> F64:
    """Yearly sunspot numbers, 1700-2008."""
    return np.array([float(row[1]) for row in _rows("statsmodels", "statsmodels/datasets/sunspots/sunspots.csv")])


def sea() -> F64:
    """Sea surface temperature of the eastern Pacific (Nino 1+2), degrees, monthly, 1950-2010."""
    return np.array(
        [float(v) for row in _rows("statsmodels", "statsmodels/datasets/elnino/elnino.csv") for v in row[1:]]
    )


def equipment() -> F64:
    """Turnover index of electrical equipment in the euro area, monthly from January 1995."""
    rows = _rows("statsmodels", "statsmodels/datasets/elec_equip/elec_equip.csv")
    dates = [datetime.strptime(row[0], "%b-%d-%Y") for row in rows]
    if dates != sorted(dates):
        raise ValueError("the months of elec_equip.csv are not in order")
    return np.array([float(row[1]) for row in rows])


def demand() -> F64:
    """Electricity demand of England and Wales, MW, half-hourly, 5 June to 27 August 2000 (Taylor 2003)."""
    body = text("pmdarima", "pmdarima/datasets/taylor.py").split("return")[0:]
    numbers = max(re.findall(r"\[[\d\s.,]+\]", "return".join(body)), key=len)
    return np.array([float(v) for v in re.findall(r"\d+(?:\.\d+)?", numbers)])


SERIES: dict[str, Callable[[], F64]] = {
    "airline": airline,
    "co2": co2,
    "demand": demand,
    "equipment": equipment,
    "scripts": scripts,
    "sea": sea,
    "solar": solar,
    "sunspots": sunspots,
}
