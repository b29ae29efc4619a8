"""Fetches the real data sets into the cache and writes the small committed ones.

    python -m loadonce_models.fetch_data

Used for evaluation, examples and tests only. Nothing here may be imported by
the generators or by pretraining. Sources and licences: models/data/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from . import data
from .data import Data
from .data.anomalies import WATCHED
from .data.series import SERIES as TO_FORECAST

# The sets of the first model card, by the archive's names.
SERIES = ("GunPoint", "BasicMotions", "ItalyPowerDemand", "ArrowHead", "OSULeaf")
_BY_ARCHIVE = dict(zip(SERIES, ("gunpoint", "motion", "italy-power", "arrowhead", "osuleaf"), strict=True))


def load(name: str) -> Data:
    """A labelled set by its name, or by that of the UCR/UEA archive."""
    return data.load(_BY_ARCHIVE.get(name, name))


def demand_table() -> str:
    """The series `demand` as a table, its half hours as seconds since 1970, taken for UTC."""
    start = int(datetime(2000, 6, 5, tzinfo=UTC).timestamp())
    rows = (f"{start + 1800 * i},{value:.0f}" for i, value in enumerate(TO_FORECAST["demand"]()))
    return "\n".join(["time,MW", *rows]) + "\n"


def main() -> None:
    for name in data.COMMITTED + data.BENCHED:
        data.save(data.make(name), data.FOLDER / f"{name}.safetensors")
    (data.FOLDER / "demand.csv").write_text(demand_table())
    missing = []
    shown: dict[str, Callable[[], object]] = {name: partial(data.load, name) for name in data.LABELLED}
    shown |= {name: lambda make=make: f"series of {len(make())} values" for name, make in TO_FORECAST.items()}
    shown |= {name: lambda make=make: f"to watch: {make().data}" for name, make in WATCHED.items()}
    for name, make in shown.items():
        try:
            print(f"{name}: {make()}", flush=True)
        except data.Unavailable as error:
            missing.append(name)
            print(f"{name}: {error}")
    if missing:
        print(f"not to be had here, and left out of reports: {', '.join(missing)}")


if __name__ == "__main__":
    main()
