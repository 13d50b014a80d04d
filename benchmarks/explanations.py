"""How well explanations point at what matches, by method: halves, deletion, insertion, words.

    python benchmarks/explanations.py [CHECKPOINT ...] [--samples 150] [--blank mean]
        [--json explanations.json]

Emoji of the validation split whose English name finds them among the first 20.

- halves: the left half of one picture beside the right half of another, or the other way round. The
  text names one of them. Counted is how often its half has the larger sum ("right half"), how often
  it has the largest cell ("peak"; a cell over both halves counts half), and the mean share of the
  positive values ("share"). Chance is 50 %.
- deletion and insertion: cells are blanked, or put into a blank picture, in the order of their
  values; the area under the cosine, relative to that of the whole picture. Deletion should be low,
  insertion high. All methods are compared on the same cells.
- words: the text names the picture and another one, in either order. Counted is how often the
  picture's name has the larger sum, in English and in Chinese.

`random` draws values. Prints a table for each checkpoint, with the milliseconds of a picture.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.explain.cells import pixel_cells
from modeling_clip_vit.explain.match import Match, prepare
from modeling_clip_vit.explain.methods import METHODS
from modeling_clip_vit.inference.loading import TorchEncoder, load_encoder
from modeling_clip_vit.utils.errors import UserError

#: A name must find its picture among this many.
FOUND_AMONG = 20

#: Explains a match: values of cells, (rows, columns).
Explain = Callable[[Match], torch.Tensor]


@dataclass
class Sample:
    """A picture and its names."""

    image: Image.Image
    english: str
    chinese: str


def random_values(match: Match) -> torch.Tensor:
    """Values that say nothing, the same for the same text."""
    generator = torch.Generator().manual_seed(len(match.text.text))
    return torch.randn(match.cells.rows, match.cells.columns, generator=generator)


def explainers(encoder: TorchEncoder) -> dict[str, Explain]:
    """All methods that the model allows, and `random`."""
    match = prepare(encoder, Image.new("RGB", (64, 64), "red"), "red")
    found: dict[str, Explain] = {"random": random_values}
    for name, method in METHODS.items():
        try:
            method.explain_picture(match)
        except UserError:
            continue
        found[name] = lambda match, method=method: method.explain_picture(match).values
    return found


def choose_samples(encoder: TorchEncoder, count: int, seed: int = 0) -> list[Sample]:
    """Pictures that their English name finds, in random order."""
    rows = open_dataset("data/emoji", None)["validation"]
    images = [decode_image(image) for image in rows["image"]]
    pictures = encoder.encode_image(images)
    texts = encoder.encode_text(rows["caption_en"])
    scores = pictures @ texts.t()
    ranks = (scores > scores.diag()).sum(dim=0)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = [place for place in order if ranks[place] < FOUND_AMONG][:count]
    return [
        Sample(images[place], rows["caption_en"][place], rows["caption_zh"][place])
        for place in kept
    ]


def halves(samples: list[Sample], size: int) -> Iterator[tuple[Image.Image, str, bool]]:
    """Pictures of two halves, the text of one of them, and whether that is on the left."""
    for number, (sample, other) in enumerate(zip(samples, samples[1:] + samples[:1], strict=True)):
        is_left = number % 2 == 0
        left, right = (sample, other) if is_left else (other, sample)
        whole = right.image.resize((size, size), Image.Resampling.BICUBIC)
        half = left.image.resize((size, size), Image.Resampling.BICUBIC)
        whole.paste(half.crop((0, 0, size // 2, size)), (0, 0))
        yield whole, sample.english, is_left


def spread(values: torch.Tensor, size: int) -> torch.Tensor:
    """Values of cells as values of pixels with the same sums: (size, size)."""
    cells = pixel_cells(size, size, *values.shape)
    counts = cells.sum(torch.ones(size, size)).flatten()
    return (values.flatten() / counts)[cells.index]


def measure_halves(
    encoder: TorchEncoder, samples: list[Sample], methods: dict[str, Explain], options
) -> dict:
    """Of each method: the share of pictures whose right half has more, and of right peaks."""
    size = encoder.image_size
    results: dict[str, dict[str, float]] = {
        name: {"half": 0, "peak": 0, "share": 0, "ms": 0} for name in methods
    }
    for image, text, is_left in halves(samples, size):
        match = prepare(encoder, image, text, blank=options.blank)
        for name, explain in methods.items():
            start = time.perf_counter()
            values = explain(match)
            row = results[name]
            row["ms"] += (time.perf_counter() - start) * 1000 / len(samples)
            pixels = spread(values, size)
            sides = [pixels[:, : size // 2], pixels[:, size // 2 :]]
            right, wrong = sides if is_left else sides[::-1]
            row["half"] += float(right.sum() > wrong.sum()) / len(samples)
            row["peak"] += (1 + torch.sign(right.max() - wrong.max()).item()) / 2 / len(samples)
            positive = right.clamp(min=0).sum(), wrong.clamp(min=0).sum()
            row["share"] += (positive[0] / sum(positive).clamp(min=1e-9)).item() / len(samples)
    return results


def measure_cells(
    encoder: TorchEncoder, samples: list[Sample], methods: dict[str, Explain], options
) -> dict:
    """Of each method: the areas under deletion and insertion."""
    size = encoder.image_size
    results = {name: {"deletion": 0.0, "insertion": 0.0} for name in methods}
    for sample in samples:
        match = prepare(encoder, sample.image, sample.english, blank=options.blank)
        for name, explain in methods.items():
            values = match.cells.sum(spread(explain(match), size)).flatten()
            order = values.argsort(descending=True)
            count = len(order)
            # Row k keeps the k first cells.
            kept = torch.zeros(count + 1, count, dtype=torch.bool)
            for step, cell in enumerate(order):
                kept[step + 1 :, cell] = True
            for metric, mask in {"insertion": kept, "deletion": ~kept}.items():
                pixels = match.cells.mix(match.pixels, match.blank_pixels, mask)
                area = match.cosines_of_pictures(pixels).mean().item() / match.cosine
                results[name][metric] += area / len(samples)
    return results


def measure_words(encoder: TorchEncoder, samples: list[Sample], options) -> dict:
    """Of each method: how often the picture's name has more than another name."""
    results: dict[str, dict[str, float]] = {}
    for number, (sample, other) in enumerate(zip(samples, samples[1:] + samples[:1], strict=True)):
        for language, joint in {"english": " and ", "chinese": "和"}.items():
            names = [getattr(sample, language), getattr(other, language)]
            is_first = number % 2 == 0
            text = joint.join(names if is_first else names[::-1])
            match = prepare(encoder, sample.image, text, blank=options.blank)
            border = len(names[0] if is_first else names[1])
            for name, method in METHODS.items():
                try:
                    values = method.explain_text(match) if method.explain_text else None
                except UserError:
                    values = None
                if values is None:
                    continue
                sums = [0.0, 0.0]
                for word, value in zip(match.text.words, values.values.tolist(), strict=True):
                    if word.end <= border:
                        sums[0] += value
                    elif word.start >= border + len(joint):
                        sums[1] += value
                right, wrong = sums if is_first else sums[::-1]
                row = results.setdefault(name, {})
                row[language] = row.get(language, 0) + float(right > wrong) / len(samples)
    return results


