"""What is measured, read from models/protocol.toml, and the task manifests that follow from it."""

from __future__ import annotations

import json
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

import blake3

from ..data import MODELS, Data
from .backbones import Bundle

PATH = MODELS / "protocol.toml"
# What `input` of a task manifest takes from the protocol.
_KEYS = {"window": ("points", "levels", "range"), "picture": ("side", "colour", "levels"), "text": ()}


@lru_cache
def protocol() -> dict[str, Any]:
    """The whole file."""
    return tomllib.loads(PATH.read_text())


def digest(*parts: object) -> str:
    """Names a cached result by everything it depends on."""
    return blake3.blake3(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _value(value: object) -> str:
    if isinstance(value, dict):
        return _table(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(part) for part in value) + "]"
    # JSON's numbers, texts and booleans are TOML's.
    return json.dumps(value)


def _table(values: dict[str, object]) -> str:
    return "{ " + ", ".join(f"{key} = {_value(value)}" for key, value in values.items()) + " }"


def input_of(spec: dict[str, Any], data: Data, bundle: Bundle) -> dict[str, object]:
    """The manifest's `input` for a set on a backbone."""
    modality = spec["modality"]
    out: dict[str, object] = {"modality": modality}
    if modality == "window":
        out["channels"] = data.channels
    out |= {key: spec[key] for key in _KEYS[modality] if key in spec}
    return out | {key: bundle.fit(key, spec[key]) for key in ("points", "side") if key in out}


def _task(name: str, kind: str, bundle: Bundle, tables: dict[str, object], test: int = 0, patience: int = 0) -> str:
    """`test` is the number of test samples, half of which calibrate early exits; 0 where that is no matter."""
    fixed = protocol()["classify"]
    few = 0 < test // 2 < fixed["exits"]["few"]
    share = fixed["exits"]["few_disagreement" if few else "max_disagreement"]
    exits = {"max_disagreement": share, "confidence": fixed["exits"]["confidence"]}
    training = {key: fixed[key] for key in ("epochs", "batch", "learning_rate", "weight_decay", "dropout")}
    # The same everywhere: no set has its own training.
    values = {"name": name, "kind": kind, "backbone": bundle.name, **tables}
    values |= {"exits": exits, "training": training | {"patience": patience}}
    return "".join(f"{key} = {_table(v) if isinstance(v, dict) else _value(v)}\n" for key, v in values.items())


def manifest(name: str, spec: dict[str, Any], data: Data, bundle: Bundle) -> str:
    """A classify task as `loadonce evaluate` reads it."""
    fixed = protocol()["classify"]
    module = {"kind": "moments", "rank": fixed["rank"], "features": fixed["features"]}
    tables = {"classes": data.classes, "input": input_of(spec, data, bundle), "module": module}
    return _task(name, "classify", bundle, tables, int(data.test.sum()))


def forecast_manifest(name: str, spec: dict[str, Any], bundle: Bundle, step_s: float, projected: int) -> str:
    """A forecast task with so many numbers of the backbone beside its lags and calendar."""
    taken = {"modality": "window", "channels": 1, "points": bundle.fit("points", spec["points"])}
    table: dict[str, object] = {key: spec[key] for key in ("horizon", "season")}
    table |= {"quantiles": protocol()["forecast"]["quantiles"], "step_s": step_s}
    if spec["calendar"]:
        table["calendar"] = [{"period": int(period), "harmonics": 1} for period in spec["calendar"]]
    lags = {1, spec["season"] + 1} | {spec["season"] - h % spec["season"] for h in range(spec["horizon"])}
    patience = protocol()["forecast"]["patience"]
    module = {"kind": "moments", "features": projected + len(lags) + 2 * len(spec["calendar"])}
    return _task(name, "forecast", bundle, {"input": taken, "module": module, "forecast": table}, patience=patience)


def anomaly_manifest(name: str, spec: dict[str, Any], data: Data, bundle: Bundle) -> str:
    """An anomaly task."""
    fixed = protocol()["anomaly"]
    module = {"kind": "moments", "rank": protocol()["classify"]["rank"], "features": fixed["features"]}
    table = {"false_alarms": fixed["false_alarms"]}
    return _task(name, "anomaly", bundle, {"input": input_of(spec, data, bundle), "module": module, "anomaly": table})


def write_if_new(path: Path, text: str) -> None:
    """Writes a text file; one that is the same keeps its time."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
