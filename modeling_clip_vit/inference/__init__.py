"""Inference: embed images and texts, and search one by the other."""
