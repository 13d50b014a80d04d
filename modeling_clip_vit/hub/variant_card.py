"""Short cards for what comes without one: adapters, exports, quantised models, indexes."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, ModelCardData

from ..utils.hub_ids import is_hub_id
from .contents import Contents
from .templates import render_packaged

#: The file that says what a folder of a kind is.
FACTS = {"adapter": "adapter_config.json", "export": "export.json", "index": "index.json"}
QUANTIZED_FACTS = "quantization.json"
#: What the templates use from it.
NEEDED = {
    "adapter": ("peft_type",),
    "export": ("format", "precision", "image_size", "max_text_length", "embedding_size"),
    "quantized": ("mode", "weight_bits", "bytes"),
}


def build_variant_cards(contents: Contents, repo_id: str) -> dict[str, str]:
    """The cards of a folder without one, in English and Chinese; none for pages and datasets.

    Args:
        contents: of the folder.
        repo_id: that it is uploaded to.
    """
    if "README.md" in contents.files or not contents.kind.has_written_card:
        return {}
    kind = contents.kind.name
    if (contents.folder / QUANTIZED_FACTS).is_file():
        kind = "quantized"
    facts = read_facts(contents.folder / FACTS.get(kind, QUANTIZED_FACTS))
    if kind == "quantized":  # a run calls them by the names of its options
        facts = {name.removeprefix("quantization_"): value for name, value in facts.items()}
    if not all(name in facts for name in NEEDED.get(kind, ())):
        kind = "other"  # by an older version, or by hand
    base = base_of(facts)
    context = {
        "kind": kind,
        "facts": facts,
        "has_base": bool(base),
        "base": base or "user/name of the base model",
        "name": repo_id.rpartition("/")[2],
        "repository": repo_id,
        "metadata": describe(kind, facts, base).to_yaml(),
        "metrics": compare(facts) if kind == "quantized" else [],
    }
    return {
        "README.md": render_packaged("variant_card.md", context),
        "README.zh-CN.md": render_packaged("variant_card.zh-CN.md", context),
    }


def read_facts(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty without one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def base_of(facts: dict[str, Any]) -> str:
    """The id on the Hub of the model that this was made from; empty if that is a folder."""
    name = str(facts.get("base_model") or facts.get("base_model_name_or_path") or "")
    return name if is_hub_id(name) and not Path(name).exists() else ""


def describe(kind: str, facts: dict[str, Any], base: str) -> ModelCardData | DatasetCardData:
    """The metadata of a card."""
    if kind == "index":
        return DatasetCardData(tags=["clip_vit", "image-search", "embeddings"])
    relation = "adapter" if kind == "adapter" else "quantized"
    origin: dict[str, Any] = {"base_model": base, "base_model_relation": relation} if base else {}
    library = {"adapter": "peft", "export": facts.get("format")}.get(kind, "transformers")
    return ModelCardData(library_name=library, tags=["clip_vit", kind], **origin)


def compare(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of a quantised model next to those of the float one."""
    after, before = facts.get("metrics") or {}, facts.get("float_metrics") or {}
    if not isinstance(after, dict) or not isinstance(before, dict):
        return []
    return [
        {"name": name, "before": before[name], "after": value}
        for name, value in after.items()
        if name in before
    ]
