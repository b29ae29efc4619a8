"""Random draws for generated data made of templates and variants.

A *template* is one drawn set of parameters, a *variant* one noisy instance of
it. Arrays have the axes [template, variant, ...]; a parameter drawn with
`shared` is the same for all variants of a template, one drawn with `own` is
not. Pretraining then asks the network to tell templates apart, which is what a
task with a few labels per class asks of it later.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


class Draw:
    """Draws for `templates` x `variants` windows of `size` points, or pictures of `size` x `size` with `dims` 2.

    Frequencies are drawn in cycles per sample at the usual size (256 points, 32 pixels) and multiplied by `pace`: a
    larger sample either shows the same in more detail (pace 1) or more of it.
    """

    def __init__(
        self, rng: np.random.Generator, templates: int, variants: int, size: int, pace: float = 1.0, dims: int = 1
    ):
        self.rng = rng
        self.templates = templates
        self.variants = variants
        self.size = size
        self.pace = pace
        self.tail = (1,) * dims
        self.time = np.arange(size) / size  # one window is one unit of time
        if dims == 2:
            self.y, self.x = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
            down, across = np.meshgrid(*[np.fft.fftfreq(size)] * 2, indexing="ij")  # cycles per pixel
            self.frequency = np.hypot(across, down) + 1e-3
            self.frequency_angle = np.arctan2(down, across)

    def shared(self, low: float, high: float) -> F64:
        """Uniform, one value per template."""
        return self.rng.uniform(low, high, (self.templates, 1, *self.tail))

    def own(self, low: float, high: float) -> F64:
        """Uniform, one value per variant."""
        return self.rng.uniform(low, high, (self.templates, self.variants, *self.tail))

    def shared_log(self, low: float, high: float) -> F64:
        """Log-uniform, one value per template."""
        return np.exp(self.shared(np.log(low), np.log(high)))

    def own_log(self, low: float, high: float) -> F64:
        """Log-uniform, one value per variant."""
        return np.exp(self.own(np.log(low), np.log(high)))

    def near(self, low: float, high: float, jitter: float) -> F64:
        """A template's value, moved by up to `jitter` of the range in each variant."""
        width = jitter * (high - low)
        return self.shared(low, high) + self.own(-width, width)

    def near_log(self, low: float, high: float, jitter: float) -> F64:
        """As `near`, in the logarithm."""
        return np.exp(self.near(np.log(low), np.log(high), jitter))

    def rate(self, low: float, high: float, jitter: float) -> F64:
        """A frequency in cycles per sample: as `near_log`, at this sample's pace."""
        return self.pace * self.near_log(low, high, jitter)

    def sometimes(self, share: float) -> F64:
        """1.0 for about `share` of the templates, else 0.0."""
        return (self.rng.random((self.templates, 1, *self.tail)) < share).astype(float)

    def sometimes_own(self, share: float) -> F64:
        """1.0 for about `share` of the variants, else 0.0."""
        return (self.rng.random((self.templates, self.variants, *self.tail)) < share).astype(float)

    def choice(self, options: int) -> NDArray[np.int64]:
        """An integer per template, same trailing axes."""
        return self.rng.integers(0, options, (self.templates, 1, *self.tail))

    def phase(self) -> F64:
        """A phase: about half of the templates are aligned, the others start anywhere."""
        free = self.own(0, 2 * np.pi)
        aligned = self.shared(0, 2 * np.pi) + self.own(-0.3, 0.3)
        return np.where(self.sometimes(0.5) > 0, aligned, free)

    def noise(self, *shape: int) -> F64:
        """Standard normal noise, independent for every variant."""
        return self.rng.normal(size=(self.templates, self.variants, *shape))

    def shared_noise(self, *shape: int) -> F64:
        """Standard normal noise, the same for all variants of a template."""
        return self.rng.normal(size=(self.templates, 1, *shape))
