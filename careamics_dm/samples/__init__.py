"""The embedded sample images, simulated: noisy recordings and what they show."""

from careamics_dm.samples.simulation import clean, load, noisy, write

__all__ = ["clean", "load", "noisy", "write"]
