"""The command `clip-vit quantize`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt

from ..evaluation.evaluator import EvaluationSet, Evaluator
from ..evaluation.metrics import as_json
from ..inference.loading import is_quantized, load_clip
from ..modeling_clip_vit import ClipVitModel
from ..utils.folders import check_new, new_folder
from ..utils.markdown import escape_cell
from .eight_bits import quantize, require_torchao
from .folder import weight_bytes, write_quantized
from .layers import QuantizationError, choose_layers
from .options import DEFAULT_SKIP
from .samples import read_samples
from .sensitivity import as_table, measure_sensitivity, save_picture


def run_quantize(arguments: list[str]) -> int:
    """Quantise a trained model, or report what each of its layers would lose."""
    options = build_parser().parse_args(arguments)
    check_options(options)
    model, processor = load_clip(options.checkpoint)
    if not isinstance(model, ClipVitModel):
        raise QuantizationError(
            f"{options.checkpoint!r} holds a model of type {model.config.model_type!r}: "
            "clip-vit convert makes it one of this package"
        )
    if is_quantized(model.config):
        raise QuantizationError(f"{options.checkpoint!r} is quantised already")
    model = model.float().cpu()
    samples = None
    if options.dataset:
        samples = read_samples(
            options.dataset,
            options.split,
            model.config.vision_config.image_size,
            options.image_column,
            options.caption_columns,
            options.concept_column,
            options.num_samples,
        )
    layers = choose_layers(model, options.skip, options.embeddings)
    if options.report:
        assert samples is not None, "check_options asks for it"
        return report(options, model, processor, samples, layers)
    quantized = quantize(model, layers, options.mode, options.weight_bits)
    facts = {
        "mode": options.mode,
        "weight_bits": options.weight_bits,
        "skip": options.skip,
        "embeddings": options.embeddings,
        "float_bytes": weight_bytes(Path(options.checkpoint)),
    }
    if samples is not None:
        facts |= compare(model, quantized, processor, samples)
    with new_folder(Path(options.target)) as partial:
        write_quantized(quantized, processor, partial, facts)
    size = weight_bytes(Path(options.target))
    print(
        f"{options.checkpoint} in {options.mode} int{options.weight_bits} is now "
        f"{options.target}: {size / 1e6:.1f} MB"
    )
    return 0


def build_parser() -> ArgumentParser:
    """The arguments of `clip-vit quantize`."""
    parser = ArgumentParser(
        prog="clip-vit quantize",
        description="Quantise a trained model, or report what each layer loses by it.",
    )
    parser.add_argument("checkpoint", type=str, help="a folder or the id of a model on the Hub")
    parser.add_argument(
        "target", type=str, nargs="?", help="a folder that is not there yet, or empty"
    )
    parser.add_argument(
        "--mode",
        choices=["dynamic", "weight_only"],
        default="dynamic",
        help="also activations, token by token, or weights alone; for ranges that are fixed "
        "beforehand see clip-vit export --precision int8",
    )
    parser.add_argument("--weight_bits", type=Literal[8, 4, 3, 2], default=8, help="of a weight")
    parser.add_argument("--embeddings", type=bool, default=False, help="also token embeddings")
    parser.add_argument(
        "--skip",
        type=list[str],
        default=list(DEFAULT_SKIP),
        help="names or patterns of layers that stay float",
    )
    parser.add_argument("--report", action="store_true", help="measure the layers, one at a time")
    parser.add_argument("--dataset", type=str, help="a data set to measure on")
    parser.add_argument("--split", type=str, default="validation", help="of it")
    parser.add_argument(
        "--num_samples", type=NonNegativeInt, default=0, help="rows of it; 0 for all"
    )
    parser.add_argument("--image_column", type=str, default="image", help="of it")
    parser.add_argument("--caption_columns", type=list[str], default=["caption"], help="of it")
    parser.add_argument(
        "--concept_column", type=str, help="rows with an equal value belong together"
    )
    return parser


def check_options(options: Namespace):
    """Refuse what does not go together, before anything is loaded.

    Raises:
        ValueError: with what to give.
    """
    if options.report and not options.dataset:
        raise QuantizationError("--report needs --dataset: a data set to measure on")
    if options.dataset and not options.caption_columns:
        raise QuantizationError("--caption_columns names no column to measure on")
    if not options.report and not options.target:
        raise QuantizationError("there is no folder to write to: clip-vit quantize SOURCE TARGET")
    require_torchao()
    if options.target:
        check_new(Path(options.target))


def compare(
    model: ClipVitModel, quantized: ClipVitModel, processor, samples: EvaluationSet
) -> dict:
    """Measure the float and the quantised model, and print both."""
    measure = Evaluator(samples)
    before, after = measure(model, processor), measure(quantized, processor)
    print("| | float | quantised |\n| --- | --- | --- |")
    for one, other in zip(before, after, strict=True):
        if one.name.startswith("R@"):
            print(f"| {escape_cell(one.key)} | {100 * one.value:.1f} | {100 * other.value:.1f} |")
    return {"float_metrics": as_json(before), "metrics": as_json(after)}


def report(
    options: Namespace, model: ClipVitModel, processor, samples: EvaluationSet, layers: list[str]
) -> int:
    """Print what each layer loses; with a target, also write it there, with a picture."""
    found = measure_sensitivity(
        model, processor, samples, layers, options.mode, options.weight_bits
    )
    print(as_table(found))
    if options.target:
        with new_folder(Path(options.target)) as partial:
            text = json.dumps([asdict(one) for one in found], indent=2)
            (partial / "sensitivity.json").write_text(text + "\n", encoding="utf-8")
            save_picture(partial / "sensitivity.png", found)
        print(f"saved {options.target}")
    return 0
