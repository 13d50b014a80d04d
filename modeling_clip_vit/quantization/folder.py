"""A quantised model on disk."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..hub.sentence_transformers import write_sentence_transformers_files
from ..modeling_clip_vit import ClipVitModel
from ..utils.folders import write_json

#: How a model was quantised, what it was measured to do, and how large it is.
FACTS_FILE = "quantization.json"


def write_quantized(quantized: PreTrainedModel, processor: Any, folder: Path, facts: dict):
    """Write a model with torchao's weights, for `AutoModel`, its processor and facts about it.

    Args:
        quantized: as `eight_bits.quantize` makes it.
        processor: its processor; for a classifier, its image processor.
        folder: an empty folder.
        facts: plain values; the size of the weights is added.
    """
    quantized.save_pretrained(folder)
    processor.save_pretrained(folder)
    if isinstance(quantized, ClipVitModel):
        write_sentence_transformers_files(folder)
    write_facts(folder, facts)


def write_facts(folder: Path, facts: dict):
    """Write facts about a quantised model: plain values, to which its size is added."""
    facts = {**facts, "bytes": weight_bytes(folder)}
    write_json(folder / FACTS_FILE, facts)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in the folder of a checkpoint or an export."""
    kinds = ("*.safetensors", "*.bin")
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(kind))
