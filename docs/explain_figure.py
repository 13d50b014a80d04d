"""Draw docs/explain.png: pictures of two halves, and what each of two texts finds in them.

python docs/explain_figure.py outputs/emoji
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from modeling_clip_vit.explain.explain import explain
from modeling_clip_vit.explain.figure import overlay
from modeling_clip_vit.inference.gallery import open_gallery
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.utils.figures import figure_style

#: Names of emoji on the left and right, and the text for each.
PAIRS = (
    (("fox", "a fox"), ("birthday cake", "a birthday cake")),
    (("rainbow", "彩虹"), ("hamburger", "汉堡")),
    (("strawberry", "a strawberry"), ("penguin", "a penguin")),
    (("bus", "公共汽车"), ("tulip", "郁金香")),
)
SIZE = 320


def join(left: Image.Image, right: Image.Image) -> Image.Image:
    """The left half of one picture beside the right half of another."""
    whole = right.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    whole.paste(left.resize((SIZE, SIZE), Image.Resampling.BICUBIC).crop((0, 0, SIZE // 2, SIZE)))
    return whole


@figure_style()
def draw(path: Path, rows: list[list[tuple[str, Image.Image]]]):
    """Each picture and its overlays, with the texts above them, in two columns."""
    lines = -(-len(rows) // 2)
    figure = Figure(figsize=(12, 2.25 * lines), dpi=110)
    widths = [1, 1, 1, 0.18, 1, 1, 1]
    axes = figure.subplots(lines, 7, squeeze=False, gridspec_kw={"width_ratios": widths})
    for axis in axes.flatten():
        axis.axis("off")
    for number, row in enumerate(rows):
        for place, (title, image) in enumerate(row):
            axis = axes[number // 2, number % 2 * 4 + place]
            axis.imshow(image)
            axis.set_title(title, fontsize=10, pad=4)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.93, bottom=0.01, wspace=0.05, hspace=0.17)
    figure.savefig(path)


def main(checkpoint: str):
    """Explain and draw."""
    encoder = load_encoder(checkpoint)
    pictures = {
        picture.name.removesuffix(" (validation)"): picture
        for picture in open_gallery("data/emoji", None, "validation")
    }
    rows = []
    for pair in PAIRS:
        image = join(*(pictures[name].decode() for name, _ in pair))
        row = [("", image)]
        for _, text in pair:
            explanation = explain(encoder, image, text)
            row.append((f"{text}  {explanation.cosine:.2f}", overlay(explanation, image)))
        rows.append(row)
    draw(Path(__file__).parent / "explain.png", rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
