"""The code blocks of the documents run: commands made short, and programs as they are."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from tests.support import REPOSITORY
from tests.support.documents import DOCUMENTS, Block, read_blocks

from .conftest import SHORT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

#: Documents whose blocks other tests run, with what they add from outside the package.
ELSEWHERE = {"extending.md"}
#: How a command line begins that other tests run -> which ones.
OTHER_TESTS = {
    "git clone": "there is nothing to clone from in a test",
    "pip install": "tests/install",
    "uv run --extra test": "this is such a run",
    "cd clip-vit": "part of the clone",
    "uv run --extra dev": "the checks of a change",
    "uv run --extra docs": "a step of .ci/run builds the site",
    "python benchmarks/gpu": "tests/benchmarks, in a small form",
    "python benchmarks/measurement_tables": "tests/benchmarks",
    "python -m http.server": "it serves until it is interrupted",
    "clip-vit serve": "tests/page",
    "clip-vit convert logs/my_run": "tests/conversion/test_runs_of_open_clip.py",
    "curl": "tests/page",
    "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1": "for the next line",
    "torchrun --standalone --nproc-per-node 8 --max-restarts": "tests/faults, with two processes",
}
#: Commands of the shell, by what does the same.
SHELL = {"cp": shutil.copy, "mv": shutil.move, "rm": os.remove}
#: What stands for something of the reader's own in an example.
PLACEHOLDERS = {"MODEL": "outputs/emoji", "user/name": "on_the_hub"}
#: The recipe that train.py takes when none is named.
DEFAULT = REPOSITORY / "configuration" / "train" / "emoji.yaml"
#: Stories, whose blocks run one after the other.
TUTORIALS = [path for path in DOCUMENTS if path.parent == REPOSITORY / "docs" / "tutorials"]
BLOCKS = [
    block
    for path in DOCUMENTS
    if path.name not in ELSEWHERE and path not in TUTORIALS
    for block in read_blocks(path)
]


def named(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def run(words: list[str]):
    """Run a command line of a document in this process where that is possible."""
    words = [PLACEHOLDERS.get(word, word) for word in words]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
    while words[0] == "--extra":
        words = words[2:]
    options = SHORT if "train" in words[:2] or "train.py" in words else []
    if words[0] == "train.py":
        assert main_code(["train", *words[1:], *options], DEFAULT) == 0, words
        return
    if words[0] == "clip-vit":
        assert main_code([*words[1:], *options]) == 0, words
        return
    if words[0] in SHELL:
        SHELL[words[0]](*words[1:])
        return
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
    programs = {
        "python": [],
        "torchrun": ["-m", "torch.distributed.run"],
        "accelerate": ["-m", "accelerate.commands.accelerate_cli"],
    }
    command = [sys.executable, *programs[words[0]], *words[1:], *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def main_code(arguments: list[str], default_config: Path | None = None) -> int:
    """The exit code of a command, which `--help` leaves by an exception."""
    try:
        return main(arguments, default_config)
    except SystemExit as end:
        return int(end.code or 0)


def is_run_here(words: list[str]) -> bool:
    line = " ".join(words)
    return not any(line.startswith(beginning) for beginning in OTHER_TESTS)


@pytest.mark.parametrize("block", named("sh"), ids=lambda block: block.name)
def test_the_commands_of_a_document_run(block, trained):
    run_commands(block)


def run_commands(block: Block):
    for words in block.commands:
        for part in split_at(words, "&&"):
            if is_run_here(part):
                run(part)


def split_at(words: list[str], mark: str) -> list[list[str]]:
    """A command line as the commands that it chains."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == mark:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


@pytest.mark.parametrize("block", named("python"), ids=lambda block: block.name)
def test_the_programs_of_a_document_run(block, trained):
    run_program(block)


@pytest.mark.parametrize("document", TUTORIALS, ids=lambda document: document.stem)
def test_a_tutorial_runs_from_its_beginning_to_its_end(document, trained):
    shutil.rmtree("outputs/between", ignore_errors=True)  # which other documents write as well
    run_block = {"sh": run_commands, "python": run_program}
    for block in read_blocks(document):
        run_block.get(block.language, lambda block: None)(block)


def run_program(block: Block):
    image = Image.open("picture.png").convert("RGB")
    exec(compile(block.text, block.name, "exec"), {"image": image, "__name__": "__main__"})
