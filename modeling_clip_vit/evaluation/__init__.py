"""Evaluation: retrieval, zero-shot classes, probes, calibration and robustness."""
