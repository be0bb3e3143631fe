"""The sample images that come with the package: simulated recordings and their ground truth."""

from careamics_dm.samples.simulation import clean, load, noisy, write

__all__ = ["clean", "load", "noisy", "write"]
