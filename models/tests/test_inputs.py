import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from loadonce_models import inputs
from loadonce_models.inputs_golden import GOLDEN, prepare

CASES = json.loads(Path(GOLDEN, "inputs/cases.json").read_text())
TENSORS = load_file(GOLDEN / "inputs.safetensors")


@pytest.mark.parametrize("name", sorted(CASES))
def test_golden_inputs(name: str) -> None:
    case = CASES[name]
    payload = Path(GOLDEN, "inputs", case["file"]).read_bytes()
    if "error" in case:
        with pytest.raises(inputs.InputError) as refused:
            prepare(payload, case["spec"])
        assert refused.value.code == case["error"]
        return
    sample = prepare(payload, case["spec"])
    tokens = np.concatenate([t.reshape(-1) for t in sample.tokens])
    np.testing.assert_allclose(tokens, TENSORS[f"{name}.tokens"], rtol=0, atol=case["tolerance"])
    np.testing.assert_array_equal(np.concatenate(sample.ids), TENSORS[f"{name}.ids"])
    np.testing.assert_allclose(sample.mean, TENSORS[f"{name}.mean"], atol=case["tolerance"])
    np.testing.assert_allclose(sample.levels, TENSORS[f"{name}.levels"], atol=case["tolerance"])
    assert {key: getattr(sample, key) for key in case["treatment"]} == case["treatment"]


def test_gaps_are_bridged_and_ends_hold() -> None:
    nan = np.nan
    filled, count = inputs.fill_gaps(np.array([nan, 1.0, 2.0, 3.0, nan, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]))
    assert count == 2
    np.testing.assert_array_equal(filled, [1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    with pytest.raises(inputs.InputError, match="3 of 11"):
        inputs.fill_gaps(np.array([nan, nan, nan, *range(8)]))


def test_eight_orientations_of_one_picture_are_the_same_stored_pixels_turned() -> None:
    turned = {
        k: TENSORS[f"turned-{k}.tokens"][:256].reshape(4, 4, 4, 4).swapaxes(1, 2).reshape(16, 16) for k in range(1, 9)
    }
    np.testing.assert_allclose(turned[3], np.rot90(turned[1], 2), atol=1e-6)
    np.testing.assert_allclose(turned[2], turned[1][:, ::-1], atol=1e-6)
    np.testing.assert_allclose(turned[5], turned[1].T, atol=1e-6)
    # 6 is stored turned to the left, so it is turned to the right.
    np.testing.assert_allclose(turned[6], np.rot90(turned[1], -1), atol=1e-6)
    np.testing.assert_allclose(turned[8], np.rot90(turned[1], 1), atol=1e-6)
    assert not np.allclose(turned[6], turned[8], atol=0.1)


def test_a_grey_picture_has_no_chroma() -> None:
    tokens = TENSORS["grey-in-colour-task.tokens"]
    assert np.abs(tokens[:1024]).max() > 1
    assert not tokens[1024:].any()


def test_packed_numbers_may_begin_like_text() -> None:
    numbers = np.array([np.frombuffer(b"ABC>", "<f4")[0]] * 40 + [0.1], "<f4")
    channels, _, _ = inputs.read_window(numbers.tobytes(), 1)
    np.testing.assert_array_equal(channels[0], numbers)
