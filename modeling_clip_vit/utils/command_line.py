"""How options are read, from a command line and from a YAML file: the same for every command."""

import json
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace, set_loader, set_parsing_settings

#: What jsonargparse calls the way that YAML is read here.
YAML_1_2 = "yaml_1_2"

#: A dataclass with the options of a command.
Options = TypeVar("Options")

#: Values that an option which is true, false or null may be given.
FLAG_VALUES = [[word] for word in ("true", "false", "null", "True", "False", "None")]


class Yaml12Loader(yaml.SafeLoader):
    """YAML 1.2: `yes`, `no`, `on` and `off` are words, and `1e-4` is a number."""


Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+0123456789."),
)
set_loader(YAML_1_2, lambda text: yaml.load(text, Yaml12Loader), exceptions=(yaml.YAMLError,))


class CommandParser(ArgumentParser):
    """Parses the options of a command, and suggests the closest names for a misspelt one.

    Args:
        example: a command line that works, shown at the end of `--help`.
        replaced: former option -> what to write instead, as the end of a sentence.
        kwargs: passed to jsonargparse's `ArgumentParser`.
    """

    def __init__(self, example: str = "", replaced: Mapping[str, str] | None = None, **kwargs: Any):
        self.replaced = replaced or {}
        set_parsing_settings(docstring_parse_attribute_docstrings=True)
        epilog = f"example: {example}" if example else None
        # jsonargparse makes parsers of this class for nested options, with a mode of their own.
        defaults = {"parser_mode": YAML_1_2, "allow_abbrev": False, "epilog": epilog}
        super().__init__(**{**defaults, **kwargs})

    def parse(self, arguments: list[str], options: Any = None) -> Namespace:
        """Parse a command line as people write it, see `normalize`.

        Args:
            arguments: of the command line.
            options: a dataclass with options; its lists may be given without brackets.
        """
        return self.parse_args(normalize(arguments, get_type_hints(options) if options else {}))

    def option_names(self) -> list[str]:
        """The names of all options, without the dashes."""
        names = [
            [name[2:] for name in action.option_strings if name[-1] != "+"]  # not `--list+`
            for action in self._actions
        ]
        return [name for long in names for name in long[-1:]]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        """Print one sentence and leave with exit code 2."""
        message = " ".join(message.split()).rstrip(".")
        if "nrecognized" in message or "not accepted" in message:
            names = self.option_names()
            words = message.replace("'", " ").replace("=", " ").replace("--", " ").split()
            first_parts = (word.split(".")[0] for word in words)
            former = next((name for name in first_parts if name in self.replaced), None)
            if former is not None:
                print(f"error: {former} is now {self.replaced[former]}", file=sys.stderr)
                raise SystemExit(2)
            close = [name for word in words for name in get_close_matches(word, names, n=2)]
            if close:
                message += f". Did you mean {' or '.join(dict.fromkeys(close))}?"
            message += f"{'' if close else '.'} --help lists all options"
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def build_options(parsed: Namespace, kind: type[Options]) -> Options:
    """The options of a dataclass out of all that a command line has."""
    return kind(**{option.name: parsed[option.name] for option in fields(kind)})  # type: ignore[arg-type]


def normalize(arguments: list[str], types_by_name: Mapping[str, Any]) -> list[str]:
    """Turn a command line as people write it into one that jsonargparse accepts.

    A list may be written without brackets (`--caption_columns en,zh` or `--caption_columns en zh`),
    and an option that is true or false without `true`; `None` means null where null is allowed, and
    `~` is the home folder wherever a path begins.

    Args:
        arguments: of the command line.
        types_by_name: the type of each option.
    """
    result: list[str] = []
    for name, values in group(arguments):
        kind = types_by_name.get(name or "")
        if is_flag(kind) and values[:1] not in FLAG_VALUES:
            values = ["true", *values]
        if name is None or kind is None or not values:
            result += ([] if name is None else [f"--{name}"]) + [expand_home(v) for v in values]
            continue
        values = [expand_home(value) for value in values]
        list_kind = find_list(kind)
        if list_kind is not None and not values[0].startswith("["):
            if len(values) == 1 and values[0] not in ("null", "None"):
                values = [part.strip() for part in split_list(values[0]) if part.strip()]
            if values not in (["null"], ["None"]):
                values = [json.dumps([as_scalar(value, list_kind) for value in values])]
        if values == ["None"] and allows_none(kind):
            values = ["null"]
        result += [f"--{name}", *values]
    return result


def group(arguments: list[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Each option with its values; None for what stands before the first option."""
    name: str | None = None
    values: list[str] = []
    for argument in arguments:
        if argument.startswith("--") and len(argument) > 2:
            if name is not None or values:
                yield name, values
            name, values = argument[2:], []
            if "=" in name:
                name, value = name.split("=", 1)
                values = [value]
        else:
            values.append(argument)
    if name is not None or values:
        yield name, values


def split_list(text: str) -> list[str]:
    """A list without brackets as its elements; a comma between braces separates none.

    `{1,2}.tar,3.tar` has two elements.
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if character == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def find_list(kind: Any) -> Any:
    """A list type, also one that may be null; None for any other type."""
    kinds = get_args(kind) if allows_none(kind) else (kind,)
    return next((one for one in kinds if get_origin(one) is list), None)


def is_flag(kind: Any) -> bool:
    """Whether an option is true or false, or null."""
    return kind is bool or (allows_none(kind) and set(get_args(kind)) == {bool, type(None)})


def as_scalar(value: str, kind: Any) -> Any:
    """An element of a list as its type has it."""
    element = get_args(kind)[0] if get_args(kind) else str
    return yaml.load(value, Yaml12Loader) if element in (int, float) else value


def allows_none(kind: Any) -> bool:
    """Whether an option may be null."""
    is_union = get_origin(kind) in (Union, types.UnionType)
    return is_union and type(None) in get_args(kind)


def expand_home(value: Any) -> Any:
    """A text that begins with `~` with the home folder in its place; also those within a list."""
    if isinstance(value, list):
        return [expand_home(part) for part in value]
    if isinstance(value, str) and (value == "~" or value.startswith(("~/", "~\\"))):
        return os.path.expanduser(value)
    return value
