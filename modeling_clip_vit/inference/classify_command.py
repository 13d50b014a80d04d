"""The command `clip-vit classify`."""

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from ..conversion.published import local_checkpoint
from ..data.templates import load_templates
from ..utils.command_line import CommandParser
from ..utils.errors import UserError
from ..utils.folders import check_file, replaced_file, write_json
from .classifier import is_classifier, load_classifier
from .classify import Classified, build_classifier, classify, classify_by_head, read_class_names
from .examples import open_examples
from .few_shot import check_method
from .gallery import open_gallery
from .loading import load_encoder

NONE = "none of these"
#: Options that say which classes there are, which a model with a class head says itself.
OF_CLASSES = ("classes", "examples", "shots", "method")


@dataclass
class ClassifyOptions:
    """By what to classify, and what to write.

    Args:
        classes: class names, or a text file with one name per line; by default those of the
            examples.
        examples: labelled examples: a folder with one folder of pictures per class, or a dataset.
        shots: number of examples per class, drawn with the seed; all by default.
        method: zero_shot (class names alone), prototypes (mean of the examples and the name),
            tip_adapter or tip_adapter_f (Zhang et al., 2022; f trains its keys); by default
            tip_adapter with examples, otherwise zero_shot.
        templates: prompt templates for the class names, averaged into one ensemble: plain, en, zh,
            open_clip_imagenet, or a text file with one template per line.
        top_k: number of classes per picture, the most probable first.
        none_of_these: also say which pictures fit none of the classes, by their names.
        save: write the result to this .csv or .json file.
        split: split to classify, if the pictures are a dataset; all by default.
        image_column: column with the images, if the pictures are a dataset; guessed by default.
        examples_split: split of the examples; by default train, or the first.
        examples_image_column: column with the images of the examples; guessed by default.
        label_column: column with the classes of the examples; guessed by default.
        seed: random seed.
        runtime: runtime for an exported model; auto picks it by format.
    """

    classes: list[str] | None = None
    examples: str | None = None
    shots: PositiveInt | None = None
    method: str | None = None
    templates: list[str] = field(default_factory=lambda: ["en"])
    top_k: PositiveInt = 1
    none_of_these: bool = False
    save: str | None = None
    split: str | None = None
    image_column: str | None = None
    examples_split: str | None = None
    examples_image_column: str | None = None
    label_column: str | None = None
    seed: int = 0
    runtime: str = "auto"


def run_classify(arguments: list[str]) -> int:
    """Classify pictures; print a table, and write it where asked to."""
    options = build_parser().parse(arguments, ClassifyOptions)
    if options.save:
        check_file(Path(options.save), ("csv", "json"), "a table")
    check_options(options)
    checkpoint = local_checkpoint(options.checkpoint, needs_texts=False)
    run = run_head if is_classifier(checkpoint) else run_encoder
    result, facts = run(checkpoint, options)
    for name in result.unreadable:
        print(f"skipped {name}", file=sys.stderr)
    how = ", ".join(f"{name} {value}" for name, value in facts.items())
    print(f"{len(result.pictures)} pictures of {options.images}, {how}:")
    print_table(result, options.top_k)
    if options.save:
        save_table(Path(options.save), result, options.top_k, facts)
        print(f"saved {options.save}")
    return 0


def run_head(checkpoint: str, options: Any) -> tuple[Classified, dict[str, Any]]:
    """Classify with a model's class head; also say how, for the output.

    Raises:
        UserError: the options name classes.
    """
    if options.none_of_these:
        raise UserError("none_of_these needs a model of images and texts, not a class head")
    for name in OF_CLASSES:
        if getattr(options, name) is not None:
            raise UserError(
                f"{name} is not allowed: {options.checkpoint!r} has a class head with classes of "
                "its own"
            )
    model = load_classifier(checkpoint)
    pictures = open_gallery(options.images, options.image_column, options.split)
    return classify_by_head(model, pictures), {"method": "class_head"}


