from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from loadonce_models.preprocess import (
    ROWS, levels, picture_ids, picture_planes, resample, window_ids, window_planes,
)  # fmt: skip

GOLDEN = load_file(Path(__file__).resolve().parents[2] / "tests/golden/preprocess.safetensors")
RANGE = (-10.0, 15.0)
NAMES = sorted(name[:-3] for name in GOLDEN if name.endswith(".in"))


def planes(name: str) -> list:
    size, colour = GOLDEN[f"{name}.plan"]
    sample = GOLDEN[f"{name}.in"]
    return picture_planes(sample, size, bool(colour)) if name.startswith("picture") else window_planes(sample, size)


@pytest.mark.parametrize("name", NAMES)
def test_golden_vectors(name: str) -> None:
    span = (0.0, 1.0) if name.startswith("picture") else RANGE
    for c, plane in enumerate(planes(name)):
        np.testing.assert_allclose(plane.patches, GOLDEN[f"{name}.out{c + 1}"], rtol=0, atol=1e-6)
        np.testing.assert_array_equal(plane.ids, GOLDEN[f"{name}.ids{c + 1}"])
        np.testing.assert_allclose(levels(plane, *span), GOLDEN[f"{name}.levels"][c], rtol=0, atol=1e-6)


def test_token_ids_lie_in_the_middle_of_their_share() -> None:
    assert list(window_ids(1024)) == list(range(64))
    assert list(window_ids(256)[:3]) == [2, 6, 10]
    assert list(picture_ids(64)) == list(range(64, ROWS))
    assert list(picture_ids(32)[:9]) == [64 + 16 * 1 + c for c in range(1, 17, 2)] + [64 + 16 * 3 + 1]


def test_growing_joins_points_by_straight_lines() -> None:
    np.testing.assert_allclose(resample(np.array([0.0, 2.0, 6.0]), 5), [0, 1, 2, 4, 6])


def test_shrinking_keeps_the_integral() -> None:
    x = np.random.default_rng(0).normal(size=1001)
    short = resample(x, 256)
    assert short.mean() == pytest.approx(x.mean(), abs=1e-12)
    # The first output covers 1001/256 = 3.91 input points.
    assert short[0] == pytest.approx((x[:3].sum() + (1001 / 256 - 3) * x[3]) / (1001 / 256))


def test_one_point_and_a_constant_give_zeros() -> None:
    for window in (np.array([[3.0]]), np.full((1, 999), 1e6)):
        (plane,) = window_planes(window)
        assert not plane.patches.any()
        assert levels(plane, 0.0, 2e6)[1] == -4.0


def test_picture_tokens_are_row_major_blocks() -> None:
    picture = np.zeros((32, 32), np.uint8)
    picture[4:8, 0:4] = np.arange(16).reshape(4, 4) * 10
    token = picture_planes(picture)[0].patches[8]
    assert (np.diff(token) > 0).all()


def test_sixteen_bit_and_alpha_change_nothing() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (20, 30), dtype=np.uint8)
    colour = np.stack([grey, grey, grey, 255 - grey], -1)
    wide = grey.astype(np.uint16) * 257
    (expected,) = picture_planes(grey)
    for picture in (colour, wide):
        np.testing.assert_allclose(picture_planes(picture)[0].patches, expected.patches, atol=1e-6)


def test_a_grey_picture_has_no_chroma_and_a_coloured_one_has() -> None:
    grey = np.random.default_rng(2).integers(0, 256, (50, 40), dtype=np.uint8)
    rgb = np.stack([grey, grey, grey], -1)
    for picture in (grey, rgb):
        light, *chroma = picture_planes(picture, 32, colour=True)
        assert [len(plane.ids) for plane in chroma] == [16, 16]
        assert max(np.abs(plane.patches).max() for plane in chroma) < 1e-9
    rgb[:20, :, 0] //= 3
    _, blue, red = picture_planes(rgb, 32, colour=True)
    assert blue.patches.std() > 0.2
    assert red.patches.std() > 0.2


def test_levels_are_where_the_range_puts_them() -> None:
    window = np.array([[-2.0, 2.0] * 128])
    (plane,) = window_planes(window)
    assert levels(plane, -8.0, 8.0) == pytest.approx([0.0, 0.5], abs=2e-3)  # std = range / 8
    assert levels(plane, 2.0, 18.0)[0] == pytest.approx(-2.5)
