"""Proof: answers in, scores with intervals and a verdict out."""
