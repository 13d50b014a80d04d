"""How well `clip-vit classify --none_of_these` tells pictures of other things.

    python benchmarks/none_of_these.py --models outputs/emoji [outputs/siglip] [--json none.json]

Emoji by the artist that training never saw. The names of some are the classes; as many pictures
have a name among them as have none; twenty draws for each number of classes. Prints the area under
the curve, and the mean of misses and false alarms at the default margin.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from datasets import load_dataset

from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.search.cut import background_texts
from modeling_clip_vit.search.rejection import LEAST_MARGIN, class_margins

DATA = Path(__file__).parents[1] / "data" / "emoji" / "data"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["outputs/emoji"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = load_dataset("parquet", data_files=str(DATA / "validation-*.parquet"))["train"]
    images = [decode_image(image) for image in rows["image"]]
    results = {}
    print("| model | classes | AUC | error |\n| --- | --- | --- | --- |")
    for model in options.models:
        encoder = load_encoder(model)
        embeds = encoder.encode_image(images).numpy()
        names = encoder.encode_text(list(rows["caption_en"])).numpy()
        background = encoder.encode_text(background_texts()).numpy()
        for count in (5, 20, 100):
            area, error = measure(embeds, names, background, count)
            results[f"{Path(model).name}, {count}"] = {"area": area, "error": error}
            print(f"| {Path(model).name} | {count} | {area:.3f} | {error:.1%} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def measure(
    embeds: np.ndarray, names: np.ndarray, background: np.ndarray, count: int
) -> tuple[float, float]:
    """Area and error over twenty draws of classes.

    Args:
        embeds: of pictures, (N, P).
        names: of the same, (N, P).
        background: of the fixed texts, (T, P).
        count: number of classes.
    """
    inside, outside = [], []
    for seed in range(20):
        drawn = np.random.default_rng(seed).permutation(len(embeds))
        classes, others = drawn[:count], drawn[count : 2 * count]
        inside.append(class_margins(embeds[classes], names[classes], background))
        outside.append(class_margins(embeds[others], names[classes], background))
    fits, rest = np.concatenate(inside), np.concatenate(outside)
    area = float((fits[:, None] > rest[None]).mean())
    misses, alarms = (fits < LEAST_MARGIN).mean(), (rest >= LEAST_MARGIN).mean()
    return area, float((misses + alarms) / 2)


if __name__ == "__main__":
    main()
