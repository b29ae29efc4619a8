"""The text graph against the same network written a second time, in numpy and f64."""

import math

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from loadonce_models import minilm, single
from loadonce_models.quantize import plain
from loadonce_models.rounding import MOST, Seen, split

ort = pytest.importorskip("onnxruntime")
_erf = np.vectorize(math.erf)
WORDS, HIDDEN = 500, 256


def random_weights(layers: int = 2) -> minilm.Weights:
    """A small vocabulary and feed-forward, and nothing left at its default, so that no term can be missing."""
    rng = np.random.default_rng(3)
    width = minilm.WIDTH
    shapes = {
        "embeddings.word_embeddings.weight": (WORDS, width), "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,), "embeddings.LayerNorm.bias": (width,),
    }  # fmt: skip
    for k in range(layers):
        p = f"encoder.layer.{k}"
        dense = {f"{p}.attention.self.{n}": (width, width) for n in ("query", "key", "value")}
        dense |= {f"{p}.attention.output.dense": (width, width), f"{p}.intermediate.dense": (HIDDEN, width)}
        dense |= {f"{p}.output.dense": (width, HIDDEN)}
        for name, shape in dense.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        for name in (f"{p}.attention.output.LayerNorm", f"{p}.output.LayerNorm"):
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    return {name: (rng.normal(size=shape) * shape[-1] ** -0.5).astype(np.float32) for name, shape in shapes.items()}


def _norm(x: NDArray, w: NDArray | float, b: NDArray | float, eps: float) -> NDArray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * w + b


