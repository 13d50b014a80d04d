"""What tests share, a subject a module; fixtures are in `tests/conftest.py`."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
