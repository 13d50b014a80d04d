"""Several texts in one row, so that little padding is computed (Krell et al., 2021).

Embeddings and pooling see one padded text per row; only the blocks between them see packed rows.
Each text attends only to itself, so its embedding is the same as without packing.

Shape legend: `T` texts, `L` tokens of the longest, `R` packed rows, `W` tokens of a packed row,
`D` hidden (features), `N` tokens of all rows.
"""

import torch


def pack(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Move the features of each token from padded to packed rows: (T, L, D) to (R, W, D).

    Args:
        values: features of each token of the padded texts, (T, L, D).
        places: the token at each place of a packed row, as `text * L + its place in the text`; -1
            for padding, (R, W).
    """
    return values.flatten(0, 1)[places.clamp(min=0)]


def unpack(
    values: torch.Tensor, places: torch.Tensor, num_texts: int, longest: int
) -> torch.Tensor:
    """Undo `pack`: (R, W, D) to (T, L, D), zero where a text has no token."""
    count = num_texts * longest
    # Padding of packed rows goes behind the last token, and is cut off.
    targets = torch.where(places < 0, count, places).flatten()
    values_ND = values.flatten(0, 1)
    flat_ND = values_ND.new_zeros(count + 1, values_ND.shape[-1]).index_copy(0, targets, values_ND)
    return flat_ND[:-1].unflatten(0, (num_texts, longest))


def packed_attention_mask(
    places: torch.Tensor, longest: int, is_causal: bool, kernel: str, dtype: torch.dtype
) -> torch.Tensor:
    """The attention mask of packed rows, within each text, in a kernel's form: (R, 1, W, W).

    Args:
        places: as `pack` takes them, (R, W).
        longest: L.
        is_causal: whether a token sees only those before it in its text.
        kernel: `eager` or `sdpa`.
        dtype: of the scores.
    """
    text_RW = torch.div(places, longest, rounding_mode="floor")  # -1 for padding
    sees_RWW = text_RW.unsqueeze(2) == text_RW.unsqueeze(1)
    if is_causal:
        sees_RWW = sees_RWW & (places.unsqueeze(1) <= places.unsqueeze(2))
    if kernel == "sdpa":
        return sees_RWW.unsqueeze(1)
    hidden = torch.finfo(dtype).min
    return torch.zeros_like(sees_RWW, dtype=dtype).masked_fill(~sees_RWW, hidden).unsqueeze(1)
