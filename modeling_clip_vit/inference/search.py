"""Search pictures by text."""

from collections.abc import Iterable

import torch

from ..utils.errors import UserError
from .embedding import check_finite
from .gallery import Picture, embed_gallery
from .loading import Encoder


def check_query(query: str):
    """Reject a query without a word.

    Raises:
        UserError: there is none.
    """
    if not query.strip():
        raise UserError("the query is empty: say what to look for")


class ImageSearch:
    """An index over pictures: embeds them once, and answers texts.

    Pictures are decoded a few at a time and not kept.

    Args:
        encoder: embeds images and texts.
        pictures: what to search.
        batch_size: pictures that are decoded at a time.

    Raises:
        DataError: none of the pictures can be decoded.
    """

    def __init__(self, encoder: Encoder, pictures: Iterable[Picture], batch_size: int = 64):
        self.encoder = encoder
        gallery = embed_gallery(encoder.encode_image, pictures, batch_size)
        self.pictures, self.embeds = gallery.pictures, gallery.embeds
        #: Names of those that could not be decoded, each with the reason.
        self.unreadable = gallery.unreadable

    def __call__(self, query: str, top_k: int = 5) -> list[tuple[Picture, float]]:
        """The best pictures for a text, best first, each with its cosine similarity.

        Raises:
            UserError: the query is empty.
        """
        check_query(query)
        text_embeds = check_finite(self.encoder.encode_text([query]), "queries")
        scores, places = torch.topk(
            (self.embeds @ text_embeds.t()).squeeze(1), min(top_k, len(self.pictures))
        )
        return [
            (self.pictures[place], score)
            for place, score in zip(places.tolist(), scores.tolist(), strict=True)
        ]
