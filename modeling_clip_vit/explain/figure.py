"""Explanations as pictures.

Shape legend: `Y`, `X` rows and columns of pixels.
"""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ..inference.pictures import shorten, wrap
from ..utils.figures import figure_style
from .explanation import Explanation

#: Red adds to the match, blue speaks against it.
COLORS = colormaps["RdBu_r"]

#: Longest side of a picture in a figure, in pixels, and the shortest one of an overlay.
LONGEST_SIDE, OVERLAY_SIDE = 1024, 448

#: Words that a figure has room for: those of the largest values.
MOST_WORDS = 14


def overlay(explanation: Explanation, image: Image.Image) -> Image.Image:
    """What the model sees of the picture, pale and grey, under the colours of the cells.

    The cell of the largest value has the darkest colour; one without any influence has none.

    Args:
        explanation: of the picture.
        image: the picture, in RGB.
    """
    seen = crop(image, explanation.box)
    factor = max(1.0, OVERLAY_SIDE / min(seen.size))
    size = (round(seen.width * factor), round(seen.height * factor))
    grey = np.asarray(seen.resize(size, Image.Resampling.BICUBIC).convert("L"), np.float32) / 255
    largest = max(float(np.abs(explanation.patches).max()), 1e-12)
    color = COLORS(0.5 + 0.5 * enlarge(explanation.patches, size) / largest)[..., :3]
    mixed = 0.42 * (0.15 + 0.85 * grey)[..., None] + 0.58 * color
    return Image.fromarray((mixed * 255).round().clip(0, 255).astype(np.uint8))


def crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A part of a picture, at most `LONGEST_SIDE` pixels long; what is outside of it is black."""
    seen = image.crop(box)
    seen.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return seen


def enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Values of cells as values of pixels, float32 (Y, X): each cell stays an even area."""
    width, height = size
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    return values[rows[:, None], columns]


@figure_style()
def save_explanation(path: Path, explanation: Explanation, image: Image.Image):
    """Save a figure: what the model sees of the picture, its overlay, and the words with bars."""
    seen = crop(image, explanation.box)
    side = 2.9
    width = min(max(side * seen.width / seen.height, 1.4), 5.8)
    shown = [seen, overlay(explanation, image)]
    figure = Figure(figsize=(2 * width + 3.6, side + 0.75), dpi=150)
    panels = figure.subplots(1, 3, gridspec_kw={"width_ratios": [width, width, 2.2]})
    for axis, picture in zip(panels, shown, strict=False):
        axis.imshow(picture)
        axis.axis("off")
    draw_words(panels[2], explanation)
    title = wrap(explanation.text, width=70, most=2)
    figure.suptitle(f"{title}\ncosine {explanation.cosine:.3f}", fontsize=10)
    note = "red adds to the match, blue speaks against it"
    figure.text(0.5, 0.01, note, ha="center", va="bottom", fontsize=7, color="#57606a")
    figure.tight_layout(pad=0.6, rect=(0, 0.05, 1, 1))
    figure.savefig(path)


def draw_words(axis: Axes, explanation: Explanation):
    """Draw the values of words as bars, in the order of the text."""
    words = sorted(explanation.words, key=lambda word: -abs(word.value))[:MOST_WORDS]
    words.sort(key=lambda word: word.start)
    values = [word.value for word in words]
    places = range(len(words))
    axis.barh(places, values, color=[COLORS(0.5 + np.sign(value) * 0.38) for value in values])
    axis.set_yticks(places, [shorten(word.text, 16) for word in words], fontsize=9)
    axis.invert_yaxis()
    axis.set_ylim(max(len(words), 5) - 0.4, -0.6)
    axis.axvline(0, color="#8c959f", linewidth=0.8)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=4)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
