"""Draw docs/search.png: queries that a visitor might type, and what the example model finds.

python docs/search_figure.py outputs/emoji
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from modeling_clip_vit.inference.gallery import open_gallery
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.inference.search import ImageSearch
from modeling_clip_vit.utils.figures import figure_style

#: Two columns of queries, with this many images each.
QUERIES = (
    *("a slice of pizza", "一只猫", "a red heart", "下雨"),
    *("a train", "一束花", "someone riding a bike", "生日蛋糕"),
)
TOP_K = 5


@figure_style()
def draw(path: Path, results: list[tuple[str, list[np.ndarray]]]):
    """One row of images per query, in two columns."""
    rows = -(-len(results) // 2)
    figure = Figure(figsize=(12, 0.72 * rows), dpi=130)
    widths = [2.2, *[0.72] * TOP_K, 0.4] * 2
    axes = figure.subplots(rows, len(widths), squeeze=False, gridspec_kw={"width_ratios": widths})
    for axis in axes.flatten():
        axis.axis("off")
    for place, (query, images) in enumerate(results):
        row, start = place % rows, place // rows * (TOP_K + 2)
        axes[row, start].text(1, 0.5, query, ha="right", va="center", fontsize=12)
        for column, image in enumerate(images, start=start + 1):
            axes[row, column].imshow(image)
    figure.subplots_adjust(left=0, right=1, top=0.99, bottom=0.01, wspace=0.06, hspace=0.08)
    figure.savefig(path)


def main(checkpoint: str):
    """Search and draw."""
    gallery = open_gallery("data/emoji", None, "validation")
    search = ImageSearch(load_encoder(checkpoint), gallery)
    results = []
    for query in QUERIES:
        found = [picture.decode().convert("RGB") for picture, _ in search(query, TOP_K)]
        results.append((query, [np.asarray(image) for image in found]))
    draw(Path(__file__).parent / "search.png", results)


if __name__ == "__main__":
    main(*sys.argv[1:])
