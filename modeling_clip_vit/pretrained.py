"""What all models share: initial weights, and how they are saved and loaded."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .attention import ClipVitAttention
from .companions import copy_companions
from .encoder import ClipVitEncoderLayer


class ClipVitPreTrainedModel(PreTrainedModel):
    """Initial weights, loading and saving for every model below.

    A saved folder holds, besides weights and configuration, the files of this model, so that the
    Auto classes load it with `trust_remote_code=True` where this package is not installed.
    """

    base_model_prefix = "clip_vit"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "ClipVitVisionEmbeddings",
        "ClipVitTextEmbeddings",
        "ClipVitEncoderLayer",
        "ClipVitAttentionPooling",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": ClipVitEncoderLayer, "attentions": ClipVitAttention}
    _auto_class = "AutoModel"
    #: Auto classes that load this model's folder: name -> "file.class"; AutoModel alone when empty.
    _auto_classes: dict[str, str] = {}

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as `PreTrainedModel.save_pretrained` does, for all the Auto classes."""
        # Every name, whichever of the Auto classes this one was loaded by.
        reference = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        self.config.auto_map = dict(self._auto_classes or {"AutoModel": reference})
        super().save_pretrained(save_directory, *args, **kwargs)

    def push_to_hub(self, *args, processor=None, **kwargs):  # type: ignore[override]
        """Upload as `PreTrainedModel.push_to_hub` does, with what belongs to the model.

        That is its code, its processor and, if the weights are still those that were loaded, its
        card.

        Args:
            processor: of the model; by default that of where the model was loaded from.
            args, kwargs: of `PreTrainedModel.push_to_hub`; the first is `user/name`.
        """
        self._processor = processor
        try:
            return super().push_to_hub(*args, **kwargs)
        finally:
            del self._processor

    def _upload_modified_files(self, working_dir, *args, **kwargs):
        """Upload a saved model; Transformers calls this once all else is in the folder."""
        copy_companions(self, Path(working_dir), getattr(self, "_processor", None))
        return super()._upload_modified_files(working_dir, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise as Transformers does, then as the module's `initialize` does, then heads."""
        super()._init_weights(module)
        initialize = getattr(module, "initialize", None)
        if callable(initialize):
            initialize()
        for name in ("visual_projection", "text_projection", "classifier"):
            for layer in getattr(module, name, nn.Identity()).modules():
                if isinstance(layer, nn.Linear):
                    init.normal_(layer.weight, std=layer.in_features**-0.5)


def load_whole(model_class: type, path: str, **kwargs) -> Any:
    """`model_class.from_pretrained(path, **kwargs)`, with an error instead of a warning.

    Transformers only warns of weights that a checkpoint lacks, and initialises them at random.

    Raises:
        ValueError: the checkpoint lacks weights or has unexpected ones; the message names them.
    """
    model, report = load_with_report(model_class, path, **kwargs)
    refuse_misfits(path, model, report)
    return model


def load_with_report(model_class: Any, path: str | None, **kwargs) -> tuple[Any, dict]:
    """A model, and the weights that do not fit: `missing_keys`, `mismatched_keys` and so on."""
    return model_class.from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )


def refuse_misfits(path: str, model: PreTrainedModel, report: dict):
    """Reject a checkpoint whose weights do not fit a model.

    Args:
        path: of the checkpoint, for the message.
        model: that was loaded from it.
        report: of `load_with_report`.

    Raises:
        ValueError: some do not; the message names them.
    """
    shapes = [
        f"{name} {tuple(in_checkpoint)} instead of {tuple(in_model)}"
        for name, in_checkpoint, in_model in report["mismatched_keys"]
    ]
    misfits = {
        "lacks": report["missing_keys"],
        "has, besides the model's,": report["unexpected_keys"],
        "has in another shape": shapes,
    }
    problems = [
        f"{problem} {abbreviate_names(names)}" for problem, names in misfits.items() if names
    ]
    if problems:
        raise ValueError(
            f"{str(path)!r} does not fit a {type(model).__name__}: it {', and '.join(problems)}"
        )


def abbreviate_names(names, most: int = 3) -> str:
    """The first names in order, and the number of others."""
    ordered = sorted(names)
    others = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {others} more" if others > 0 else "")
