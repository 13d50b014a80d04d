"""The command `clip-vit quantize`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from ..conversion.published import local_checkpoint
from ..conversion.sources import repository_of
from ..evaluation.dataset import EvaluationSet
from ..evaluation.evaluate import evaluate_run
from ..evaluation.metrics import as_json
from ..evaluation.options import EvaluationOptions
from ..inference.loading import TorchEncoder, load_clip
from ..modeling_clip_vit import ClipVitModel
from ..utils.command_line import CommandParser
from ..utils.folders import check_new, new_folder, write_json
from ..utils.from_pretrained import is_quantized
from ..utils.markdown import escape_cell
from .eight_bits import quantize, require_torchao
from .evaluation_set import read_quantization_set
from .folder import weight_bytes, write_quantized
from .layers import QuantizationError, choose_layers
from .options import DEFAULT_SKIP
from .sensitivity import as_table, measure_sensitivity, save_picture


def run_quantize(arguments: list[str]) -> int:
    """Quantise a trained model, or report what each of its layers would lose."""
    options = build_parser().parse(arguments, QuantizeOptions)
    check_options(options)
    checkpoint = local_checkpoint(options.checkpoint)
    model, processor = load_clip(checkpoint)
    if not isinstance(model, ClipVitModel):
        raise QuantizationError(
            f"{options.checkpoint!r} holds a model of type {model.config.model_type!r}: "
            "clip-vit convert has no conversion of it"
        )
    if is_quantized(model.config):
        raise QuantizationError(f"{options.checkpoint!r} is quantised already")
    float_bytes = sum(weight.nbytes for weight in model.state_dict().values())
    model = model.float().cpu()
    samples = None
    if options.dataset:
        names = ("dataset", "split", "max_samples", "image_column", "caption_columns")
        evaluation = EvaluationOptions(
            **{name: options[name] for name in (*names, "concept_column")},
            max_bad_sample_ratio=0.05,
        )
        samples = read_quantization_set(evaluation, model.config.vision_config.image_size)
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
        "float_bytes": float_bytes,
    }
    if repository_of(options.checkpoint):
        facts["base_model"] = repository_of(options.checkpoint)
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


@dataclass
class QuantizeOptions:
    """How to quantise, and what to evaluate on.

    Args:
        mode: `dynamic` quantises weights and activations, with a scale per token; `weight_only`
            quantises weights only. For fixed activation ranges, see
            `clip-vit export --precision int8`.
        weight_bits: bits per weight.
        embeddings: quantise the token embeddings too.
        skip: layers to keep in float, by name or pattern.
        dataset: dataset to compare the float and the quantised model on.
        split: split of the dataset; by default validation, or test if there is none.
        max_samples: measure on at most this many randomly drawn rows.
        image_column: column with the images; guessed from type and name by default.
        caption_columns: columns with a caption or a list of captions per row; guessed from their
            names by default.
        concept_column: rows with the same value are correct matches for each other.
    """

    mode: Literal["dynamic", "weight_only"] = "dynamic"
    weight_bits: Literal[8, 4, 3, 2] = 8
    embeddings: bool = False
    skip: list[str] = field(default_factory=lambda: list(DEFAULT_SKIP))
    dataset: str | None = None
    split: str | None = None
    max_samples: int | None = None
    image_column: str | None = None
    caption_columns: list[str] | None = None
    concept_column: str | None = None


def build_parser() -> CommandParser:
    """The arguments of `clip-vit quantize`."""
    parser = CommandParser(
        prog="clip-vit quantize",
        description="Quantise a trained model, or report what each layer loses.",
        example="clip-vit quantize outputs/emoji outputs/emoji-int8",
        replaced={"num_samples": "max_samples"},
    )
    parser.add_argument(
        "checkpoint", type=str, help="checkpoint of this package or of a peer: a folder or a Hub id"
    )
    parser.add_argument(
        "target",
        type=str,
        nargs="?",
        help="output folder; must be new or empty; optional with --report",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="measure what each layer loses when it alone is quantised, instead of quantising",
    )
    parser.add_class_arguments(QuantizeOptions)
    return parser


def check_options(options: Namespace):
    """Refuse what does not go together, before anything is loaded.

    Raises:
        QuantizationError: with what to give.
        MissingPackageError: torchao is not installed.
        UserError: the target is not empty.
    """
    if options.report and not options.dataset:
        raise QuantizationError("--report needs --dataset: a dataset to measure on")
    if not options.report and not options.target:
        raise QuantizationError("there is no folder to write to: clip-vit quantize SOURCE TARGET")
    require_torchao()
    if options.target:
        check_new(Path(options.target))


def compare(
    model: ClipVitModel, quantized: ClipVitModel, processor, samples: EvaluationSet
) -> dict:
    """Measure the float and the quantised model, and print both."""
    before, after = (
        evaluate_run([samples], TorchEncoder(version.eval(), processor))
        for version in (model, quantized)
    )
    print("| | float | quantised |\n| --- | --- | --- |")
    for one, other in zip(before, after, strict=True):
        if one.name.startswith("R@"):
            print(f"| {escape_cell(one.key)} | {100 * one.value:.1f} | {100 * other.value:.1f} |")
    return {"float_metrics": as_json(before), "metrics": as_json(after)}


def report(
    options: Namespace, model: ClipVitModel, processor, samples: EvaluationSet, layers: list[str]
) -> int:
    """Print what each layer loses; with a target, also write it there, with a picture."""
    losses = measure_sensitivity(
        model, processor, samples, layers, options.mode, options.weight_bits
    )
    print(as_table(losses))
    if options.target:
        with new_folder(Path(options.target)) as partial:
            write_json(partial / "sensitivity.json", [asdict(loss) for loss in losses])
            save_picture(partial / "sensitivity.png", losses)
        print(f"saved {options.target}")
    return 0
