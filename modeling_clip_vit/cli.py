"""The command line for Python code: `main(["train", "--config", "emoji"])`, as in clip_vit.py."""

from clip_vit import COMMANDS, main

__all__ = ["COMMANDS", "main"]
