"""Weights: load them from anywhere, shape them from scratch, let them answer."""

from metier.model.loading import Loaded, load, load_model

__all__ = ["Loaded", "load", "load_model"]
