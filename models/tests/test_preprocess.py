from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from loadonce_models.preprocess import picture_patches, resample, window_patches

GOLDEN = load_file(Path(__file__).resolve().parents[2] / "tests/golden/preprocess.safetensors")
NAMES = sorted(name[:-3] for name in GOLDEN if name.endswith(".in"))


@pytest.mark.parametrize("name", NAMES)
def test_golden_vectors(name: str) -> None:
    encode = picture_patches if name.startswith("picture") else window_patches
    np.testing.assert_allclose(encode(GOLDEN[f"{name}.in"]), GOLDEN[f"{name}.out"], rtol=0, atol=1e-6)


def test_growing_joins_points_by_straight_lines() -> None:
    np.testing.assert_allclose(resample(np.array([0.0, 2.0, 6.0]), 5), [0, 1, 2, 4, 6])


def test_shrinking_keeps_the_integral() -> None:
    x = np.random.default_rng(0).normal(size=1001)
    short = resample(x, 256)
    assert short.mean() == pytest.approx(x.mean(), abs=1e-12)
    # The first output covers 1001/256 = 3.91 input points.
    assert short[0] == pytest.approx((x[:3].sum() + (1001 / 256 - 3) * x[3]) / (1001 / 256))


def test_one_point_and_a_constant_give_zeros() -> None:
    assert not window_patches(np.array([[3.0]])).any()
    assert not window_patches(np.full((1, 999), 1e6)).any()


def test_picture_tokens_are_row_major_blocks() -> None:
    picture = np.zeros((32, 32), np.uint8)
    picture[4:8, 0:4] = np.arange(16).reshape(4, 4) * 10
    token = picture_patches(picture)[8]
    assert (np.diff(token) > 0).all()


def test_sixteen_bit_and_alpha_change_nothing() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (20, 30), dtype=np.uint8)
    colour = np.stack([grey, grey, grey, 255 - grey], -1)
    wide = grey.astype(np.uint16) * 257
    np.testing.assert_allclose(picture_patches(colour), picture_patches(grey), atol=1e-6)
    np.testing.assert_allclose(picture_patches(wide), picture_patches(grey), atol=1e-6)
