"""Evaluation: retrieval, zero-shot classification, and pictures of both."""
