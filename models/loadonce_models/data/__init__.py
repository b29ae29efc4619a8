"""Real labelled data sets, series to forecast and windows with anomalies.

For evaluation, examples and tests only: nothing here may be imported by the
generators or by pretraining. Sources and licences: models/data/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import pictures, texts, windows
from .archives import CACHE, MODELS, Unavailable
from .store import Data, draw, load_file, save

_LABELLED: dict[str, Callable[[], Data]] = {
    # windows
    "gunpoint": lambda: windows.archive("GunPoint"),
    "motion": lambda: windows.archive("BasicMotions"),
    "italy-power": lambda: windows.archive("ItalyPowerDemand"),
    "arrowhead": lambda: windows.archive("ArrowHead"),
    "osuleaf": lambda: windows.archive("OSULeaf"),
    "appliances": lambda: windows.archive("ACSF1"),
    "vowels": lambda: windows.archive("JapaneseVowels"),
    "engine": lambda: windows.univariate("FordA"),
    "heartbeats": windows.ecg5000,
    "freezers": lambda: windows.univariate("FreezerRegularTrain"),
    "devices": lambda: windows.univariate("ElectricDevices"),
    "exercises": windows.watch,
    # pictures
    "digits": pictures.digits,
    "faces": pictures.faces,
    "textures": pictures.textures,
    "scenes": pictures.scenes,
    "icons": pictures.icons,
    "cells": pictures.cells,
    # texts
    "sections": texts.sections,
    "fields": texts.fields,
    "movies": texts.movies,
    "products": texts.products,
    "epigrams": texts.epigrams,
}
LABELLED = tuple(_LABELLED)
# Small enough to lie in the repository, for examples and tests.
COMMITTED = ("digits", "motion", "gunpoint")
# Committed as well, for `make bench-codec`: a set with enough samples for twenty gateways.
BENCHED = ("vowels",)
FOLDER = MODELS / "data"


def make(name: str) -> Data:
    """The set from its source."""
    return _LABELLED[name]()


def path(name: str) -> Path:
    """Where the set's safetensors file lies, made when it is not there; raises `Unavailable`."""
    if name in COMMITTED + BENCHED:
        return FOLDER / f"{name}.safetensors"
    file = CACHE / f"{name}.safetensors"
    if not file.exists():
        save(make(name), file)
    return file


def load(name: str) -> Data:
    """The set, from the repository or the cache, else from its source; raises `Unavailable`."""
    return load_file(path(name))


__all__ = ["BENCHED", "CACHE", "COMMITTED", "FOLDER", "LABELLED", "Data", "Unavailable", "draw", "load", "make", "path", "save"]
