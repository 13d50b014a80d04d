"""vit-pytorch's ViT and SimpleViT, and models written after them.

The package keeps no configurations, so the configuration is read off the modules, and the result is
verified against its source before it is returned.
"""

from collections.abc import Iterator
from math import isqrt
from typing import Any

import torch
from torch import nn

from ..configuration_clip_vit import ClipVitVisionConfig
from ..modeling_clip_vit import ClipVitForImageClassification
from .trial_inputs import image_inputs
from .verify import compare, in_float32
from .weights import ConversionError, Rule, module, move_weights, same

EMBEDDING = "vision_model.embeddings"
PATCHES = f"{EMBEDDING}.patch_embedding"


def from_vit_pytorch(peer: nn.Module) -> ClipVitForImageClassification:
    """A ViT or SimpleViT of vit-pytorch as an image classifier of ours.

    Older versions of it are taken too: patches without norms, norms around the branches, a class
    token together with mean pooling, and the last norm in the head.

    Dropout after a branch has no counterpart; the others are kept.

    Args:
        peer: the loaded model. A checkpoint cannot be used instead, because a state dict tells
            neither the number of heads nor the pooling.

    Raises:
        ConversionError: it is built in another way, or computes something else.
    """
    if not isinstance(peer, nn.Module):
        raise ConversionError(
            "vit-pytorch has no checkpoints with a configuration: build the model, load its "
            f"weights and give that, not {peer!r}"
        )
    try:
        config = config_of(peer)
        rules, changed = rules_of(peer, config), changed_of(peer)
    except ConversionError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ConversionError(
            f"a {type(peer).__name__} is not built as vit-pytorch's ViT or SimpleViT ({error})"
        ) from error
    model: Any = ClipVitForImageClassification(config)
    move_weights(peer, model, rules, to_ours=True, changed=changed)
    model = model.to(next(peer.parameters()).dtype).eval()
    check(peer, model)
    return model


@torch.no_grad()
def check(peer: Any, model: Any):
    """Run both on random images: models of other papers have weights of the same names.

    Raises:
        ConversionError: the logits differ by more than float32 explains, or there are none.
    """
    images = image_inputs(model.config)["pixel_values"]
    was_training, device = peer.training, next(peer.parameters()).device
    try:
        with in_float32(peer, model):
            compare({"logits": peer(images.to(device)).cpu()}, {"logits": model(images).logits})
    except RuntimeError as error:
        raise ConversionError(f"a {type(peer).__name__} does not run on images: {error}") from error
    finally:
        peer.train(was_training)


def config_of(peer: Any) -> ClipVitVisionConfig:
    """The configuration that builds the same model.

    Raises:
        ConversionError: it has something that ours has not.
    """
    embedding = peer.to_patch_embedding
    norm, attention, _, feed_forward = parts_of(peer.transformer.layers[0])
    patch_size = embedding[0].axes_lengths["p1"]
    head, head_norm = head_of(peer)
    linear = [layer for layer in embedding if isinstance(layer, nn.Linear)]
    has_norms = any(isinstance(layer, nn.LayerNorm) for layer in embedding)
    hidden_size = linear[0].out_features
    layers = feed_forward_of(feed_forward)
    if type(layers[1]) is not nn.GELU:
        raise ConversionError(f"an activation {layers[1]} is not converted")
    num_cls = class_tokens(peer)
    fields = {
        "image_size": isqrt(peer.pos_embedding.numel() // hidden_size - num_cls) * patch_size,
        "patch_size": patch_size,
        "num_channels": linear[0].in_features // patch_size**2,
        "patch_embedding": "linear" if has_norms else "conv",
        "hidden_size": hidden_size,
        "intermediate_size": layers[0].out_features,
        "num_hidden_layers": len(peer.transformer.layers),
        "num_attention_heads": attention.heads,
        "head_dim": attention.to_qkv.out_features // (3 * attention.heads),
        "attention_bias": attention.to_qkv.bias is not None,
        "attention_out_bias": out_of(attention) is None or out_of(attention).bias is not None,
        "layer_norm_eps": norm.eps,
        "position_embedding_type": (
            "learned" if isinstance(peer.pos_embedding, nn.Parameter) else "sincos"
        ),
        "embedding_dropout": dropout_of(peer),
        "attention_dropout": dropout_of(attention),
        "hidden_dropout": layers[2].p if isinstance(layers[2], nn.Dropout) else 0.0,
        "use_cls_token": num_cls > 0,
        "pooling": peer.pool,
        "pool_prefix_tokens": peer.pool == "mean" and num_cls > 0,
        "final_norm": final_norm_of(peer, head_norm),
        "num_labels": head.out_features,
    }
    return ClipVitVisionConfig(**fields)


def parts_of(layer) -> tuple[Any, Any, Any, Any]:
    """Norm and module of both branches of a block; older versions wrap each in its norm."""
    attention, feed_forward = layer
    if hasattr(attention, "fn"):
        return attention.norm, attention.fn, feed_forward.norm, feed_forward.fn
    return attention.norm, attention, feed_forward.net[0], feed_forward


def feed_forward_of(feed_forward: Any) -> list[Any]:
    """Its layers from the first linear one on."""
    layers = list(feed_forward.net)
    return layers[next(i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)) :]


