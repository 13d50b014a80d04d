"""The model of an index as the page runs it: its files, and how inputs are prepared.

Shape legend: `T` texts, `P` projection.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..search.index import PictureIndex
from ..utils.errors import UserError

#: Filters that resize.js has.
RESAMPLE = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def describe_model(index: PictureIndex) -> dict[str, Any]:
    """What the page must know to run the towers of an index.

    Raises:
        UserError: the model has no export with both towers, or one that browsers cannot run.
    """
    folder = index.model_folder
    manifest = read_json(folder / "export.json")
    parts = manifest["components"]
    if set(parts) != {"image", "text"}:
        raise UserError(f"the model of {index.name!r} must be exported with both towers as graphs")
    config = read_json(folder / "tokenizer_config.json")
    return {
        "name": index.settings.model.name.rstrip("/").rsplit("/", 1)[-1],
        "logit_scale": manifest["logit_scale"],
        "logit_bias": manifest["logit_bias"],
        "max_text_length": manifest["max_text_length"],
        "text_inputs": manifest["text_inputs"],
        "splits_special_tokens": bool(config.get("split_special_tokens")),
        "files": {name: graph_files(folder, part["file"]) for name, part in parts.items()},
    }


def pack_background(embeds: np.ndarray) -> bytes:
    """The embeddings of the fixed texts about everything, (T, P), as rejection.js reads them."""
    return embeds.astype("<f2").tobytes()


def graph_files(folder: Path, graph: str) -> list[str]:
    """A graph's file, and those with its weights."""
    return [graph, *sorted(file.name for file in folder.glob(f"{graph}.*"))]


def describe_preparation(index: PictureIndex) -> dict[str, Any]:
    """How a picture becomes the input of the image tower.

    Raises:
        UserError: resize.js does not have the filter, or makes no patches.
    """
    fields = read_json(index.model_folder / "processor_config.json")
    fields = fields.get("image_processor", fields)
    if "max_num_patches" in fields:
        raise UserError(
            f"the model of {index.name!r} takes images in their own aspect ratio (image_seq_lens), "
            "and the page makes squares of pictures: search such an index with clip-vit search"
        )
    size, crop = fields["size"], fields.get("crop_size") if fields.get("do_center_crop") else None
    resample = Image.Resampling(fields.get("resample", Image.Resampling.BICUBIC))
    if resample not in RESAMPLE:
        raise UserError(
            f"the model of {index.name!r} resizes pictures by {resample.name.lower()}, and the "
            f"page only has {' and '.join(RESAMPLE.values())}"
        )
    is_normalized = fields.get("do_normalize", True)
    return {
        "image_size": index.settings.model.image_size,
        "shortest_edge": size.get("shortest_edge"),
        "width": size.get("width"),
        "height": size.get("height"),
        "crop": crop and crop["height"],
        "resample": RESAMPLE[resample],
        "mean": fields["image_mean"] if is_normalized else [0.0] * 3,
        "std": fields["image_std"] if is_normalized else [1.0] * 3,
        "rescale": fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 1.0,
    }


def copy_model(index: PictureIndex, target: Path):
    """Copy what the page needs of the model: graphs, weights and tokenizer."""
    target.mkdir()
    files = describe_model(index)["files"]
    for name in (*files["text"], *files["image"], *TOKENIZER_FILES):
        shutil.copyfile(index.model_folder / name, target / name)


def read_json(path: Path) -> Any:
    """The content of a JSON file of the model.

    Raises:
        UserError: it is not there or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the model of the index cannot be read: {path.name}: {error}") from error
