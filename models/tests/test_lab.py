"""The models' report: its arithmetic, and a smoke run on the committed sets."""

import json
import subprocess
import sys

import numpy as np
import pytest

from loadonce_models import data
from loadonce_models.data import MODELS
from loadonce_models.lab import backbones, plots, protocol, raw, stats


def test_intervals_are_students():
    middle, low, high = stats.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert middle == 3.0 and abs(high - 3.0 - 2.776 * (2.5 / 5) ** 0.5) < 1e-9 and abs(low + high - 6.0) < 1e-9
    assert stats.interval([1.0]) is None and stats.spread([1.0]) == 0.0
    assert stats.paired([2.0, 4.0], [1.0, 2.0])[0] == 1.5
    # Draws that are all one prove nothing.
    assert stats.paired([2.0, 3.0], [1.0, 2.0]) is None


def test_raw_features_fit_a_module():
    for name in data.COMMITTED:
        found = data.load(name)
        z = raw.features(found, 256, np.where(found.test == 0)[0])
        assert z.shape[:2] == (len(found.y), 1) and z.shape[2] <= 256
        assert np.isfinite(z).all() and np.abs(z).max() <= 8
    texts = data.Data(["the pump is loud", "loud is the pump", "a fan"], np.zeros(3), np.zeros(3), ["a", "b"])
    z = raw.features(texts, 64, np.arange(3))
    assert np.array_equal(z[0], z[1]) and not np.array_equal(z[0], z[2])


def test_manifests_are_toml_and_ask_for_sizes_that_the_bundle_has():
    import tomllib

    bundle = backbones.read(MODELS / "bundles/sense-tiny")
    found = data.load("motion")
    text = protocol.manifest("motion", protocol.protocol()["sets"]["motion"], found, bundle)
    task = tomllib.loads(text)
    assert task["classes"] == found.classes and task["input"]["channels"] == 6
    assert task["input"]["points"] in bundle.lengths
    assert bundle.fit("points", 10**6) == max(bundle.lengths) and bundle.fit("points", 1) == min(bundle.lengths)


def test_plots_hold_every_row(tmp_path):
    entries = [
        {
            "name": name, "backbone": "b", "labels_per_class": "10", "exit": k, "pretrained": 0.5 + k / 10,
            "random": 0.4, "raw": None, "scratch": None,
        }
        for name in ("one", "two & three") for k in (1, 2)
    ]  # fmt: skip
    plots.transfer({"sets": entries}, "b", tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    assert "two &amp; three" in text and "raw input" not in text and text.count("<circle") == 6


@pytest.mark.skipif(not (MODELS.parent / "target/debug/loadonce").exists(), reason="target/debug/loadonce is not built")
def test_a_quick_report_has_what_was_asked(tmp_path):
    command = [sys.executable, "-m", "loadonce_models.lab.report", "--quick", "--out", tmp_path / "out"]
    command += ["--work", tmp_path / "work", "--loadonce", MODELS.parent / "target/debug/loadonce"]
    command += ["--backbones", "sense-tiny"]
    done = subprocess.run(command, cwd=MODELS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {"sets", "forecast", "anomaly", "exits", "latency", "int8"} <= set(report)
    assert {entry["name"] for entry in report["sets"]} == set(data.COMMITTED)
    keys = {
        "name",
        "modality",
        "backbone",
        "labels_per_class",
        "exit",
        "pretrained",
        "random",
        "raw",
        "scratch",
        "spread",
    }
    best = {}
    for entry in report["sets"]:
        assert keys <= set(entry)
        best[entry["name"]] = max(best.get(entry["name"], 0.0), entry["recipes"]["ladder"])
    # Far above chance, or the features are not those of the samples.
    assert best["digits"] > 0.9 and best["motion"] > 0.9 and best["gunpoint"] > 0.8
