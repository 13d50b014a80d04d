"""The command `clip-vit train`: arguments from a recipe and the command line."""

import itertools
import logging
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from jsonargparse import Namespace

from ..evaluation.options import EvaluationOptions
from ..utils.command_line import CommandParser, expand_home, normalize
from ..utils.errors import UserError
from ..utils.resources import find_resource
from .arguments import TrainArguments

#: Former options, and what to write instead.
REPLACED = {
    "eval_split": "an entry of evaluations: write evaluations: [{split: NAME}], or evaluations: [] "
    "to evaluate nothing",
    "zero_shot_columns": "part of evaluations: write evaluations: [{split: validation, tasks: "
    "[retrieval, zero_shot], label_columns: [NAME]}]",
    "zero_shot_templates": "part of evaluations: give templates in an entry of it",
    "new_concepts_split": "an entry of evaluations: write evaluations: [..., {name: new_concepts, "
    "split: NAME, gallery_splits: [validation], only_at_end: true}]",
    "new_concepts_filter": "part of evaluations: give filter in an entry of it",
}
SECTIONS: dict[str, Any] = get_type_hints(TrainArguments)


def run_training(arguments: list[str], default_config: Path | None = None) -> int:
    """Train by a recipe, and write the model with all that belongs to it.

    Args:
        arguments: `--config FILE` and `--FIELD VALUE`.
        default_config: the recipe where no `--config` is given.
    """
    args = parse_arguments(arguments, default_config)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    from .results import finish_run
    from .signals import Interrupted
    from .trainer import build_trainer

    try:
        trainer = build_trainer(args)
        with trainer.claim_folders():
            trainer.run()
            finish_run(trainer)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    return 0


def parse_arguments(arguments: list[str], default_config: Path | None = None) -> TrainArguments:
    """Read a recipe and what the command line changes of it.

    Raises:
        SystemExit: a field or a value is wrong; the message names what is allowed.
        UserError: values do not go together.
    """
    return read_arguments(parse_recipe(build_parser(), arguments, field_types(), default_config))


def parse_recipe(
    parser: CommandParser,
    arguments: list[str],
    types_by_name: Mapping[str, Any],
    default_config: Path | None = None,
) -> Namespace:
    """Parse a command line that may name a recipe.

    Args:
        parser: has what `add_recipe_options` adds.
        arguments: of the command line.
        types_by_name: the type of each option.
        default_config: the recipe where no `--config` is given.
    """
    arguments = normalize(arguments, types_by_name)
    if default_config is not None and "--config" not in arguments:
        arguments = ["--config", str(default_config), *arguments]
    for place, (name, value) in enumerate(itertools.pairwise(arguments), start=1):
        if name == "--config":
            arguments[place] = str(find_recipe(value))
    return parser.parse_args(arguments)


def read_arguments(namespace: Namespace) -> TrainArguments:
    """The options of a run among those of a command.

    Raises:
        UserError: values do not go together.
    """
    namespace["evaluations"] = [read_evaluation(entry) for entry in namespace["evaluations"]]
    sections = {
        name: section(
            **{option.name: expand_home(namespace[option.name]) for option in fields(section)}
        )
        for name, section in SECTIONS.items()
    }
    return TrainArguments(**sections)


def read_evaluation(entry: Namespace | dict) -> EvaluationOptions:
    """An entry of `evaluations`, or the default one."""
    values = entry.as_dict() if isinstance(entry, Namespace) else entry
    return EvaluationOptions(**{name: expand_home(value) for name, value in values.items()})


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Raises:
        UserError: there is none, or it is empty.
    """
    path = find_resource("train", name)
    if path.is_dir():
        raise UserError(f"the recipe {name!r} is a folder: name a YAML file")
    lines = path.read_text(encoding="utf-8").splitlines()
    if not any(line.strip() and not line.strip().startswith("#") for line in lines):
        raise UserError(f"the recipe {name!r} is empty: it sets no field")
    return path


def field_types() -> dict[str, Any]:
    """The type of every field."""
    return {
        name: kind
        for section in SECTIONS.values()
        for name, kind in get_type_hints(section).items()
    }


def build_parser() -> CommandParser:
    """The arguments of `clip-vit train`."""
    parser = CommandParser(
        prog="clip-vit train",
        usage="%(prog)s [--config RECIPE] [--OPTION VALUE ...]",
        description="Train a CLIP, or a ViT classifier. A recipe is a YAML file with options; "
        "options on the command line override it.",
        example="clip-vit train --config emoji --max_steps 100 --output_dir outputs/try",
        replaced=REPLACED,
    )
    add_recipe_options(parser)
    return parser


def add_recipe_options(parser: CommandParser):
    """Add every field of every section as `--field`, and `--config` for a recipe file."""
    parser.add_argument(
        "--config",
        action="config",
        help="recipe: a YAML file, or the name of a ready-made one (emoji, digits, cifar10, ...)",
    )
    for section in SECTIONS.values():
        parser.add_class_arguments(section, as_group=True)
    # As a recipe writes them: --print_config cannot write instances.
    default = [vars(entry) for entry in SECTIONS["data"]().evaluations]
    parser.set_defaults(evaluations=default)
