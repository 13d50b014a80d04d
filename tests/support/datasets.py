"""A small dataset on disk: squares of eight colours."""

from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, List, Value

from .pictures import COLORS, draw_picture


def write_squares(folder: Path):
    """Parquet: in the split `train` two squares a colour, and a third, unseen, in `validation`."""
    features = Features(
        {
            "image": Image(),
            "caption_en": Value("string"),
            "caption_zh": Value("string"),
            "tags_en": List(Value("string")),
            "key": Value("string"),
            "kind": ClassLabel(names=["warm", "cold"]),
        }
    )
    for split, seeds in {"train": (0, 1), "validation": (2,)}.items():
        rows = [
            {
                "image": draw_picture(color, 100 * seed + number),
                "caption_en": f"a {color} square",
                "caption_zh": f"{chinese}方块",
                "tags_en": ["square", color],
                "key": color,
                "kind": "cold" if color in ("green", "blue", "black") else "warm",
            }
            for seed in seeds
            for number, (color, chinese) in enumerate(COLORS.items())
        ]
        Dataset.from_list(rows, features=features).to_parquet(
            folder / f"{split}-00000-of-00001.parquet"
        )
