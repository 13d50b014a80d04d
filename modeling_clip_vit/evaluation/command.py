"""The command `clip-vit evaluate`."""

import sys
from dataclasses import fields
from pathlib import Path

from ..inference.loading import load_encoder
from ..utils.command_line import CommandParser
from ..utils.processes import start_processes
from .tasks import EvaluationOptions, evaluate


def run_evaluate(arguments: list[str]) -> int:
    """Evaluate a checkpoint on a dataset; print the tables and write what was measured."""
    given = build_parser().parse(arguments, EvaluationOptions)
    options = EvaluationOptions(**{f.name: given[f.name] for f in fields(EvaluationOptions)})
    state = start_processes()
    report = evaluate(load_encoder(given.checkpoint, given.runtime), options)
    if report is None or not state.is_main_process:
        return 0
    from .report import save_report, write_tables

    facts = {"checkpoint": given.checkpoint, "options": vars(options)}
    for example in report.bad.examples:
        print(f"skipped {example}", file=sys.stderr)
    print(f"{given.checkpoint} on {report.num_images} images of {options.dataset}, {report.split}:")
    print(f"\n{write_tables(report.metrics)}")
    save_report(Path(given.output_dir), report, facts)
    print(f"metrics.json, evaluation.md and evaluation.png are in {given.output_dir}")
    return 0


def build_parser() -> CommandParser:
    """The arguments of `clip-vit evaluate`."""
    parser = CommandParser(
        prog="clip-vit evaluate",
        description="Evaluate a CLIP on a dataset: retrieval, zero-shot classification and more.",
        example="clip-vit evaluate outputs/emoji --dataset data/emoji --concept_column hexcode",
    )
    parser.add_argument(
        "checkpoint", type=str, help="checkpoint or exported model: a folder or a Hub id"
    )
    parser.add_class_arguments(EvaluationOptions)
    parser.add_argument(
        "--runtime",
        type=str,
        default="auto",
        help="runtime for an exported model: onnxruntime, openvino, torch; auto picks by format",
    )
    parser.add_argument(
        "--output_dir",
        type=str,
        default="outputs/evaluation",
        help="folder for metrics.json, evaluation.md and evaluation.png",
    )
    return parser
