"""The data sets: what is committed, what is pinned, and that draws are those of the Rust side."""

import re
import tomllib

import numpy as np
import pytest

from loadonce_models import data
from loadonce_models.data import archives, store
from loadonce_models.lab.protocol import protocol


def test_committed_sets_are_whole():
    sizes = {"digits": (1000, 797, 10), "motion": (40, 40, 4), "gunpoint": (50, 150, 2)}
    for name in data.COMMITTED:
        found = data.load(name)
        assert (int((found.test == 0).sum()), int(found.test.sum()), len(found.classes)) == sizes[name]
        assert found.y.max() < len(found.classes)
    assert sum(path.stat().st_size for path in data.FOLDER.iterdir()) < 1_500_000


def test_every_archive_is_pinned():
    pins = tomllib.loads(archives.PINS.read_text())
    for name, pin in pins.items():
        assert re.fullmatch(r"[0-9a-f]{64}", pin["sha256"]), name
        assert ("pip" in pin) != ("debian" in pin), name
        assert "pip" not in pin or re.fullmatch(r"[A-Za-z0-9-]+==[0-9.a-z]+", pin["pip"]), name


def test_a_changed_archive_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "CACHE", tmp_path)
    pin = {"debian": "pool/x.deb", "file": "x.deb", "sha256": "0" * 64}
    monkeypatch.setattr(archives, "_pins", lambda: {"x": pin})
    monkeypatch.setattr(archives, "_by_debian", lambda path, file, folder: (folder / file).write_bytes(b"other"))
    with pytest.raises(archives.Unavailable, match="sha256"):
        archives.fetch("x")
    assert not (tmp_path / "archives" / "x.deb").exists()


def test_draws_are_those_of_the_rust_side():
    y, train = np.arange(40) // 30, np.arange(40)
    # runtime/cli/src/evaluate/draw.rs holds the same numbers.
    assert store.draw(y, train, 3, 7).tolist() == [17, 23, 26, 30, 34, 35]
    assert len(store.draw(y, train, 15, 0)) == 25
    assert store.draw(y, train, None, 0).tolist() == train.tolist()


def test_all_forms_of_a_set_come_back(tmp_path):
    half = store.split_half(7, "x")
    assert half.sum() == 3
    texts = store.Data(["one", "zwölf", ""], np.array([0, 1, 0]), np.array([0, 0, 1]), ["a", "b"])
    windows = store.Data(
        np.zeros((2, 1, 4), np.float32), np.array([0, 1]), np.array([0, 1]), ["a", "b"], np.array([4, 2])
    )
    for made in (texts, windows):
        store.save(made, tmp_path / "set.safetensors")
        found = store.load_file(tmp_path / "set.safetensors")
        assert (found.modality, found.classes) == (made.modality, made.classes)
        assert np.array_equal(found.y, made.y)
    assert store.load_file(tmp_path / "set.safetensors").lengths.tolist() == [4, 2]
    store.save(texts, tmp_path / "texts.safetensors")
    assert store.load_file(tmp_path / "texts.safetensors").x == texts.x


def test_the_protocol_names_what_there_is():
    from loadonce_models.data.anomalies import WATCHED
    from loadonce_models.data.series import SERIES

    fixed = protocol()
    assert set(fixed["sets"]) == set(data.LABELLED)
    assert set(fixed["forecast"]["series"]) == set(SERIES)
    assert set(fixed["anomaly"]["sets"]) == set(WATCHED)
    assert 0.5 in fixed["forecast"]["quantiles"]
    for name, spec in fixed["forecast"]["series"].items():
        assert spec["season"] <= spec["window"] < spec["cut"], name
