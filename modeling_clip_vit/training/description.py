"""What the model card of a run is written from."""

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

    def count(*names: str) -> int:
        modules = (getattr(model, name, None) for name in names)
        return sum(p.numel() for module in modules if module for p in module.parameters())

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
        num_vision_parameters=count("vision_model", "visual_projection", "classifier"),
        num_text_parameters=count("text_model", "text_projection"),
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