def run_encoder(checkpoint: str, options: Any) -> tuple[Classified, dict[str, Any]]:
    """Classify by class names and examples; also say how, for the output.

    Raises:
        UserError: neither is there.
    """
    if options.classes is None and options.examples is None:
        raise UserError("there are no classes: name them with classes, or give examples of them")
    method = options.method or ("tip_adapter" if options.examples else "zero_shot")
    if options.none_of_these and method != "zero_shot":
        raise UserError(f"none_of_these is told by the names alone, and not with method={method!r}")
    names = None if options.classes is None else read_class_names(options.classes)
    labelled = None
    if options.examples is not None:
        labelled = open_examples(
            options.examples,
            names,
            options.shots,
            options.examples_split,
            options.examples_image_column,
            options.label_column,
        )
        names = labelled.labels.names
    assert names is not None
    encoder = load_encoder(checkpoint, options.runtime)
    examples = None
    facts: dict[str, Any] = {"method": method}
    if labelled is not None and method != "zero_shot":
        examples = labelled.embed(encoder.encode_image, options.seed)
        facts["examples"] = len(examples.labels)
        for name in labelled.unreadable:
            print(f"skipped the example {name}", file=sys.stderr)
    classifier = build_classifier(encoder, names, options.templates, method, examples, options.seed)
    facts |= {name: float(f"{value:.4g}") for name, value in classifier.parameters.items()}
    pictures = open_gallery(options.images, options.image_column, options.split)
    return classify(encoder, classifier, names, pictures, options.none_of_these), facts


def check_options(options: Any):
    """Reject a combination of options that means nothing, before a model is loaded.

    Raises:
        UserError: the method or the shots lack examples.
    """
    for name in options.templates:
        load_templates(name)
    if options.method is not None:
        check_method(options.method)
    if options.examples is not None:
        return
    if options.method not in (None, "zero_shot"):
        raise UserError(f"method={options.method!r} needs examples: name them with examples")
    if options.shots is not None:
        raise UserError(f"shots={options.shots} needs examples: name them with examples")


def print_table(result: Classified, top_k: int):
    """Print picture, class and probability; further classes of a picture on lines of their own."""
    names = [picture.name for picture in result.pictures]
    widths = [
        max(map(len, ["picture", *names])),
        max(map(len, ["class", NONE if result.margins else "", *result.names])),
    ]
    print(f"{'picture':{widths[0]}}  {'class':{widths[1]}}  probability")
    for (picture, classes), fits in zip(result.best(top_k), result.fits(), strict=True):
        if fits is False:
            print(f"{picture.name:{widths[0]}}  {NONE:{widths[1]}}")
            continue
        for rank, (name, probability) in enumerate(classes):
            shown = "" if rank else picture.name
            print(f"{shown:{widths[0]}}  {name:{widths[1]}}  {probability:11.3f}")


def save_table(path: Path, result: Classified, top_k: int, facts: Mapping[str, Any]):
    """Write picture, rank, class and probability as CSV; or as JSON, with how they came about."""
    best = result.best(top_k)
    with replaced_file(path) as partial:
        if path.suffix.lower() == ".json":
            pictures = [
                {
                    "picture": picture.name,
                    "classes": [{"class": name, "probability": p} for name, p in classes],
                    **({} if fits is None else {"fits": fits}),
                }
                for (picture, classes), fits in zip(best, result.fits(), strict=True)
            ]
            content = {**facts, "pictures": pictures, "unreadable": result.unreadable}
            write_json(partial, content)
            return
        with partial.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            judged = [] if result.margins is None else ["fits"]
            table.writerow(["picture", "rank", "class", "probability", *judged])
            for (picture, classes), fits in zip(best, result.fits(), strict=True):
                for rank, (name, probability) in enumerate(classes, start=1):
                    values = [picture.name, rank, name, f"{probability:.6g}"]
                    table.writerow([*values, *([fits] if judged else [])])


def build_parser() -> CommandParser:
    """The arguments of `clip-vit classify`."""
    parser = CommandParser(
        prog="clip-vit classify",
        description="Classify pictures by class names, by a few examples, or with the class head "
        "of a model.",
        example='clip-vit classify outputs/emoji photos --classes "cat,dog" --top_k 2',
    )
    parser.add_argument(
        "checkpoint",
        type=str,
        help="checkpoint of any peer, also with a class head, or exported model: a folder or a Hub "
        "id",
    )
    parser.add_argument("images", type=str, help="pictures: a folder, one image file, or a dataset")
    parser.add_class_arguments(ClassifyOptions)
    return parser
