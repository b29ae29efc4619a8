import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

from loadonce_models import bundle
from loadonce_models.features import project
from loadonce_models.preprocess import window_ids
from loadonce_models.signals import windows

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "models/bundles/sense-tiny"
BUNDLES = sorted((ROOT / "models/bundles").iterdir())
FEATURES = load_file(ROOT / "tests/golden/features.safetensors")


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_every_hash_holds_and_the_size_is_in_bounds(folder: Path) -> None:
    assert len(bundle.verify(folder)) == 64
    scale = tomllib.loads((folder / bundle.MANIFEST).read_text())["scale"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= bundle.SIZE_LIMITS[scale]


@pytest.mark.parametrize("name", ["segment-2.onnx", "features.safetensors"])
def test_a_changed_byte_is_refused(tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "sense-tiny")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        bundle.verify(copy)


def test_an_unlisted_file_is_refused(tmp_path: Path) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "sense-tiny")
    (copy / "segment-4.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match="segment-4"):
        bundle.verify(copy)


@pytest.mark.parametrize("name", sorted(name[:-3] for name in FEATURES if name.endswith(".in")))
def test_golden_features(name: str) -> None:
    backbone = bundle.Backbone(FOLDER)
    sample = FEATURES[f"{name}.in"]
    size, colour = FEATURES[f"{name}.plan"]
    if name.startswith("picture"):
        z = backbone.picture(sample, size, bool(colour))
    else:
        z = backbone.window(sample, size)
    for k in range(z.shape[1]):
        golden = FEATURES[f"{name}.z{k + 1}"]
        assert golden.shape == z[:, k].shape
        # Not bit for bit: int8 kernels round differently from one processor to the next.
        cosine = (golden * z[:, k]).sum(-1) / np.linalg.norm(golden, axis=-1) / np.linalg.norm(z[:, k], axis=-1)
        assert cosine.min() > 0.995


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_features_are_scaled_for_the_clamp(folder: Path) -> None:
    # Also catches a projection stored in the wrong memory order, which no hash would notice.
    backbone = bundle.Backbone(folder)
    x = windows(np.random.default_rng(9), 300, 1).x.reshape(300, -1, 16)
    z = project(backbone.engine.pooled_all((patches, window_ids(256)) for patches in x), backbone.features)
    square = (z**2).mean(0)
    assert square.min() > 0.02
    assert square.max() < 3
    assert (np.abs(z) > 8).mean() < 1e-4


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_segments_hold_what_both_engines_want(folder: Path) -> None:
    manifest = tomllib.loads((folder / bundle.MANIFEST).read_text())
    for part in manifest["segments"]:
        model = onnx.load(folder / part["file"])
        assert (model.ir_version, model.opset_import[0].version) == (8, manifest["opset"])
        assert not model.graph.value_info
        assert [i.name for i in model.graph.input] == part["inputs"]
        outputs = [o.name for o in model.graph.output]
        assert outputs == [part[key] for key in ("hidden", "pooled") if key in part]
        integer = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
        assert len(integer) == 4 * part["layers"]
        assert all(len(node.input) == 3 for node in integer)
