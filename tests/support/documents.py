"""The documents of this project: their code blocks and links."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from . import REPOSITORY

#: Documents in English; those with a twin in Chinese say the same.
DOCUMENTS = sorted(
    path
    for folder in (".", "docs", "docs/tutorials", "data/emoji", "data/digits", "tests")
    for path in (REPOSITORY / folder).glob("*.md")
    if ".zh-CN" not in path.name
)
SUFFIX = ".zh-CN.md"


@dataclass(frozen=True)
class Block:
    """A block of code: the language after its fence, its text, and where it is."""

    document: Path
    number: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """What a test calls it."""
        return f"{self.document.relative_to(REPOSITORY)}-{self.number}"

    @property
    def commands(self) -> list[list[str]]:
        """The command lines of a shell block, as words, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [line for line in words if line]


def read_blocks(document: Path) -> list[Block]:
    """The blocks of code of a document."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(document, number, *block) for number, block in enumerate(found)]


def twin(document: Path) -> Path | None:
    """The same document in Chinese; None where there is none."""
    path = document.with_name(document.stem + SUFFIX)
    return path if path.exists() else None


def read_links(document: Path) -> list[str]:
    """The targets of links and pictures, without those of other hosts."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    targets = re.findall(r"\]\(([^()\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [
        target for target in targets if "://" not in target and not target.startswith("mailto:")
    ]
