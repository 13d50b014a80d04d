"""Inference: embed images and texts, search one by the other, draw what was found."""
