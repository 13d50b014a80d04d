"""The command `clip-vit info`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..search.place import IndexPlace
from ..search.results import printable
from ..search.settings import SETTINGS_FILE
from ..utils.command_line import CommandParser
from .info import EXPORT_FILE, describe_checkpoint, describe_export


def run_info(arguments: list[str]) -> int:
    """Say what a checkpoint, an export or an index is."""
    options = build_parser().parse(arguments, InfoOptions)
    facts = describe(options.path)
    if options.format == "json":
        print(json.dumps({"path": options.path, **facts}, indent=2, ensure_ascii=False))
    else:
        print(options.path)
        print_facts(facts)
    return 0


def describe(path: str) -> dict[str, Any]:
    """Name of a fact -> its value, for a checkpoint, an export or an index.

    Raises:
        UserError: it is none of them, or cannot be read.
    """
    if "://" in path or IndexPlace(path).read(SETTINGS_FILE) is not None:
        from ..search.info import describe_index

        return describe_index(path)
    folder = Path(path).expanduser()
    if (folder / EXPORT_FILE).is_file():
        return describe_export(folder)
    from ..utils.models import import_models

    import_models()
    from ..conversion.published import local_checkpoint

    return describe_checkpoint(local_checkpoint(path, needs_texts=False))


def print_facts(facts: dict[str, Any], indent: str = "  "):
    """Print facts, one a line; those of a part below its name."""
    shown = {name: value for name, value in facts.items() if value is not None}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        if isinstance(value, dict):
            print(f"{indent}{printable(name)}")
            print_facts(value, indent + "  ")
        else:
            print(f"{indent}{printable(name):{width}}  {printable(as_text(value))}")


def as_text(value: Any) -> str:
    """A value for people: thousands separated, lists with commas."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass
class InfoOptions:
    """How to show it.

    Args:
        format: table or json.
    """

    format: Literal["table", "json"] = "table"


def build_parser() -> CommandParser:
    """The arguments of `clip-vit info`."""
    parser = CommandParser(
        prog="clip-vit info",
        description="Describe a checkpoint, an exported model or an index: what it is made of, "
        "what it costs, what it was trained on and how well it does.",
        example="clip-vit info outputs/emoji",
    )
    parser.add_argument(
        "path", type=str, help="checkpoint of any peer, exported model, or index of pictures"
    )
    parser.add_class_arguments(InfoOptions)
    return parser
