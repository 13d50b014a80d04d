"""The package's models, for commands that started without them."""

import sys
from typing import Any

from .interrupts import ending_on_interrupt


def import_models():
    """Run the package's `__init__`, which registers the models, unless it has run already.

    `clip_vit.py` leaves it out for commands that are to start at once.
    """
    package: Any = sys.modules[__package__.partition(".")[0]]
    if not hasattr(package, "__all__"):
        with ending_on_interrupt():
            package.__spec__.loader.exec_module(package)
