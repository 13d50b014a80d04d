"""A quantised model on disk."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..hub.sentence_transformers import write_sentence_transformers_files
from ..modeling_clip_vit import ClipVitModel

#: How a model was quantised, what it was measured to do, and how large it is.
FACTS_FILE = "quantization.json"


def write_quantized(quantized: PreTrainedModel, processor: Any, folder: Path, facts: dict):
    """Write a model with torchao's weights, for `AutoModel`, its processor and what is known of it.

    Args:
        quantized: as `eight_bits.quantize` makes it.
        processor: its processor, or of a classifier its image processor.
        folder: an empty folder.
        facts: plain values; the size of the weights is added.
    """
    quantized.save_pretrained(folder)
    processor.save_pretrained(folder)
    if isinstance(quantized, ClipVitModel):
        write_sentence_transformers_files(folder)
    write_facts(folder, facts)


def write_facts(folder: Path, facts: dict):
    """Write what is known of a quantised model: plain values, to which its size is added."""
    facts = {**facts, "bytes": weight_bytes(folder)}
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    (folder / FACTS_FILE).write_text(text + "\n", encoding="utf-8")


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a checkpoint's folder or an export's."""
    kinds = ("*.safetensors", "*.bin")
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(kind))
