"""Occlusion: what the match loses without a part of the picture, or without a word.

It needs nothing but embeddings, so it works on every runtime: one picture per window, one text per
word (Zeiler and Fergus, 2014, section 4.2).

Shape legend: `B` windows, `N` cells or words, `Y`, `X` rows and columns of cells.
"""

import torch

from ..cells import Cells
from ..match import Match
from .method import Values

#: Side of a window in cells. Windows overlap, so that a cell is hidden with each of its neighbours:
#: one cell alone is often too little for the match to change.
WINDOW = 2

#: Pictures that are embedded at a time.
BATCH_SIZE = 32


def explain_picture(match: Match, window: int = WINDOW) -> Values:
    """Mean over the windows that hide a cell of what the cosine loses by them: (Y, X).

    Args:
        match: a picture and a text.
        window: side of the windows in cells; the picture's side if that is smaller.
    """
    hidden_BN = hide_windows(match.cells, window)
    parts = [
        match.cosines_of_pictures(match.cells.mix(match.pixels, match.blank_pixels, ~hidden))
        for hidden in hidden_BN.split(BATCH_SIZE)
    ]
    losses_B = match.cosine - torch.cat(parts)
    values_N = losses_B @ hidden_BN.float() / hidden_BN.sum(dim=0)
    values_YX = values_N.unflatten(0, (match.cells.rows, match.cells.columns))
    return Values(values_YX)


def hide_windows(cells: Cells, window: int) -> torch.Tensor:
    """Which cells each window hides, for every place of the window in the picture: (B, N)."""
    places_Y, places_X = torch.arange(cells.rows), torch.arange(cells.columns)
    rows_BY = hide_runs(places_Y, min(window, cells.rows))
    columns_BX = hide_runs(places_X, min(window, cells.columns))
    return (rows_BY[:, None, :, None] & columns_BX[None, :, None, :]).flatten(2).flatten(0, 1)


def hide_runs(places: torch.Tensor, length: int) -> torch.Tensor:
    """Every run of neighbours of this length: (runs, places)."""
    starts = places[: len(places) - length + 1].unsqueeze(1)
    return (places >= starts) & (places < starts + length)


def explain_text(match: Match) -> Values:
    """The cosine minus that of the text from which the word is cut out: (N,)."""
    text = match.text.text
    texts = [text[: word.start] + text[word.end :] for word in match.text.words]
    values_N = match.cosine - match.cosines_of_texts(texts)
    return Values(values_N)
