"""Data: sources, captions, image transforms, batches. Knows no model."""
