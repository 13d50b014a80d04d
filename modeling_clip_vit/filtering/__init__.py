"""Choose training data: score pairs, find what to drop and why, write what is kept."""
