"""Shipping: GGUF, Hugging Face folder, card, and the gate that compares them with the checkpoint."""
