"""What a run says of itself at its start, and what its model card is written from."""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from ..conversion.sources import read_base
from ..evaluation.metrics import Metric
from ..hub.base_model import BaseModel
from ..hub.card_facts import CardFacts, describe_environment
from ..utils.errors import warn_only
from .options import ModelOptions

if TYPE_CHECKING:
    from .trainer import Trainer

#: Captions that a card and its widget show.
NUM_EXAMPLES = 4
#: The parts of a model that count as its image tower, and as its text tower.
VISION_PARTS = ("vision_model", "visual_projection", "classifier")
TEXT_PARTS = ("text_model", "text_projection")


def describe_start(training: "Trainer") -> str:
    """What a run is about to do, in two lines: its data and model, and how it computes."""
    model, args = training.preparation.model, training.args
    data, columns = training.preparation.data, training.preparation.columns
    rows = "samples an epoch" if args.stream.stream_sources else "rows"
    read = {
        "image": columns.image_column,
        "captions": ", ".join(columns.caption_columns),
        "label": columns.label_column,
    }
    parts = {
        "image tower": count_parameters(model, VISION_PARTS),
        "text tower": count_parameters(model, TEXT_PARTS),
    }
    facts = [f"{name} {number / 1e6:,.2f} M parameters" for name, number in parts.items() if number]
    if hasattr(model, "text_model"):
        facts.append(f"vocabulary {model.config.text_config.vocab_size:,}")
    names = "; ".join(f"{kind}: {name}" for kind, name in read.items() if name)
    device, processes = training.accelerator.device.type, training.accelerator.num_processes
    autocast = training.precision.autocast
    optimizer = args.optimizer
    batch = f"{optimizer.per_device_train_batch_size:,} images"
    if args.native.max_image_tokens:
        batch = f"at most {args.native.max_image_tokens:,} patches"
    updates = f"{training.max_steps:,} updates"
    if training.progress.step:
        updates += f", of which {training.progress.step:,} are done"
    how = [
        f"float32 on {device}" if autocast == "no" else f"{autocast} autocast on {device}",
        f"{processes} process" if processes == 1 else f"{processes} processes",
        f"batches of {batch}" if processes == 1 else f"batches of {batch} in each",
    ]
    if optimizer.gradient_accumulation_steps > 1:
        how.append(f"{optimizer.gradient_accumulation_steps} batches an update")
    return (
        f"training on {data.num_rows:,} {rows} ({names}): {', '.join(facts)}\n"
        f"in {', '.join([*how, updates])}"
    )


def count_parameters(model: PreTrainedModel, names: Iterable[str]) -> int:
    """How many parameters the parts of a model have that go by these names, where it has them."""
    modules = (getattr(model, name, None) for name in names)
    return sum(p.numel() for module in modules if module for p in module.parameters())


def gather_facts(
    training: "Trainer", model: PreTrainedModel, metrics: list[Metric], examples: list[str]
) -> CardFacts:
    """What a card of a model of a run says, now.

    Args:
        training: the run.
        model: what it has trained so far, whole.
        metrics: of that model.
        examples: captions to show how it is used.
    """
    data, progress, args = training.preparation.data, training.progress, training.args
    return CardFacts(
        name=training.output_dir.resolve().name,
        dataset=args.data.dataset,
        num_rows=data.num_rows,
        num_concepts=data.num_concepts,
        skipped=data.bad.examples,
        recipe=args.to_flat_dict(),
        metrics=metrics,
        steps=progress.step,
        seconds=progress.seconds,
        precision=training.precision.autocast,
        images_per_second=progress.images / progress.seconds,
        num_vision_parameters=count_parameters(model, VISION_PARTS),
        num_text_parameters=count_parameters(model, TEXT_PARTS),
        example_texts=examples[:NUM_EXAMPLES] or ["a picture"],
        image_size=training.task.image_size(model),
        environment=describe_environment(training.energy),
        # A CLIP that learns from the names of classes has them too, without a head for them.
        classes=[] if hasattr(model, "text_model") else training.preparation.class_names,
        bases=find_bases(args.model),
    )


def find_bases(options: ModelOptions) -> list[BaseModel]:
    """The published models that a run started from."""
    towers = (options.vision_model_name_or_path, options.text_model_name_or_path)
    names = [options.model_name_or_path] if options.model_name_or_path else filter(None, towers)
    return [find_base(name) for name in names]


@cache
def find_base(name: str) -> BaseModel:
    """A published model, whose card is read once in a process."""
    base = BaseModel(name)
    with warn_only(f"reading the card of {name}"):
        base = read_base(name)
    return base
