"""Classify pictures with a class head, by class names, or by a few examples.

Shape legend: `N` pictures, `C` classes, `P` projection.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..search.cut import background_texts
from ..search.rejection import LEAST_MARGIN, class_margins
from ..utils.errors import UserError
from .class_names import average_templates, class_texts
from .classifier import TorchClassifier
from .embedding import check_finite
from .few_shot import METHODS, Classifier, Examples, ZeroShot, check_method
from .gallery import Picture, embed_gallery
from .loading import Encoder


@dataclass
class Classified:
    """Pictures and the probabilities of their classes.

    Args:
        pictures: those that could be decoded.
        names: of the classes.
        probabilities: (N, C).
        unreadable: names of the other pictures, each with the reason.
        margins: of the best class of each picture, see `search.rejection.class_margins`; None if
            it was not asked for.
    """

    pictures: list[Picture]
    names: list[str]
    probabilities: torch.Tensor
    unreadable: list[str]
    margins: list[float] | None = None

    def fits(self) -> list[bool | None]:
        """Whether the best class of each picture fits; None if that was not asked for."""
        if self.margins is None:
            return [None] * len(self.pictures)
        return [margin >= LEAST_MARGIN for margin in self.margins]

    def best(self, top_k: int) -> list[tuple[Picture, list[tuple[str, float]]]]:
        """Each picture with its most probable classes, the most probable first."""
        values, places = self.probabilities.topk(min(top_k, len(self.names)), dim=1)
        return [
            (picture, [(self.names[place], value) for value, place in zip(*row, strict=True)])
            for picture, *row in zip(self.pictures, values.tolist(), places.tolist(), strict=True)
        ]


def read_class_names(values: Sequence[str]) -> list[str]:
    """Class names from the command line: the names themselves, or one text file with a name a line.

    Raises:
        UserError: there is no such file, or fewer than two different names.
    """
    names = list(values)
    if len(names) == 1 and Path(names[0]).expanduser().is_file():
        text = Path(names[0]).expanduser().read_text(encoding="utf-8-sig")
        names = text.splitlines()
    elif len(names) == 1 and names[0].endswith(".txt"):
        raise UserError(f"there is no file of class names {names[0]!r} in {Path.cwd()}")
    names = [name.strip() for name in names if name.strip()]
    repeated = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if repeated is not None:
        raise UserError(f"the class {repeated!r} is named twice in classes")
    if len(names) < 2:
        raise UserError(f"classes={','.join(names)!r} is not allowed: name at least two classes")
    return names


def build_classifier(
    encoder: Encoder,
    names: Sequence[str],
    templates: Sequence[str],
    method: str = "zero_shot",
    examples: Examples | None = None,
    seed: int = 0,
) -> Classifier:
    """A classifier of embedded images.

    Args:
        encoder: embeds the class names.
        names: of the classes.
        templates: sets of prompt templates for the names.
        method: a key of `METHODS`.
        examples: labelled images; None for zero-shot.
        seed: of what the method draws.

    Raises:
        UserError: there is no such method or set of templates, or the method needs examples.
    """
    check_method(method)
    if examples is None and method != "zero_shot":
        raise UserError(f"method={method!r} needs examples of the classes")
    texts = encoder.encode_text(class_texts(names, templates))
    class_embeds = check_finite(average_templates(texts, len(names)), "class names")
    zero_shot = ZeroShot(class_embeds, *encoder.similarity)
    return zero_shot if examples is None else METHODS[method](zero_shot, examples, seed)


def classify(
    encoder: Encoder,
    classifier: Classifier,
    names: Sequence[str],
    pictures: Iterable[Picture],
    rejects: bool = False,
) -> Classified:
    """Embed pictures and classify them.

    Args:
        encoder: embeds the pictures.
        classifier: of embedded pictures; a `ZeroShot` if `rejects`.
        names: of the classes.
        pictures: what to classify.
        rejects: also say which pictures fit none of the classes.

    Raises:
        DataError: not one of the pictures can be decoded.
    """
    gallery = embed_gallery(encoder.encode_image, pictures)
    probabilities = classifier.probabilities(gallery.embeds)
    result = Classified(gallery.pictures, list(names), probabilities, gallery.unreadable)
    if rejects:
        assert isinstance(classifier, ZeroShot)
        background = encoder.encode_text(background_texts())
        embeds = (gallery.embeds, classifier.class_embeds, background)
        margins = class_margins(*(tensor.numpy() for tensor in embeds))
        result.margins = margins.tolist()
    return result


def classify_by_head(model: TorchClassifier, pictures: Iterable[Picture]) -> Classified:
    """Classify pictures with a model's class head.

    Raises:
        DataError: not one of the pictures can be decoded.
    """
    gallery = embed_gallery(model.encode_image, pictures)
    probabilities = gallery.embeds.softmax(dim=1)
    return Classified(gallery.pictures, model.class_names, probabilities, gallery.unreadable)
