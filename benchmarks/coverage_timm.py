"""Models of timm of ViT kind for conversion_coverage.py, cut to two narrow blocks where timm can.

`image` is what the tower becomes: `clip_vit_vision_model`, ours, or `timm_wrapper`, timm's own.
"""

import tempfile
from pathlib import Path

import timm
import torch
from timm.data import resolve_model_data_config
from transformers import AutoModel, AutoModelForImageClassification

from modeling_clip_vit import ClipVitConfig, ClipVitForImageClassification, ClipVitModel
from modeling_clip_vit.conversion import ConversionError
from modeling_clip_vit.conversion.processors import timm_processor
from modeling_clip_vit.conversion.timm_models import compare_images, from_timm, to_timm
from modeling_clip_vit.conversion.verify import compare, pool, verify

KINDS = ["vit*", "deit*", "eva*", "beit*", "flexivit*", "naflexvit*"]
#: Arguments that make a model small, the first of which timm accepts is taken.
CUTS = (
    {"depth": 2, "embed_dim": 128, "num_heads": 2},
    {"depth": 2},
    {"depths": (1, 1, 1, 1)},
    {},
)
#: Parameters of the largest model that is built: 2 GB in float32, of which there are up to three.
LARGEST = 150_000_000
#: Image preparation -> its largest difference of a pixel: many models have the same.
MEASURED: dict[str, float] = {}
TEXT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 8,
    "bos_token_id": 98,
    "eos_token_id": 99,
    "pad_token_id": 0,
}


def list_models() -> list[str]:
    """The names of all models of these kinds."""
    return timm.list_models(KINDS)


def check(name: str) -> dict:
    """Convert a model there and back, and save and load it: the fields of its row."""
    torch.manual_seed(0)
    arguments = cut(name)
    if arguments is None:
        return {"reason": f"more than {LARGEST:,} parameters, and timm cannot cut it"}
    peer = stir(timm.create_model(name, **arguments))
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        try:
            if peer.num_classes:
                row = check_classifier(peer, arguments, Path(folder))
            else:
                row = check_tower(peer, name, arguments, Path(folder))
        except ConversionError as reason:
            return {"reason": str(reason)}
    return row


def cut(name: str) -> dict | None:
    """The arguments that make a model small; None where it stays too large."""
    for arguments in CUTS:
        try:
            model = timm.create_model(name, device="meta", **arguments)
        except (TypeError, RuntimeError, AssertionError, IndexError, ValueError, KeyError):
            continue
        count = sum(weight.numel() for weight in model.parameters())
        return arguments if count <= LARGEST else None
    return None


def stir(model):
    """Noise in every weight: what starts as 0 or 1 would hide a mix-up."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def check_classifier(peer, arguments: dict, folder: Path) -> dict:
    """A model with a class head: logits, class names and pixels."""
    ours = from_timm(peer, arguments)
    assert len(ours.config.id2label) == peer.num_classes
    row = {
        "image": ours.vision_model.config.model_type,
        "difference": largest(verify(peer, ours, ours.config)),
        "pixels": pixels(peer, folder),
    }
    try:
        row["back"] = largest(verify(peer, to_timm(ours), ours.config))
    except ConversionError as reason:
        row["only_read"] = str(reason)
    ours.save_pretrained(folder)
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    assert isinstance(loaded, ClipVitForImageClassification)
    row["loaded"] = largest(verify(ours, loaded, ours.config))
    return row


def check_tower(peer, name: str, arguments: dict, folder: Path) -> dict:
    """A model without a class head: as a tower of ours, or as it is in a joint model."""
    try:
        ours = from_timm(peer, arguments)
        row = {
            "image": ours.config.model_type,
            "difference": largest(verify(peer, ours, ours.config)),
            "pixels": pixels(peer, folder),
        }
    except ConversionError:
        return check_joint(peer, name, arguments, folder)
    try:
        row["back"] = largest(verify(peer, to_timm(ours), ours.config))
    except ConversionError as reason:
        row["only_read"] = str(reason)
    return row


def check_joint(peer, name: str, arguments: dict, folder: Path) -> dict:
    """A model of timm as it is, as the image tower of a saved and loaded joint model."""
    vision = {"model_type": "timm_wrapper", "architecture": name, "model_args": arguments}
    model = ClipVitModel(ClipVitConfig(vision_config=vision, text_config=TEXT)).eval()
    model.vision_model.timm_model.load_state_dict(peer.state_dict())
    model.save_pretrained(folder)
    loaded = AutoModel.from_pretrained(folder)
    size = resolve_model_data_config(peer)["input_size"]
    images = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    expected = {"pooler_output": peer(images)}
    given = pool(loaded, {"pixel_values": images})
    difference = largest(compare(expected, given))
    return {"image": "timm_wrapper", "difference": difference, "pixels": pixels(peer, folder)}


def pixels(peer, folder: Path) -> float:
    """Largest difference of a pixel between timm's transform and the image processor."""
    key = str(resolve_model_data_config(peer))
    if key not in MEASURED:
        MEASURED[key] = compare_images(peer, timm_processor(peer, folder), folder)
    return MEASURED[key]


def largest(differences: dict[str, float]) -> float:
    """The largest difference of an output, as a share of its largest value."""
    return max(differences.values())