def pooled(w: minilm.Weights, ids: NDArray, layers: int = 2) -> NDArray:
    """The pooled features after `layers` layers."""

    def linear(x: NDArray, name: str) -> NDArray:
        return x @ w[f"{name}.weight"].T.astype(float) + w[f"{name}.bias"]

    def norm(x: NDArray, name: str) -> NDArray:
        return _norm(x, w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    h = w["embeddings.word_embeddings.weight"][ids].astype(float)
    h += w["embeddings.position_embeddings.weight"][: len(ids)] + w["embeddings.token_type_embeddings.weight"][0]
    h = norm(h, "embeddings.LayerNorm")
    for k in range(layers):
        p = f"encoder.layer.{k}"
        parts = (linear(h, f"{p}.attention.self.{n}") for n in ("query", "key", "value"))
        q, k_, v = (x.reshape(len(ids), minilm.HEADS, -1).swapaxes(0, 1) for x in parts)
        scores = q @ k_.swapaxes(1, 2) / np.sqrt(minilm.WIDTH // minilm.HEADS)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), -1)
        h = norm(linear(mixed, f"{p}.attention.output.dense") + h, f"{p}.attention.output.LayerNorm")
        up = linear(h, f"{p}.intermediate.dense")
        h = norm(linear(up * (1 + _erf(up / np.sqrt(2))) / 2, f"{p}.output.dense") + h, f"{p}.output.LayerNorm")
    x = _norm(h, 1.0, 0.0, 1e-5)
    return np.concatenate([x.mean(0), np.sqrt(x.var(0) + 1e-6)])


def run(model: onnx.ModelProto, ids: NDArray[np.int64]) -> NDArray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["pooled_1"], {"token_ids": ids})[0][0]


@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_the_graph_is_the_network(tokens: int) -> None:
    w = random_weights()
    ids = np.random.default_rng(tokens).integers(0, WORDS, tokens)
    expected = pooled(w, ids)
    np.testing.assert_allclose(run(minilm.part(w, 0, 2, False), ids), expected, rtol=0, atol=3e-5)


def strong_inputs(channels: int, rows: int = 400) -> NDArray[np.float32]:
    """Correlated inputs off zero; channels 7 and 20 are strong, 30 is a little."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(rows, channels)) + rng.normal(size=(rows, 3)) @ rng.normal(size=(3, channels)) + 0.3
    x[:, [7, 20]] *= 12
    x[:, 30] *= 2
    return x.astype(np.float32)


def seen(x: NDArray[np.float32]) -> Seen:
    found = Seen(x.shape[1])
    for part in np.array_split(x, 3):
        found.add(part)
    return found


def of(product, x: NDArray[np.float32]) -> NDArray:
    """What a split product gives, its int8 part without rounding of the inputs."""
    whole = (x * product.keep) @ (product.whole * product.scale)
    return whole + x[:, product.strong] @ product.rows.astype(np.float32) + product.bias


def test_a_split_product_rounds_better_than_each_weight_on_its_own() -> None:
    rng = np.random.default_rng(5)
    x = strong_inputs(96)
    weight, bias = rng.normal(size=(96, 40)).astype(np.float32), rng.normal(size=40).astype(np.float32)
    product = split(weight, bias, seen(x), 2, 1.2)
    assert product.strong.tolist() == [7, 20]
    assert (product.keep[[7, 20]] == 0).all() and not product.whole[[7, 20]].any()
    assert product.keep.max() == 1 and 0 < product.keep[30] < 1
    assert np.abs(product.whole.astype(int)).max() <= MOST
    exact = x @ weight + bias
    scale = np.abs(weight).max(0) / MOST
    plainly = x @ (np.rint(weight / scale) * scale) + bias
    assert ((of(product, x) - exact) ** 2).mean() < 0.3 * ((plainly - exact) ** 2).mean()
    # The same holds on inputs that were not seen.
    fresh = x[::-1] * 0.8 + rng.normal(size=x.shape).astype(np.float32) * 0.1
    exact, plainly = fresh @ weight + bias, fresh @ (np.rint(weight / scale) * scale) + bias
    assert ((of(product, fresh) - exact) ** 2).mean() < 0.5 * ((plainly - exact) ** 2).mean()


def test_sums_of_inputs_do_not_depend_on_how_they_come() -> None:
    x = strong_inputs(40)
    whole = Seen(40)
    whole.add(x)
    np.testing.assert_allclose(seen(x).gram, whole.gram, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(seen(x).most, np.abs(x).max(0))
    order = np.random.default_rng(1).permutation(40)
    turned = Seen(40)
    turned.add(x[:, order])
    np.testing.assert_allclose(whole.ordered(order).gram, turned.gram, rtol=1e-4, atol=1e-2)


@pytest.fixture(scope="module")
def shipped() -> tuple[minilm.Weights, minilm.Products]:
    """Six random layers and their products, made from what they see."""
    w = random_weights(minilm.LAYERS)
    lines = [np.random.default_rng(k).integers(0, WORDS, 30) for k in range(60)]
    return w, minilm.products(w, lines)


def test_the_shipped_form_holds_what_both_engines_want_and_stays_close(shipped) -> None:
    w, products = shipped
    ids = np.random.default_rng(100).integers(0, WORDS, 30)
    model = plain(minilm.part(w, 0, 2, True, products))
    assert not model.graph.value_info
    integer = [node for node in model.graph.node if node.op_type == "MatMulInteger"]
    assert len(integer) == 6
    assert all(len(node.input) == 3 for node in integer)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert all(np.abs(weights[node.input[1]].astype(int)).max() <= MOST for node in integer)
    assert weights["words"].dtype == np.int8
    large = [value for value in weights.values() if value.dtype == np.float32 and value.size > 300 * minilm.WIDTH]
    assert not large
    a, b = run(model, ids), pooled(w, ids)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9999


def test_the_single_graph_takes_a_split_product_for_one(shipped) -> None:
    w, products = shipped
    ids = np.random.default_rng(101).integers(0, WORDS, 30)
    model = plain(minilm.part(w, 0, 2, True, products))
    merged = single.dequantize(onnx.ModelProto.FromString(model.SerializeToString()))
    kinds = [node.op_type for node in merged.graph.node]
    assert not {"MatMulInteger", "DynamicQuantizeLinear"} & set(kinds)
    # Two products of attention and four with weights in each layer.
    assert kinds.count("MatMul") == 12
    np.testing.assert_allclose(run(merged, ids), pooled(w, ids), rtol=0, atol=0.03)


def test_rows_of_words_keep_their_scale() -> None:
    table = np.random.default_rng(2).normal(size=(50, 384)).astype(np.float32) * np.logspace(-3, 1, 50)[:, None]
    table = table.astype(np.float32)
    rows, scales = minilm.by_row(table)
    assert (np.abs(rows * scales - table) <= scales / 2 + 1e-7).all()
    assert np.abs(rows.astype(int)).max() == 127
