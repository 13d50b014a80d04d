"""One split, embedded: what the tasks of an evaluation measure.

Shape legend: `N` images, `C` classes, `P` projection.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..data.labels import NO_CLASS
from ..inference.class_names import average_templates
from ..inference.classifier import TorchClassifier
from .corruptions import Corruption
from .dataset import EvaluationSet
from .images import EmbeddedImages
from .metrics import Metric
from .options import EvaluationOptions
from .sharing import SharedEncoder


@dataclass(frozen=True)
class Queries:
    """Texts that search images.

    Args:
        embeds: (texts, P) with unit norm.
        keys: the key that each text asks for.
    """

    embeds: torch.Tensor
    keys: Sequence[Hashable]


@dataclass(frozen=True)
class LabelledImages:
    """The images of a split that have a class.

    Args:
        embeds: (N, P); of a classifier, logits (N, C).
        labels: class of each image, (N,).
        num_classes: C.
        class_embeds: embeddings of the class names, (C, P); empty if no task uses them.
    """

    embeds: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    class_embeds: torch.Tensor


@dataclass(frozen=True)
class EmbeddedSet:
    """One split, embedded.

    Args:
        source: the split.
        encoder: embedded it.
        images: its images.
        distractors: images of other splits, and their keys.
        captions: caption column -> its queries.
        class_embeds: label column -> embeddings of the class names, (C, P).
        train: images that a probe learns from; None for nothing.
    """

    source: EvaluationSet
    encoder: SharedEncoder
    images: EmbeddedImages
    distractors: tuple[torch.Tensor, Sequence[Hashable]]
    captions: Mapping[str, Queries]
    class_embeds: Mapping[str, torch.Tensor]
    train: EmbeddedImages | None

    @property
    def options(self) -> EvaluationOptions:
        """What to evaluate on, and how."""
        return self.source.options

    @property
    def is_main(self) -> bool:
        """Whether this process computes the metrics."""
        return self.encoder.sharing.is_main

    @property
    def similarity(self) -> tuple[float, float | None]:
        """The factor that turns cosines into logits, and the bias; None without a bias."""
        assert not isinstance(self.encoder.encoder, TorchClassifier)
        return self.encoder.encoder.similarity

    @property
    def keys(self) -> list[Hashable]:
        """The key of each image."""
        return [self.source.keys[row] for row in self.images.rows]

    def labelled(self, column: str) -> LabelledImages:
        """The images that have a class in a column."""
        return self.take_labelled(self.images, self.source.labels[column].rows, column)

    def labelled_train(self, column: str) -> LabelledImages:
        """The images with a class that a probe learns from."""
        assert self.train is not None
        assert self.source.train is not None
        return self.take_labelled(self.train, self.source.train.labels[column].rows, column)

    def take_labelled(
        self, images: EmbeddedImages, classes: Sequence[int], column: str
    ) -> LabelledImages:
        """The images that have one of the classes, given the class of each row."""
        labels = torch.tensor(classes, dtype=torch.long)[images.rows]
        has_class = labels != NO_CLASS
        names = self.source.labels[column].names
        none = images.embeds.new_empty(0, images.embeds.shape[1])
        class_embeds = self.class_embeds.get(column, none)
        return LabelledImages(images.embeds[has_class], labels[has_class], len(names), class_embeds)

    def corrupted(self, corruption: Corruption) -> "EmbeddedSet":
        """The same split with corrupted images; all processes call this together."""
        return replace(self, images=self.source.images.embed(self.encoder, corruption))

    def metrics(self, task: str, values: Mapping[str, float], **fields: str) -> list[Metric]:
        """A metric of this split for each named value.

        Args:
            task: name of the task.
            values: name of the metric -> its value.
            fields: other fields of `Metric`.
        """
        source = self.source
        common = {"dataset": source.options.dataset, "evaluation": source.name, **fields}
        return [Metric(task, source.split, name, value, **common) for name, value in values.items()]


def embed(source: EvaluationSet, encoder: SharedEncoder, uses: Collection[str]) -> EmbeddedSet:
    """Embed a split and the texts of its tasks; all processes call this together.

    Args:
        source: the split.
        encoder: the model, an export, or a classifier.
        uses: of `captions`, `class_names` and `train_split`, what the tasks use.

    Raises:
        DataError: too many images cannot be decoded.
    """
    images = source.images.embed(encoder)
    class_embeds = {}
    if "class_names" in uses:
        for column, texts in source.texts.items():
            num_classes = len(source.labels[column].names)
            class_embeds[column] = average_templates(encoder.embed_texts(texts), num_classes)
    train = None
    if "train_split" in uses and source.train is not None:
        train = source.train.images.embed(encoder)
    captions = {}
    for column in source.captions:
        texts, keys = source.queries(column, images.rows)
        captions[column] = Queries(encoder.embed_texts(texts), keys)
    distractors = embed_distractors(source, encoder, images.embeds.shape[1])
    return EmbeddedSet(source, encoder, images, distractors, captions, class_embeds, train)


def embed_distractors(
    source: EvaluationSet, encoder: SharedEncoder, width: int
) -> tuple[torch.Tensor, list[Hashable]]:
    """Embed the images of other splits: their embeddings, (N, P), and the key of each.

    Args:
        source: the split whose gallery they join.
        encoder: the model.
        width: P, which is not known from the images where there are none.
    """
    embeds: list[torch.Tensor] = [torch.empty(0, width)]
    keys: list[Hashable] = []
    for distractors in source.distractors:
        images = distractors.images.embed(encoder)
        embeds.append(images.embeds)
        keys += [distractors.keys[row] for row in images.rows]
    return torch.cat(embeds), keys
