"""Weights: load them from anywhere, shape them from scratch, let them answer."""
