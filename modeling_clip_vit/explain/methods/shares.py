"""Exact shares: the cosine written as a sum over patches, or over tokens.

Where a tower pools its last states by a mean or side by side, and projects them linearly, the
embedding is a sum with one term per state and one for the bias. Divided by the embedding's length,
these terms are parts of the cosine, and nothing is approximated.

Shape legend: `B` 1, `L` patches or tokens, `D` hidden, `P` projection, `N` words, `Y`, `X` rows and
columns of patches.
"""

from typing import Any

import torch

from ...configuration_clip_vit import is_foreign
from ...utils.errors import UserError
from ..match import Match, frozen
from .method import Values


def explain_picture(match: Match) -> Values:
    """Parts of the cosine that come from the last states of the patches: (Y, X).

    Registers and a class token that are pooled along, and the projection's bias, are the rest.

    Raises:
        UserError: the tower's embedding is no sum over its patches.
    """
    check_linear(match.model.config.vision_config, "method")
    with frozen(match.model):
        # Without a gradient, nothing would record what the states become.
        outputs = match.image_outputs(match.pixels.clone().requires_grad_())
        parts_L = parts_of_cosine(outputs, match.text_embeds)
    values = arrange(parts_L, match)
    return Values(values, match.cosine - values.sum().item())


def explain_text(match: Match) -> Values:
    """Parts of the cosine that come from the last states of each word's tokens: (N,).

    Tokens that stand for nothing in the text, such as its end, are the rest.

    Raises:
        UserError: the tower's embedding is no sum over its tokens, or the tokenizer does not say
            which tokens a word has.
    """
    check_linear(match.model.config.text_config, "words_method")
    with frozen(match.model):
        handle = require_gradient(match.model.text_model.get_input_embeddings())
        try:
            parts_L = parts_of_cosine(match.text_outputs(1), match.image_embeds)
        finally:
            handle.remove()
    values = torch.stack([parts_L[word.tokens].sum() for word in match.text.words])
    return Values(values, match.cosine - values.sum().item())


def require_gradient(module: torch.nn.Module) -> Any:
    """Let gradients be recorded from a module's output on; returns the hook's handle."""
    return module.register_forward_hook(lambda *call: call[-1].detach().requires_grad_())


def check_linear(config: Any, option: str):
    """Refuse a tower whose embedding is no sum over its last states.

    Args:
        config: of the tower.
        option: what the method was chosen by, for the message.

    Raises:
        UserError: it is not.
    """
    reason = why_not_linear(config)
    if reason:
        raise UserError(
            f"{option}='shares' is not allowed: {reason}, so the cosine is no sum over its states; "
            "use integrated_gradients"
        )


def why_not_linear(config: Any) -> str:
    """What of a tower is not linear after its last states, for a message; empty if nothing is."""
    pooling = getattr(config, "pooling", None)
    if is_foreign(config):
        if pooling != "mean":
            return f"a tower of type {config.model_type!r} pools in its own way"
    elif pooling not in ("mean", "flatten"):
        return f"the tower has pooling={pooling!r}"
    elif config.final_norm == "after_pooling":
        return "the tower has final_norm='after_pooling'"
    projection = getattr(config, "projection_type", None)
    if projection not in ("linear", "none"):
        return f"the tower has projection_type={projection!r}"
    return ""


def parts_of_cosine(outputs: Any, embeds: torch.Tensor) -> torch.Tensor:
    """The part of each last state in the cosine, float32 on the CPU: (L,).

    Args:
        outputs: of a model's features: `last_hidden_state` (1, L, D), or a convolutional network's
            map (1, D, rows, columns), and `pooler_output` (1, P).
        embeds: of unit norm, (1, P).
    """
    states, projected_BP = outputs.last_hidden_state, outputs.pooler_output.float()
    # The length is a constant here: the cosine's numerator alone is a sum over states.
    length = projected_BP.norm().detach()
    cosine = (projected_BP * embeds.to(projected_BP.device)).sum() / length
    [gradient] = torch.autograd.grad(cosine, states)
    parts = (gradient * states).detach().float().cpu()
    features = 1 if states.ndim == 4 else -1
    return parts.sum(dim=features).flatten()


def arrange(parts: torch.Tensor, match: Match) -> torch.Tensor:
    """Parts of patches as the picture has them, without the tokens before them: (Y, X).

    Args:
        parts: of all tokens, (L,), the patches last.
        match: whose picture it is.

    Raises:
        UserError: the tokens are no grid over the picture.
    """
    rows, columns = patch_grid(match, len(parts))
    return parts[-rows * columns :].unflatten(0, (rows, columns))


def patch_grid(match: Match, tokens: int) -> tuple[int, int]:
    """Rows and columns of the patches among a number of tokens.

    Raises:
        UserError: the tokens are no grid over the picture.
    """
    if match.pixels.ndim == 3:
        rows, columns = match.inputs["spatial_shapes"][0].tolist()
        return rows, columns
    side = int(tokens**0.5)
    prefix = tokens - side**2
    if match.pixels.shape[-1] != match.pixels.shape[-2] or prefix > 16:
        raise UserError(
            f"the {tokens} tokens of the image tower are no grid over the picture: use "
            "integrated_gradients or occlusion"
        )
    return side, side
