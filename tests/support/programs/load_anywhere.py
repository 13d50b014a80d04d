"""Load a checkpoint without this package, with the Transformers and torch first on the path.

    python load_anywhere.py OUTPUT PATH

Writes the embeddings to OUTPUT; PATH is a folder, or the id of a model in the Hub's cache.
"""

import json
import sys

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    pipeline,
)


class Block:
    """Keeps this package from being found."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "modeling_clip_vit":
            raise ModuleNotFoundError(f"No module named {name}", name=name)


def main(path: str, output: str):
    """Load in every way, embed, and write the embeddings and scores."""
    sys.meta_path.insert(0, Block())
    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    model = AutoModel.from_pretrained(path, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
    pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    texts = ["a red square", "蓝色方块", "red <eos> square"]
    inputs = processor(
        text=texts, images=[image], padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        embeds = model(**inputs)
    other = AutoModelForZeroShotImageClassification.from_pretrained(path, trust_remote_code=True)
    assert type(other).__name__ == type(model).__name__ == "ClipVitModel"
    classify = pipeline("zero-shot-image-classification", model=path, trust_remote_code=True)
    labels = ["a red square", "a blue square", "a very long label " * 30]
    scores = {row["label"]: row["score"] for row in classify(image, candidate_labels=labels)}
    outputs = {
        "versions": [transformers.__version__, torch.__version__],
        "model_type": config.model_type,
        "image_embeds": embeds.image_embeds.tolist(),
        "text_embeds": embeds.text_embeds.tolist(),
        "scores": [scores[label] for label in labels],
    }
    with open(output, "w") as file:
        json.dump(outputs, file)


if __name__ == "__main__":
    main(sys.argv[2], sys.argv[1])
