"""Templates of cards, and how they are filled in: by Jinja, in a sandbox."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from ...utils.errors import UserError, one_line
from ...utils.markdown import escape_cell

TEMPLATES = Path(__file__).parent


def check_template(path: Path):
    """Reject a template that is missing or not valid, before a run is made to fill it in.

    Raises:
        UserError: with the reason.
    """
    if not path.is_file():
        raise UserError(f"card_template={str(path)!r} is not allowed: there is no such file")
    with valid_template(str(path)):
        template_environment().parse(path.read_text(encoding="utf-8"))


def render(template: str, context: Mapping[str, Any], name: str) -> str:
    """Fill in a template; at most one line in a row stays empty.

    Raises:
        UserError: the template is not valid; the message says why.
    """
    with valid_template(name):
        text = template_environment().from_string(template).render(context)
    return re.sub(r"\n{3,}", "\n\n", text)  # what conditions leave behind


def render_packaged(file: str, context: Mapping[str, Any]) -> str:
    """Fill in one of the package's own templates."""
    return render((TEMPLATES / file).read_text(encoding="utf-8"), context, file)


@contextmanager
def valid_template(name: str) -> Iterator[None]:
    """Turn what Jinja says of a template into one sentence.

    Raises:
        UserError: that sentence.
    """
    try:
        yield
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f"{name!r}, line {line}" if line else repr(name)
        raise UserError(f"the card template {where} is not valid: {one_line(error)}") from error


def template_environment() -> SandboxedEnvironment:
    """Jinja with the filters of cards; what a template names must exist."""
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "cell": escape_cell,
        "json": lambda value: json.dumps(value, ensure_ascii=False),
        "percent": lambda value: f"{100 * value:.1f}",
        "prose": escape_prose,
        "words": lambda name: str(name).replace("_", " "),
    }
    return environment


def escape_prose(text: Any) -> str:
    """A text that came with the data, so that it is neither HTML nor a new paragraph."""
    return " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
