"""LeGrad (Bousselham et al., 2024): gradients with respect to attention, over all blocks.

After each block, the states are pooled and compared with the text as if it were the last one. Where
a larger attention to a patch would raise that cosine, the patch speaks for the match; what would
lower it is left out. Values are not parts of the cosine and never negative.

Shape legend: `B` 1, `L` patches, with tokens before them, `D` hidden, `H` heads, `A` size of a
head, `Y`, `X` rows and columns of patches.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...configuration_clip_vit import is_foreign
from ...pooling import ClipVitAttentionPooling
from ...utils.errors import UserError
from ..match import Match, cosines, frozen
from .method import Values
from .shares import arrange


def explain_picture(match: Match, layers: int | None = None) -> Values:
    """Mean over heads of the positive gradients, summed over blocks: (Y, X).

    Args:
        match: a picture and a text.
        layers: how many of the last blocks to take; all by default.

    Raises:
        UserError: the image tower is not this package's ViT.
    """
    tower = match.model.vision_model
    if is_foreign(tower.config):
        raise UserError(
            f"method='legrad' is not allowed: the image tower is of type "
            f"{tower.config.model_type!r}, and this reads the attention of this package's ViT "
            "alone; use integrated_gradients"
        )
    with frozen(match.model), eager_attention(tower):
        outputs = match.image_outputs(
            match.pixels.clone().requires_grad_(), output_hidden_states=True, output_attentions=True
        )
        states = outputs.hidden_states[1:]
        blocks = list(zip(states, outputs.attentions, strict=True))
        relevances = [relevance(match, *block) for block in blocks[-(layers or len(blocks)) :]]
    return Values(arrange(torch.stack(relevances).sum(dim=0), match))


@contextmanager
def eager_attention(tower: Any) -> Iterator[None]:
    """Write a tower's attention out, so that its weights can be differentiated."""
    former = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    try:
        yield
    finally:
        tower.set_attn_implementation(former)


def relevance(match: Match, states: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """What the attention of one block, or the attention pooling after it, says of tokens: (L,).

    Args:
        match: a picture and a text.
        states: after the block, (1, L, D).
        attention: weights of the block, (1, H, L, L).
    """
    tower = match.model.vision_model
    if isinstance(tower.pooling, ClipVitAttentionPooling):
        pooled_BD, attention = attend(tower.pooling, states)
    else:
        pooled_BD = pool(tower, states)
    cosine = cosines(match.model.visual_projection(pooled_BD), match.text_embeds).sum()
    [gradient_BHLL] = torch.autograd.grad(cosine, attention, retain_graph=True)
    return gradient_BHLL.clamp(min=0).mean(dim=(1, 2))[0].float().cpu()


def pool(tower: Any, states: torch.Tensor) -> torch.Tensor:
    """Pool the states of any block like those of the last: (1, L, D) to (1, D).

    A class token is pooled with all others, as in the paper: attention between patches would have
    no gradient otherwise.
    """
    config = tower.config
    if config.pooling == "cls":
        pooled_BD = states.mean(dim=1)
        return pooled_BD if config.final_norm == "none" else tower.final_norm(pooled_BD)
    if config.final_norm == "before_pooling":
        states = tower.final_norm(states)
    pooled_BD = tower.pooling(states[:, config.first_pooled_token :])
    return tower.final_norm(pooled_BD) if config.final_norm == "after_pooling" else pooled_BD


def attend(pooling: Any, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention pooling with its weights: (1, L, D) to (1, D) and (1, H, 1, L).

    As in the authors' code, states come without the final norm; with it, maps hardly differ.
    """
    heads = pooling.num_heads
    query_B1D = pooling.q_proj(pooling.probe).expand(len(states), 1, -1)
    query_BHLA, key_BHLA, value_BHLA = (
        values.unflatten(-1, (heads, -1)).transpose(1, 2)
        for values in (query_B1D, *pooling.kv_proj(states).chunk(2, dim=-1))
    )
    scores_BHLL = query_BHLA @ key_BHLA.transpose(-1, -2) * query_BHLA.shape[-1] ** -0.5
    weights_BHLL = scores_BHLL.softmax(dim=-1)
    pooled_BD = pooling.out_proj((weights_BHLL @ value_BHLA).flatten(1))
    return pooled_BD + pooling.feed_forward(pooling.norm(pooled_BD)), weights_BHLL
