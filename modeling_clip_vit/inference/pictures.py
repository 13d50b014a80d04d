"""Pictures of search results."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.figures import figure_style

RIGHT, WRONG = "#1a7f37", "#8c959f"


@dataclass
class Found:
    """One picture among the results of a query.

    Args:
        image: anything that `numpy.asarray` turns into (height, width, 3) of uint8.
        title: a few words above it.
        is_right: whether it is a correct result; None if that is unknown.
    """

    image: object
    title: str
    is_right: bool | None = None


@figure_style()
def save_retrieval_grid(path: Path, rows: Sequence[tuple[str, Sequence[Found]]]):
    """Save a grid with one row per query: its text, and the images it found, best first.

    Correct ones have a thick green frame and a check mark, which also shows without colours.
    """
    columns = max(len(pictures) for _, pictures in rows)
    figure = Figure(figsize=(2.6 + 1.15 * columns, 1.45 * len(rows) + 0.1), dpi=130)
    axes = figure.subplots(
        len(rows),
        columns + 1,
        squeeze=False,
        gridspec_kw={"width_ratios": [2.2] + [1] * columns},
    )
    for (query, pictures), row in zip(rows, axes, strict=True):
        row[0].axis("off")
        row[0].text(1, 0.5, wrap(query), ha="right", va="center", fontsize=11)
        for axis in row[1 + len(pictures) :]:
            axis.axis("off")
        for item, axis in zip(pictures, row[1:], strict=False):
            draw_picture(axis, item)
    figure.tight_layout(pad=0.4, h_pad=0.8)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.08)


@figure_style()
def save_picture_grid(path: Path, pictures: Sequence[Found], columns: int = 6):
    """Save pictures row by row, each with its title above it."""
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.6 * columns, 2.1 * rows), dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for picture, axis in zip(pictures, axes, strict=False):
        draw_picture(axis, picture, lines=4)
    for axis in axes[len(pictures) :]:
        axis.axis("off")
    figure.tight_layout(pad=0.4, h_pad=0.8)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.08)


def draw_picture(axis: Axes, picture: Found, lines: int = 2):
    """Draw one picture with its frame and its title, truncated to a number of lines."""
    axis.imshow(np.asarray(picture.image))
    axis.set_xticks([])
    axis.set_yticks([])
    right = picture.is_right is True
    mark = "✓ " if right else ""
    color = RIGHT if right else WRONG
    title = wrap(mark + picture.title, 17, most=lines)
    axis.set_title(title, fontsize=7, color=color if right else "black", pad=3)
    for spine in axis.spines.values():
        spine.set(color=color, linewidth=3 if right else 0.8)


def wrap(text: str, width: int = 24, most: int = 4) -> str:
    """Break a text into lines; a Chinese character counts as two, and longer words are cut."""
    lines, line, used = [], "", 0
    cut = re.compile(rf"\S{{1,{width}}}\s*|\s+")
    for word in (part for piece in split_words(text) for part in cut.findall(piece)):
        length = sum(2 if ord(character) > 0x2E80 else 1 for character in word)
        if used + length > width and line:
            lines.append(line.strip())
            line, used = "", 0
        line, used = line + word, used + length
    lines.append(line.strip())
    return "\n".join(lines[:most]) + ("…" if len(lines) > most else "")


def shorten(text: str, length: int) -> str:
    """A text of at most this length, its end cut off."""
    return text if len(text) <= length else text[: length - 1] + "…"


def split_words(text: str) -> list[str]:
    """Pieces between which a line may break.

    That is after spaces, after what joins the words of a file's name, and around Chinese
    characters. A sign, as in "-0.3", joins nothing.
    """
    pieces = [""]
    for character in text:
        if ord(character) > 0x2E80:
            pieces += [character, ""]
        else:
            pieces[-1] += character
            if character == " " or (character in "_-/" and len(pieces[-1]) > 1):
                pieces.append("")
    return [piece for piece in pieces if piece]
