"""Evaluation: retrieval and zero-shot classification."""
