"""From a sequence of hidden states to one vector, chosen by `config.pooling`.

Shape legend: `B` batch, `L` sequence, `D` hidden.
"""

import torch


def pool_cls(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """The first token's state (BERT's [CLS]; Dosovitskiy et al., 2021, section 3.1): (B, D)."""
    if mask_BL is None:
        return hidden_BLD[:, 0]
    return take_token(hidden_BLD, mask_BL.int().argmax(dim=1))


def pool_mean(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """The mean over tokens, padding left out: (B, D)."""
    if mask_BL is None:
        return hidden_BLD.mean(dim=1)
    weights_BL1 = mask_BL.to(hidden_BLD.dtype).unsqueeze(-1)
    return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1)


def pool_flatten(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """All tokens side by side, which keeps where things are: (B, L * D)."""
    return hidden_BLD.flatten(1)


def pool_eos(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """The first end-of-text token's state (Radford et al., 2021, section 2.4): (B, D).

    A text without an end-of-text token (it was cut) gives its last token's state.
    """
    length = hidden_BLD.shape[1]
    if mask_BL is None:
        last_B = torch.full((hidden_BLD.shape[0],), length - 1, device=hidden_BLD.device)
    else:
        # A fully masked row has no last token; any will do, so long as it is in range.
        last_B = length - 1 - mask_BL.flip(1).int().argmax(dim=1)
        is_end_BL = is_end_BL & mask_BL.bool()
    first_end_B = is_end_BL.int().argmax(dim=1)
    return take_token(hidden_BLD, torch.where(is_end_BL.any(dim=1), first_end_B, last_B))


def take_token(hidden_BLD: torch.Tensor, index_B: torch.Tensor) -> torch.Tensor:
    """The state of token `index_B[b]` of each sequence b: (B, D)."""
    rows_B = torch.arange(hidden_BLD.shape[0], device=hidden_BLD.device)
    return hidden_BLD[rows_B, index_B]


#: `pooling` -> function of (hidden_BLD, mask_BL, is_end_BL): what each tower may use.
IMAGE_POOLINGS = {"cls": pool_cls, "mean": pool_mean, "flatten": pool_flatten}
TEXT_POOLINGS = {"cls": pool_cls, "mean": pool_mean, "eos": pool_eos}
