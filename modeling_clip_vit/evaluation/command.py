"""The command `clip-vit evaluate`."""

import sys
from dataclasses import fields
from pathlib import Path

from ..conversion.published import local_checkpoint
from ..data.sources import open_dataset
from ..inference.classifier import TorchClassifier, is_classifier, load_classifier
from ..inference.loading import Encoder, load_encoder
from ..runtimes import RUNTIMES
from ..utils.command_line import CommandParser
from ..utils.processes import start_processes
from .evaluate import evaluate, open_evaluation
from .images import ImagesOnDisk
from .options import EvaluationOptions

#: Options that only an entry of a recipe has.
RECIPE_OPTIONS = {"name", "only_at_end"}


def run_evaluate(arguments: list[str]) -> int:
    """Evaluate a checkpoint on a dataset; print the tables and write what was measured."""
    parsed = build_parser().parse(arguments, EvaluationOptions)
    names = [
        option.name for option in fields(EvaluationOptions) if option.name not in RECIPE_OPTIONS
    ]
    options = EvaluationOptions(**{name: parsed[name] for name in names})
    state = start_processes()
    encoder: Encoder | TorchClassifier
    class_names = None
    checkpoint = local_checkpoint(parsed.checkpoint, needs_texts=False)
    if is_classifier(checkpoint):
        encoder = load_classifier(checkpoint)
        class_names = encoder.class_names
    else:
        encoder = load_encoder(checkpoint, parsed.runtime)
    splits = open_dataset(options.dataset, options.image_column)
    report = evaluate(open_evaluation(options, splits, ImagesOnDisk, class_names), encoder)
    if report is None or not state.is_main_process:
        return 0
    from .report import save_report, write_tables

    facts = {"checkpoint": parsed.checkpoint, "options": {name: parsed[name] for name in names}}
    for example in report.images.bad.examples:
        print(f"skipped {example}", file=sys.stderr)
    split = report.source.split
    print(f"{parsed.checkpoint} on {len(report.images.rows)} images of {options.dataset}, {split}:")
    print(f"\n{write_tables(report.metrics)}")
    save_report(Path(parsed.output_dir), report, facts)
    print(f"metrics.json, evaluation.md and evaluation.png are in {parsed.output_dir}")
    return 0


def build_parser() -> CommandParser:
    """The arguments of `clip-vit evaluate`."""
    parser = CommandParser(
        prog="clip-vit evaluate",
        description="Evaluate a CLIP on a dataset: retrieval, zero-shot classification and more; "
        "or a model with a class head.",
        example="clip-vit evaluate outputs/emoji --dataset data/emoji --concept_column hexcode",
        replaced={"label_column": "label_columns, which takes one column or several"},
    )
    parser.add_argument(
        "checkpoint",
        type=str,
        help="checkpoint of any peer, or exported model: a folder or a Hub id",
    )
    parser.add_argument(
        "--dataset",
        type=str,
        required=True,
        help="a folder, a file or a glob pattern as for training, or a dataset id on the Hub",
    )
    parser.add_class_arguments(EvaluationOptions, skip={"dataset", *RECIPE_OPTIONS})
    parser.add_argument(
        "--runtime",
        type=str,
        default="auto",
        help=f"runtime for an exported model: {', '.join(RUNTIMES)}; auto picks by format",
    )
    parser.add_argument(
        "--output_dir",
        type=str,
        default="outputs/evaluation",
        help="folder for metrics.json, evaluation.md and evaluation.png",
    )
    return parser
