"""Weights: load them from anywhere, shape them from scratch, let them answer."""

from metier.model.loading import Loaded, load

__all__ = ["Loaded", "load"]
