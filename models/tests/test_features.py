import numpy as np

from loadonce_models.features import combine, project


def test_projection_centres_first() -> None:
    rng = np.random.default_rng(5)
    tensors = {"exit_1.mean": rng.normal(size=256), "exit_1.projection": rng.normal(size=(128, 256))}
    tensors = {name: value.astype(np.float16) for name, value in tensors.items()}
    pooled = tensors["exit_1.mean"].astype(np.float32)[None]
    assert not project(pooled, tensors).any()
    moved = pooled + np.eye(256, dtype=np.float32)[3]
    np.testing.assert_allclose(project(moved, tensors)[0], tensors["exit_1.projection"][:, 3], atol=2e-3)


def test_channels_share_the_features() -> None:
    z = np.arange(6 * 3 * 128, dtype=np.float32).reshape(6, 3, 128)
    joined = combine(z, 256)
    assert joined.shape == (3, 6 * 42)
    np.testing.assert_array_equal(joined[1, 42:84], z[1, 1, :42])
    assert combine(z[:1], 256).shape == (3, 128)
    assert combine(z, 256, extras=12).shape == (3, 6 * 40)