#: Keys of the measurements -> heads of the table's columns.
COLUMNS = {
    "half": "right half has more",
    "peak": "peak in it",
    "share": "share",
    "deletion": "deletion ↓",
    "insertion": "insertion ↑",
    "english": "words, English",
    "chinese": "words, Chinese",
    "ms": "ms",
}


def measure(checkpoint: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All figures of a checkpoint: method -> key of `COLUMNS` -> value."""
    encoder = load_encoder(checkpoint)
    assert isinstance(encoder, TorchEncoder), "the methods need a checkpoint"
    methods = explainers(encoder)
    samples = choose_samples(encoder, options.samples)
    parts = [
        measure_halves(encoder, samples, methods, options),
        measure_cells(encoder, samples, methods, options),
        measure_words(encoder, samples, options),
    ]
    return {
        name: {key: value for part in parts for key, value in part.get(name, {}).items()}
        for name in methods
    }


def write_table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each method."""
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name, row in figures.items():
        cells = [
            "" if key not in row else f"{row[key]:.0f}" if key == "ms" else f"{row[key]:.3f}"
            for key in COLUMNS
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="*", default=["outputs/emoji"])
    parser.add_argument("--samples", type=int, default=150)
    parser.add_argument("--blank", default="mean", help="what stands for a missing cell")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {}
    for checkpoint in options.checkpoints:
        figures[checkpoint] = measure(checkpoint, options)
        print(f"{checkpoint}, {options.samples} pictures\n\n{write_table(figures[checkpoint])}\n")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
