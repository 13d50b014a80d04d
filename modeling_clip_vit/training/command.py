"""The command `clip-vit train`: arguments from a recipe and the command line."""

import itertools
import logging
import sys
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from jsonargparse import ArgumentParser, set_parsing_settings

from .arguments import TrainArguments

SECTIONS: dict[str, Any] = get_type_hints(TrainArguments)


def run_training(arguments: list[str], default_config: Path | None = None) -> int:
    """Train by a recipe, and write the model with all that belongs to it.

    Args:
        arguments: `--config FILE` and `--FIELD VALUE`.
        default_config: the recipe where no `--config` is given.
    """
    args = parse_arguments(arguments, default_config)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    from .classification import ClassificationTraining
    from .loop import ContrastiveTraining, Interrupted
    from .report import write_outputs

    kinds = {"contrastive": ContrastiveTraining, "classification": ClassificationTraining}
    try:
        training = kinds[args.run.task](args)
        with training.claim_folders():
            result = training.run()
            if training.accelerator.is_main_process:
                write_outputs(args, result)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    return 0


def parse_arguments(arguments: list[str], default_config: Path | None = None) -> TrainArguments:
    """Read a recipe and what the command line changes of it.

    Raises:
        SystemExit: a field or a value is wrong; the message names what is allowed.
        ValueError: values do not go together.
    """
    given = any(argument.split("=")[0] == "--config" for argument in arguments)
    if default_config is not None and not given:
        arguments = ["--config", str(default_config), *arguments]
    for name, value in itertools.pairwise(arguments):
        if name == "--config" and not Path(value).is_file():
            raise FileNotFoundError(f"no recipe {value!r} (looked in {Path.cwd()})")
    namespace = build_parser().parse_args(arguments)
    sections = {
        name: section(**{option.name: namespace[option.name] for option in fields(section)})
        for name, section in SECTIONS.items()
    }
    return TrainArguments(**sections)


class RecipeParser(ArgumentParser):
    """A parser that names the fields that come closest to a misspelt one."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Print one sentence and leave with exit code 2."""
        message = " ".join(message.split()).rstrip(".")
        if "nrecognized" in message or "not accepted" in message:
            names = [option.name for section in SECTIONS.values() for option in fields(section)]
            words = message.replace("'", " ").replace("=", " ").replace("--", " ").split()
            close = [name for word in words for name in get_close_matches(word, names, n=2)]
            if close:
                message += f". Did you mean {', '.join(dict.fromkeys(close))}?"
            message += f" The fields are: {', '.join(sorted(names))}"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def build_parser() -> ArgumentParser:
    """Every field of every section as `--field`, and `--config` for a recipe file."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = RecipeParser(
        prog="clip-vit train",
        description="Train a CLIP. A recipe sets fields; the command line overrides them.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a recipe: a YAML file of fields")
    for section in SECTIONS.values():
        parser.add_class_arguments(section, as_group=True)
    return parser
