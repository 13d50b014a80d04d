"""How all figures are drawn: one font for English and Chinese, and every text as it stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager


@cache
def chinese_font() -> str:
    """The name of a font with the characters of English and Simplified Chinese."""
    path = Path(__file__).parent / "fonts" / "NotoSansCJKsc-subset.otf"
    font_manager.fontManager.addfont(path)
    return font_manager.FontProperties(fname=path).get_name()


@contextmanager
def figure_style() -> Iterator[None]:
    """Settings of a figure, from its first text to its saving; also a decorator.

    A caption may contain `$` or a backslash: matplotlib would parse what is between two dollars as
    mathematics, and fail if it is not.
    """
    style: Any = {
        "text.parse_math": False,
        "text.usetex": False,
        "font.family": [chinese_font(), "DejaVu Sans"],
    }
    with matplotlib.rc_context(style):
        yield
