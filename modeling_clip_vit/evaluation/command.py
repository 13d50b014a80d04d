"""The command `clip-vit evaluate`."""

import sys
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser

from ..inference.loading import load_encoder
from ..utils.processes import start_processes
from .tasks import NEEDS, EvaluationOptions, evaluate


def run_evaluate(arguments: list[str]) -> int:
    """Evaluate a checkpoint on a data set; print the tables and write what was measured."""
    given = build_parser().parse_args(arguments)
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


def build_parser() -> ArgumentParser:
    """The arguments of `clip-vit evaluate`."""
    parser = ArgumentParser(
        prog="clip-vit evaluate",
        description="Measure a CLIP on a data set: retrieval, zero-shot classes and more.",
    )
    parser.add_argument(
        "checkpoint", type=str, help="a folder, the id of a model on the Hub, or an export"
    )
    parser.add_argument(
        "--dataset", type=str, required=True, help="a folder that datasets reads, or a Hub id"
    )
    parser.add_argument("--split", type=str, help="what to measure on; validation, else test")
    parser.add_argument(
        "--train_split", type=str, help="what a probe and neighbours learn from; train"
    )
    parser.add_argument("--image_column", type=str, help="of images; as its type or name tells")
    parser.add_argument(
        "--caption_columns",
        type=str,
        nargs="+",
        help="each holds a caption, or a list of captions, of a row; as their names tell",
    )
    parser.add_argument(
        "--label_column", type=str, help="of classes; as its name tells, or the first"
    )
    parser.add_argument(
        "--concept_column", type=str, help="rows with an equal value belong together; none"
    )
    parser.add_argument(
        "--templates",
        type=str,
        nargs="+",
        default=["en"],
        help="phrases around class names, one ensemble: plain, en, zh, open_clip_imagenet, or a "
        "text file with a phrase a line",
    )
    parser.add_argument(
        "--tasks", choices=list(NEEDS), nargs="+", help="all that the columns allow, but robustness"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="in each process")
    parser.add_argument("--num_workers", type=int, default=2, help="that decode, in each process")
    parser.add_argument("--max_samples", type=int, help="draw at most so many rows of a split")
    parser.add_argument(
        "--max_bad_sample_ratio",
        type=float,
        default=0.01,
        help="stop when a larger share of images cannot be decoded",
    )
    parser.add_argument("--runtime", type=str, default="auto", help="of an export; the usual one")
    parser.add_argument("--seed", type=int, default=0, help="of draws, halves and noise")
    parser.add_argument("--output_dir", type=str, default="outputs/evaluation", help="for results")
    return parser
