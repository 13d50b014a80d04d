"""A CLIP of open_clip as one of ours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ...configuration_clip_vit import ClipVitConfig
from ...modeling_clip_vit import ClipVitModel
from ...utils.packages import require
from ..peer_checkpoints import Checkpoint, folder_of, tensors_only
from ..weights import ConversionError, Rule, move_weights, same
from .images import plan_images
from .texts import plan_texts

#: The largest factor on the cosines that a published model trained with softmax has.
LARGEST_SCALE = 100.0
#: What open_clip warns of where it builds a model without weights.
NO_WEIGHTS = ("no CLIP weights found", "Model initialized randomly")


def from_open_clip(source: nn.Module | Checkpoint) -> ClipVitModel:
    """A CLIP of open_clip as one of ours.

    Its own towers, and the ViTs of timm that ours can be, become our own; other models of timm, its
    ResNets, and encoders of Transformers become towers as they are.

    Args:
        source: a model of open_clip, a folder with its open_clip_config.json and weights, or a file
            of weights in such a folder.

    Raises:
        ConversionError: it has a part that ours has not.
    """
    peer: Any = load(source) if isinstance(source, str | Path) else source
    config, rules, changed = plan(peer)
    model = ClipVitModel(config)
    move_weights(peer, model, rules, to_ours=True, changed=changed)
    return model.eval()


def plan(peer: Any) -> tuple[ClipVitConfig, list[Rule], dict]:
    """Our configuration of a model, which weights belong together, and those to replace.

    Raises:
        ConversionError: it has a part that ours has not.
    """
    if type(peer).__name__ not in ("CLIP", "CustomTextCLIP"):
        raise ConversionError(
            f"a {type(peer).__name__} of open_clip has more than two towers: CLIP and "
            "CustomTextCLIP are converted"
        )
    images = plan_images(peer.visual)
    texts, size = plan_texts(peer)
    has_bias = peer.logit_bias is not None
    config = ClipVitConfig(
        vision_config=images.fields,
        text_config=texts.fields,
        projection_dim=size,
        logit_bias_init_value=peer.logit_bias.item() if has_bias else None,
        # Published models trained with a sigmoid exceed any bound that one would choose.
        logit_scale_max=None if has_bias else LARGEST_SCALE,
    )
    rules = [
        *same("similarity.logit_scale", "logit_scale"),
        *same("similarity.logit_bias", "logit_bias"),
        *images.rules,
        *texts.rules,
    ]
    return config, rules, {**images.changed, **texts.changed}


def import_open_clip():
    """Import open_clip, which only this conversion needs.

    Raises:
        MissingPackageError: it is not installed.
    """
    require(("open_clip",), "convert", "a conversion from or to open_clip")
    import open_clip

    return open_clip


def load(source: Checkpoint) -> Any:
    """The model of a folder with open_clip_config.json, with the weights in it or those of a file.

    Raises:
        ConversionError: the weights are a pickle of more than tensors, or not those of the model,
            or the configuration of its text tower cannot be had.
    """
    open_clip = import_open_clip()
    is_file = Path(source).is_file()
    try:
        with tensors_only(source):
            if is_file:
                with without_warnings(NO_WEIGHTS):
                    peer = open_clip.create_model(
                        f"local-dir:{folder_of(source)}", load_weights=False
                    )
                open_clip.load_checkpoint(peer, str(source), weights_only=True)
            else:
                peer = open_clip.create_model(
                    f"local-dir:{folder_of(source)}", require_pretrained=True
                )
    # open_clip's errors have no class of their own; OSError is of a text tower on the Hub.
    except (RuntimeError, OSError) as error:
        raise ConversionError(f"open_clip cannot load {str(source)!r}: {error}") from error
    return peer.eval()


@contextmanager
def without_warnings(parts: tuple[str, ...]) -> Iterator[None]:
    """Drop what is logged to the root logger, as open_clip does, with one of these parts in it."""

    def is_kept(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in parts)

    logger = logging.getLogger()
    logger.addFilter(is_kept)
    try:
        yield
    finally:
        logger.removeFilter(is_kept)
