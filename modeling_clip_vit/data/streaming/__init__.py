"""Streams: datasets of any size, read as they come."""
