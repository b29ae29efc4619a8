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
    # JSON's numbers, texts, lists and booleans are TOML's.
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


def manifest(name: str, spec: dict[str, Any], data: Data, bundle: Bundle) -> str:
    """A classify task as `loadonce evaluate` reads it."""
    fixed = protocol()["classify"]
    module = {"kind": "moments", "rank": fixed["rank"], "features": fixed["features"]}
    exits = {key: fixed["exits"][key] for key in ("max_disagreement", "confidence")}
    training = {key: fixed[key] for key in ("epochs", "batch", "learning_rate", "weight_decay", "dropout")}
    lines = [
        f"name = {_value(name)}",
        'kind = "classify"',
        f"backbone = {_value(bundle.name)}",
        f"classes = {_value(data.classes)}",
        f"input = {_table(input_of(spec, data, bundle))}",
        f"module = {_table(module)}",
        f"exits = {_table(exits)}",
        f"training = {_table(training | {'patience': 0})}",
    ]
    return "\n".join(lines) + "\n"


def write_if_new(path: Path, text: str) -> None:
    """Writes a text file; one that is the same keeps its time."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
