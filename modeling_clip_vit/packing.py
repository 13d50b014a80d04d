"""Several texts in one row, so that little padding is computed (Krell et al., 2021).

Embeddings and pooling see one padded text per row; only the blocks between them see packed rows.
Each text attends only to itself, so its embedding is the same as without packing.

Shape legend: `T` texts, `L` the longest of them, `R` rows, `W` tokens of a row, `D` features.
"""

import torch


def pack(values_TLD: torch.Tensor, places_RW: torch.Tensor) -> torch.Tensor:
    """Texts, or what belongs to their tokens, in packed rows: (T, L, D) to (R, W, D).

    Args:
        values_TLD: of each token.
        places_RW: which token stands where, `text * L + place in it`; -1 for none.
    """
    return values_TLD.flatten(0, 1)[places_RW.clamp(min=0)]


def unpack(values_RWD: torch.Tensor, places_RW: torch.Tensor, texts: int, longest: int):
    """The opposite of `pack`: (T, L, D), zero where a text has no token."""
    count = texts * longest
    # What stands for no token goes behind the last one, and is cut off.
    targets = torch.where(places_RW < 0, count, places_RW).flatten()
    values_ND = values_RWD.flatten(0, 1)
    flat_ND = values_ND.new_zeros(count + 1, values_ND.shape[-1]).index_copy(0, targets, values_ND)
    return flat_ND[:-1].unflatten(0, (texts, longest))


def packed_attention_mask(
    places_RW: torch.Tensor, longest: int, is_causal: bool, kernel: str, dtype: torch.dtype
) -> torch.Tensor:
    """Which token sees which, as a kernel takes it: (R, 1, W, W).

    Args:
        places_RW: as `pack` takes them.
        longest: L.
        is_causal: whether a token sees only those before it in its text.
        kernel: `eager` or `sdpa`.
        dtype: of the scores.
    """
    text_RW = torch.div(places_RW, longest, rounding_mode="floor")  # of no token: -1
    sees_RWW = text_RW.unsqueeze(2) == text_RW.unsqueeze(1)
    if is_causal:
        sees_RWW = sees_RWW & (places_RW.unsqueeze(1) <= places_RW.unsqueeze(2))
    if kernel == "sdpa":
        return sees_RWW.unsqueeze(1)
    hidden = torch.finfo(dtype).min
    return torch.zeros_like(sees_RWW, dtype=dtype).masked_fill(~sees_RWW, hidden).unsqueeze(1)
