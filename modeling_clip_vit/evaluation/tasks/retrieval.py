"""Retrieval: whether a text finds its images, and an image its texts."""

from collections.abc import Sequence

import torch

from ..embedding import EmbeddedSet
from ..metrics import Metric
from ..ranking import average_precision, rank_of_best_match
from .task import EvaluationTask

RECALL_AT = (1, 5, 10)


class RetrievalTask(EvaluationTask):
    """Recall of every caption column, text to image and image to text.

    A text is one query, however many images it belongs to. With distractors in the gallery, only
    texts are queries.
    """

    name = "retrieval"
    title = "Retrieval"
    needs = ("embeddings", "captions")
    headlines = ("R@1", "R@10")
    not_shares = ("median_rank",)

    def __init__(self, directions: Sequence[str] = ("text_to_image", "image_to_text")):
        self.directions = directions

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """R@1, R@5, R@10 and median rank; mAP if a query can have several correct items."""
        distractor_embeds, distractor_keys = data.distractors
        embeds = torch.cat((data.images.embeds, distractor_embeds))
        keys = [*data.keys, *distractor_keys]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        image_ids = torch.tensor([numbers[key] for key in keys])
        metrics: list[Metric] = []
        for column, queries in data.captions.items():
            text_ids = torch.tensor([numbers[key] for key in queries.keys])
            sides = {"text_to_image": (queries.embeds, embeds, text_ids, image_ids)}
            if not distractor_keys:
                has_text = torch.isin(image_ids, text_ids)
                asking = embeds[has_text], image_ids[has_text]
                sides["image_to_text"] = (asking[0], queries.embeds, asking[1], text_ids)
            for direction in self.directions:
                if direction not in sides:
                    continue
                values = measure_retrieval(*sides[direction])
                metrics += data.metrics(self.name, values, column=column, direction=direction)
        return metrics


def retrieval_metrics(ranks: torch.Tensor, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Recall at each k, from 0 to 1, and the median rank, where 1 is the first place.

    Recall counts a query whose best right item is among the first k, as is done for COCO and
    Flickr30k with several captions an image (Karpathy and Fei-Fei, 2015, section 4.2).
    """
    metrics = {f"R@{k}": (ranks < k).float().mean().item() for k in at}
    return {**metrics, "median_rank": ranks.float().median().item() + 1}


def measure_retrieval(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
) -> dict[str, float]:
    """Retrieval metrics of one direction; with `mAP` if several gallery items share an id."""
    sides = (query_embeds, gallery_embeds, query_ids, gallery_ids)
    metrics = retrieval_metrics(rank_of_best_match(*sides))
    if gallery_ids.unique().numel() < len(gallery_ids):
        metrics["mAP"] = average_precision(*sides).mean().item()
    return metrics