def out_of(attention: Any) -> Any:
    """The linear layer after attention; a single head of full width has none."""
    out = attention.to_out
    if isinstance(out, nn.Identity):
        return None
    return out if isinstance(out, nn.Linear) else out[0]


def head_of(peer: Any) -> tuple[Any, Any]:
    """The classifier, and the norm before it or None.

    Raises:
        ConversionError: it has no classifier.
    """
    head = peer.mlp_head if hasattr(peer, "mlp_head") else peer.linear_head
    if isinstance(head, nn.Linear):
        return head, None
    if isinstance(head, nn.Sequential) and [type(part) for part in head] == [
        nn.LayerNorm,
        nn.Linear,
    ]:
        return head[1], head[0]
    raise ConversionError(f"a head of type {type(head).__name__} is no linear classifier")


def final_norm_of(peer: Any, head_norm: Any) -> str:
    """Where the last norm stands: after the blocks, or in the head.

    Raises:
        ConversionError: in both.
    """
    has_norm = isinstance(getattr(peer.transformer, "norm", None), nn.LayerNorm)
    if has_norm and head_norm is not None:
        raise ConversionError("a norm before pooling and another after it are not converted")
    if has_norm:
        return "before_pooling"
    return "none" if head_norm is None else "after_pooling"


def class_tokens(peer: Any) -> int:
    """Number of class tokens; where pooling is by mean, newer versions have an empty parameter."""
    token = getattr(peer, "cls_token", None)
    return 0 if token is None else token.numel() // token.shape[-1]


def dropout_of(part: Any) -> float:
    """The rate of a module's own dropout, 0 where it has none."""
    return part.dropout.p if isinstance(getattr(part, "dropout", None), nn.Dropout) else 0.0


def rules_of(peer: Any, config: ClipVitVisionConfig) -> list[Rule]:
    """Which weights belong together: the names of theirs are looked up by module."""
    names = {part: name for name, part in peer.named_modules()}
    head, head_norm = head_of(peer)
    pairs: list[tuple[str, Any]] = [("classifier", head)]
    last_norm = head_norm or getattr(peer.transformer, "norm", None)
    if config.final_norm != "none":
        pairs.append(("vision_model.final_norm", last_norm))
    embedding = [part for part in peer.to_patch_embedding if list(part.parameters())]
    ours = ("norm_patch", "projection", "norm_token") if len(embedding) > 1 else ("projection",)
    pairs += [(f"{PATCHES}.{name}", part) for name, part in zip(ours, embedding, strict=True)]
    for number, layer in enumerate(peer.transformer.layers):
        pairs += block_pairs(f"vision_model.encoder.layers.{number}", layer)
    outs = [
        rule
        for number, layer in enumerate(peer.transformer.layers)
        for rule in module(
            f"vision_model.encoder.layers.{number}.attention.out_proj", out_name(peer, layer)
        )
    ]
    return [
        *same(f"{EMBEDDING}.cls_token", "cls_token"),
        *same(f"{EMBEDDING}.position_embedding.weight", "pos_embedding"),
        *(rule for mine, part in pairs for rule in module(mine, names[part])),
        *outs,
    ]


def block_pairs(ours: str, layer) -> Iterator[tuple[str, nn.Module]]:
    """Our module names in a block, each with its module; without the layer after attention."""
    norm1, attention, norm2, feed_forward = parts_of(layer)
    linear = [part for part in feed_forward_of(feed_forward) if isinstance(part, nn.Linear)]
    yield f"{ours}.norm1", norm1
    yield f"{ours}.attention.qkv_proj", attention.to_qkv
    yield f"{ours}.norm2", norm2
    yield f"{ours}.feed_forward.fc1", linear[0]
    yield f"{ours}.feed_forward.fc2", linear[1]


def out_name(peer: Any, layer) -> str:
    """Name of the linear layer after attention, or of what stands in its place."""
    attention = parts_of(layer)[1]
    part = out_of(attention) or attention.to_out
    return next(name for name, other in peer.named_modules() if other is part)


def changed_of(peer: Any) -> dict[str, torch.Tensor]:
    """What has another form in ours: a missing layer is the identity, patches a convolution."""
    changed: dict[str, torch.Tensor] = {}
    for layer in peer.transformer.layers:
        attention = parts_of(layer)[1]
        if out_of(attention) is None:
            width = attention.to_qkv.in_features
            name = out_name(peer, layer)
            changed |= {f"{name}.weight": torch.eye(width), f"{name}.bias": torch.zeros(width)}
    embedding = peer.to_patch_embedding
    if len([part for part in embedding if list(part.parameters())]) == 1:
        size = embedding[0].axes_lengths["p1"]
        number = next(i for i, part in enumerate(embedding) if isinstance(part, nn.Linear))
        # Theirs has the channels last in a patch, a convolution has them first.
        weight = embedding[number].weight.detach().unflatten(1, (size, size, -1))
        changed[f"to_patch_embedding.{number}.weight"] = weight.permute(0, 3, 1, 2)
    return changed
