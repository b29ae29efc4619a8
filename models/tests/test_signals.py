import numpy as np

from loadonce_models.signals import FAMILIES, windows


def test_windows_are_standardized_repeatable_and_cover_the_families() -> None:
    a, b = (windows(np.random.default_rng(6), 400, 2) for _ in range(2))
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_allclose(a.x.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(a.x.std(-1), 1, atol=1e-2)
    assert set(a.family) == set(range(len(FAMILIES)))


def test_variants_of_a_template_differ_but_resemble_each_other() -> None:
    x = windows(np.random.default_rng(8), 300, 2).x
    spectrum = np.abs(np.fft.rfft(x))
    spectrum /= np.linalg.norm(spectrum, axis=-1, keepdims=True)
    sibling = (spectrum[:, 0] * spectrum[:, 1]).sum(-1)
    stranger = (spectrum[:, 0] * spectrum[::-1, 1]).sum(-1)
    assert (np.abs(x[:, 0] - x[:, 1]).max(-1) > 0).all()
    assert sibling.mean() > stranger.mean() + 0.2
