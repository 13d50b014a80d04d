"""Integrated gradients (Sundararajan et al., 2017).

The gradient of the cosine is averaged on the straight line from a blank input to this one, and
multiplied by their difference. The parts add up to the difference of the two cosines, up to the
error of the integral, so that with the blank's cosine as the rest they add up to the cosine.

Shape legend: `B` points on the line, `L` tokens, `D` hidden, `P` projection, `N` words.
"""

from typing import Any

import numpy as np
import torch

from ..match import Match, cosines, frozen
from .method import Values

#: Points on the line, at which gradients are computed.
STEPS = 8

#: Points whose gradients are computed at a time.
BATCH_SIZE = 4


def line_points(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places on the line from 0 to 1 and their weights, by Gauss and Legendre: each (steps,)."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return torch.tensor((places + 1) / 2).float(), torch.tensor(weights / 2).float()


def explain_picture(match: Match, steps: int = STEPS) -> Values:
    """Parts of the cosine that come from the pixels of each cell: (Y, X)."""
    blank, difference = match.blank_pixels, match.pixels - match.blank_pixels
    total = torch.zeros_like(difference)
    places, weights = line_points(steps)
    with frozen(match.model):
        for at, weight in zip(places.split(BATCH_SIZE), weights.split(BATCH_SIZE), strict=True):
            shape = (-1, *(1,) * (difference.ndim - 1))
            pixels = (blank + at.view(shape) * difference).requires_grad_()
            outputs = match.image_outputs(pixels).pooler_output
            [gradient] = torch.autograd.grad(cosines(outputs, match.text_embeds).sum(), pixels)
            total += (gradient * weight.view(shape)).sum(dim=0, keepdim=True)
    values = match.cells.sum((total * difference)[0])
    return Values(values, match.cosine - values.sum().item())


def explain_text(match: Match, steps: int = STEPS) -> Values:
    """Parts of the cosine that come from the embeddings of each word's tokens: (N,).

    A missing word is a vector of zeros in the place of its tokens' embeddings. Tokens that stand
    for nothing in the text, such as its end, stay as they are.

    Raises:
        UserError: the tokenizer does not say which tokens a word has.
    """
    words, length = match.text.words, match.text_inputs["input_ids"].shape[1]
    is_word_L1 = torch.zeros(length, 1)
    is_word_L1[[token for word in words for token in word.tokens]] = 1
    total_L = torch.zeros(length)
    places, weights = line_points(steps)
    with frozen(match.model):
        for at, weight in zip(places.split(BATCH_SIZE), weights.split(BATCH_SIZE), strict=True):
            factors_BL1 = 1 - is_word_L1 * (1 - at.view(-1, 1, 1))
            total_L += integrate_tokens(match, factors_BL1, is_word_L1, weight)
    values = torch.stack([total_L[word.tokens].sum() for word in words])
    return Values(values, match.cosine - values.sum().item())


def integrate_tokens(
    match: Match, factors: torch.Tensor, is_word: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Products of gradient and difference, summed over points and features: (L,).

    Args:
        match: a picture and a text.
        factors: of the embeddings of tokens, (B, L, 1).
        is_word: whether a token's embedding differs from the blank one, (L, 1).
        weights: of the points, (B,).
    """
    kept: dict[str, torch.Tensor] = {}

    def scale(module: Any, inputs: Any, output_BLD: torch.Tensor) -> torch.Tensor:
        kept["whole"] = output_BLD.detach()
        scaled_BLD = output_BLD.detach() * factors.to(output_BLD)
        kept["scaled"] = scaled_BLD.requires_grad_()
        return kept["scaled"]

    embedding = match.model.text_model.get_input_embeddings()
    handle = embedding.register_forward_hook(scale)
    try:
        outputs = match.text_outputs(len(factors)).pooler_output
        total = cosines(outputs, match.image_embeds).sum()
        [gradient_BLD] = torch.autograd.grad(total, kept["scaled"])
    finally:
        handle.remove()
    products_BL = (gradient_BLD * kept["whole"]).float().sum(dim=-1).cpu() * is_word.squeeze(1)
    return (products_BL * weights.unsqueeze(1)).sum(dim=0)
