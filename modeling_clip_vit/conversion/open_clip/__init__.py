"""open_clip: its own towers, and those that it takes from timm and Transformers."""

from .inputs import compare_inputs
from .model import from_open_clip, load
from .write import save, to_open_clip

__all__ = ["compare_inputs", "from_open_clip", "load", "save", "to_open_clip"]
