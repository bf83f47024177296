"""Answering, offline: llama.cpp in the process; no torch, no workshop."""
