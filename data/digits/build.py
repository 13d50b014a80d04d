"""Builds the handwritten digits as an image dataset, from the installed scikit-learn.

    python data/digits/build.py

Every fifth of each digit, in scikit-learn's order, is in `validation`, the others are in `train`.
With the same versions of datasets, pyarrow and Pillow the files come out byte for byte the same.
"""

import io
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from sklearn.datasets import load_digits

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
#: scikit-learn's pixels are counts from 0 to 16.
LARGEST_COUNT = 16
HELD_OUT_EVERY = 5


def encode(counts: np.ndarray) -> bytes:
    """A digit, (8, 8) from 0 to 16, as a grey PNG, light on dark as it was."""
    grey = np.rint(counts * (255 / LARGEST_COUNT)).astype(np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(grey).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def count_before(labels: np.ndarray) -> np.ndarray:
    """For each label, how many equal ones come before it."""
    return np.array([(labels[:place] == label).sum() for place, label in enumerate(labels)])


def build(folder: Path):
    """Write a parquet file for each split into a folder."""
    digits = load_digits()
    features = Features(image=Image(), label=ClassLabel(names=NAMES))
    is_held_out = count_before(digits.target) % HELD_OUT_EVERY == 0
    folder.mkdir(exist_ok=True)
    for split, chosen in {"train": ~is_held_out, "validation": is_held_out}.items():
        rows = {
            "image": [{"bytes": encode(image), "path": None} for image in digits.images[chosen]],
            "label": digits.target[chosen].tolist(),
        }
        path = folder / f"{split}-00000-of-00001.parquet"
        Dataset.from_dict(rows, features=features).to_parquet(path)
        print(f"{path}: {len(rows['label'])} digits, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    build(Path(__file__).parent / "data")
