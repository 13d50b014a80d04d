"""A quantised model on disk."""

import json
from pathlib import Path
from typing import Any

from transformers import CLIPProcessor

from ..hub.sentence_transformers import write_sentence_transformers_files
from ..modeling_clip_vit import ClipVitModel

#: How a model was quantised, what it was measured to do, and how large it is.
FACTS_FILE = "quantization.json"


def write_quantized(quantized: Any, processor: CLIPProcessor, folder: Path, facts: dict):
    """Write a quantised model with its processor and what is known of it.

    Args:
        quantized: a model with torchao's weights, for `AutoModel`, or an `OpenVinoClip`.
        processor: its tokenizer and image processor.
        folder: an empty folder.
        facts: plain values; the size of the weights is added.
    """
    quantized.save_pretrained(folder)
    processor.save_pretrained(folder)
    if isinstance(quantized, ClipVitModel):
        write_sentence_transformers_files(folder)
    facts = {**facts, "bytes": weight_bytes(folder)}
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    (folder / FACTS_FILE).write_text(text + "\n", encoding="utf-8")


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a checkpoint's folder."""
    kinds = ("*.safetensors", "*.bin")
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(kind))
