"""What a checkpoint or an export is, in words and numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.errors import UserError

EXPORT_FILE = "export.json"
METRICS_FILE = "metrics.json"

#: Fields of a tower's configuration that are shown, where it has them.
TOWER_FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "image_size", "patch_size", "patch_embedding", "vocab_size"),
    *("max_position_embeddings", "attention_type", "norm_type", "mlp_type", "hidden_act"),
    *("position_embedding_type", "pooling", "num_register_tokens"),
)


def describe_export(folder: Path) -> dict[str, Any]:
    """Everything about an export that `clip-vit info` shows; its files are not checked.

    Raises:
        UserError: its export.json cannot be read.
    """
    try:
        manifest = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        parts = {name: part["file"] for name, part in manifest["components"].items()}
        facts = {
            "kind": "exported model",
            "format": manifest["format"],
            "precision": manifest["precision"],
            "parts": parts,
            "model type": manifest["model_type"],
        }
        sizes = {name: file["size"] for name, file in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{str(folder)!r} is no export of this package: its {EXPORT_FILE} cannot be read"
        ) from error
    for name in ("image_size", "embedding_size", "max_text_length", "vocab_size"):
        facts[name.replace("_", " ")] = manifest.get(name)
    facts |= {"logit scale": manifest.get("logit_scale"), "logit bias": manifest.get("logit_bias")}
    packages = [
        part.get("metadata", {}).get("packages") for part in manifest["components"].values()
    ]
    facts["written with"] = next(filter(None, packages), None)
    facts["size in MB"] = round(sum(sizes.values()) / 1e6, 1)
    return facts


def describe_checkpoint(path: str) -> dict[str, Any]:
    """Everything about a checkpoint that `clip-vit info` shows.

    Parameters and floating-point operations are counted, not looked up: the operations are those
    of the products and convolutions of one image of the model's size and of one text of full
    length, two for each multiplication with its addition.

    Raises:
        LoadError: it cannot be loaded.
    """
    from .classifier import is_classifier

    facts = describe_classifier(path) if is_classifier(path) else describe_clip(path)
    folder = Path(path).expanduser()
    if (folder / METRICS_FILE).is_file():
        facts |= describe_run(json.loads((folder / METRICS_FILE).read_text(encoding="utf-8")))
    return facts


def describe_clip(path: str) -> dict[str, Any]:
    """A model of images and texts."""
    import torch

    from .loading import TorchEncoder, load_clip

    model, processor = load_clip(path)
    encoder = TorchEncoder(model, processor)
    config: Any = model.config
    size = encoder.image_size
    device, dtype = model.device, model.dtype
    pixels = torch.zeros(1, 3, size, size, device=device, dtype=dtype)
    length = getattr(config.text_config, "max_position_embeddings", None) or 64
    tokens = torch.ones(1, length, device=device, dtype=torch.long)
    scale, bias = encoder.similarity
    vision, text = towers_of(model)
    return {
        "kind": "model of images and texts",
        "model type": config.model_type,
        "parameters": count_parameters(model),
        "embedding size": config.projection_dim if hasattr(config, "projection_dim") else None,
        "image tower": tower_facts(config.vision_config)
        | {"parameters": count_parameters(vision)}
        | {"GFLOPs per image": flops(lambda: model.get_image_features(pixel_values=pixels))},
        "text tower": tower_facts(config.text_config)
        | {"parameters": count_parameters(text)}
        | {"GFLOPs per text": flops(lambda: model.get_text_features(input_ids=tokens))},
        "logit scale": round(scale, 4),
        "logit bias": None if bias is None else round(bias, 4),
        "precision": str(dtype).removeprefix("torch."),
    }


def describe_classifier(path: str) -> dict[str, Any]:
    """A model with a class head."""
    import torch

    from .classifier import load_classifier

    classifier = load_classifier(path)
    model = classifier.model
    size = classifier.image_size
    pixels = torch.zeros(1, 3, size, size, device=model.device, dtype=model.dtype)
    names = classifier.class_names
    shown = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
    return {
        "kind": "model with a class head",
        "model type": model.config.model_type,
        "parameters": count_parameters(model),
        "classes": f"{len(names)}: {shown}",
        "image tower": tower_facts(model.config)
        | {"GFLOPs per image": flops(lambda: model(pixel_values=pixels))},
        "precision": str(model.dtype).removeprefix("torch."),
    }


def towers_of(model: Any) -> tuple[Any, Any]:
    """The image and the text tower of a model, each without its projection."""
    return getattr(model, "vision_model", None), getattr(model, "text_model", None)


def tower_facts(config: Any) -> dict[str, Any]:
    """Type and options of a tower, as far as its configuration has them."""
    values = {name: getattr(config, name, None) for name in TOWER_FIELDS}
    known = {name.replace("_", " "): value for name, value in values.items() if value is not None}
    return {"type": config.model_type, **known}


def count_parameters(module: Any) -> int | None:
    """Numbers that a module learns; None without a module."""
    return None if module is None else sum(weight.numel() for weight in module.parameters())


def flops(run: Any) -> float:
    """Floating-point operations of a forward pass, in billions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        run()
    return float(f"{counter.get_total_flops() / 1e9:.3g}")


def describe_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's metrics.json says: the data, the effort, the metrics."""
    recipe = run.get("recipe") or {}
    metrics = run.get("metrics") or {}
    facts = {
        "trained on": recipe.get("dataset"),
        "loss": recipe.get("loss"),
        "steps": run.get("steps"),
        "training seconds": run.get("train_seconds") and round(run["train_seconds"]),
        "code": run.get("code"),
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
    }
    return {name: value for name, value in facts.items() if value}
