"""An encoder whose work is shared out over processes.

Shape legend: `N` rows, `P` projection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather, gather_object

from ..inference.classifier import TorchClassifier
from ..inference.embedding import check_finite
from ..inference.loading import Encoder, TorchEncoder


class RowSharing:
    """Shares rows out over processes, and collects what each made of its rows.

    Args:
        is_alone: this process does all the work, whatever the number of processes.
    """

    def __init__(self, is_alone: bool = False):
        state = PartialState()
        self.device = state.device
        self.num_processes = 1 if is_alone else state.num_processes
        self.process = 0 if is_alone else state.process_index
        self.is_main = self.process == 0

    def rows(self, count: int) -> list[int]:
        """The rows of this process, dealt in turn: each process gets the same number, and the first
        rows repeat if they do not divide evenly.
        """
        rounds = -(-count // self.num_processes)
        places = range(self.process, rounds * self.num_processes, self.num_processes)
        return [place % count for place in places]

    def collect(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """All-gather the values that each process has for its `rows`: all rows in order, (N, P)."""
        if self.num_processes == 1:
            return values[:count]
        parts = gather(values.to(self.device)).cpu().unflatten(0, (self.num_processes, -1))
        return parts.transpose(0, 1).flatten(0, 1)[:count]

    def collect_objects(self, values: list) -> list:
        """The values of all processes together."""
        return values if self.num_processes == 1 else gather_object(values)


@dataclass
class SharedEncoder:
    """Embeds texts and images, each process its share of the rows.

    Args:
        encoder: a CLIP, an export of one, or a classifier, whose logits take the place of
            embeddings.
        batch_size: images or texts at a time in each process.
        num_workers: processes that decode for each process; 0 decodes in the process itself.
        is_alone: this process embeds all rows.
    """

    encoder: Encoder | TorchClassifier
    batch_size: int = 64
    num_workers: int = 0
    is_alone: bool = False

    def __post_init__(self):
        self.sharing = RowSharing(self.is_alone)
        if isinstance(self.encoder, TorchEncoder | TorchClassifier) and not self.is_alone:
            self.encoder.model.to(self.sharing.device)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts, (N, P) with unit norm."""
        assert not isinstance(self.encoder, TorchClassifier), "no task asks a classifier for texts"
        share = [texts[row] for row in self.sharing.rows(len(texts))]
        embeds = self.encoder.encode_text(share, self.batch_size)
        return check_finite(self.sharing.collect(embeds, len(texts)), "texts")
