import numpy as np
from reference import pooled, random_weights

from loadonce_models import export
from loadonce_models.engine import Engine
from loadonce_models.preprocess import picture_ids, window_ids


def test_exported_graph_is_the_network() -> None:
    rng = np.random.default_rng(3)
    weights = random_weights(rng)
    engine = Engine([export.segment(weights, number).SerializeToString() for number in (1, 2)])
    for ids in (window_ids(256), picture_ids(32), picture_ids(64)[5:12]):
        patches = rng.normal(size=(len(ids), 16)).astype(np.float32)
        np.testing.assert_allclose(engine.pooled(patches, ids), pooled(weights, patches, ids), rtol=0, atol=2e-5)


def test_only_the_last_segment_has_no_hidden_output() -> None:
    weights = random_weights(np.random.default_rng(4))
    names = [[o.name for o in export.segment(weights, k).graph.output] for k in (1, 2)]
    assert names == [["hidden_1", "pooled_1"], ["pooled_2"]]
