"""The exit codes of the command line, and that its help lists them."""

import re
import subprocess
import sys

import pytest

from clip_vit import main
from tests.support import REPOSITORY

#: A command line of each exit code that needs no signal.
COMMAND_LINES = {
    "help": (["--help"], 0),
    "help of a command": (["search", "--help"], 0),
    "a checkpoint that does not exist": (["search", "/nowhere", "cat", "--images", "."], 1),
    "no command": ([], 2),
    "an unknown command": (["serach"], 2),
    "an unknown option": (["search", "checkpoint", "cat", "--image", "."], 2),
    "a value of another type": (["search", "a", "cat", "--images", ".", "--top_k", "many"], 2),
}


def exit_code(arguments: list[str]) -> int | str | None:
    """The exit code of a command line; parsers leave by an exception."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_a_command_line_ends_with_its_exit_code(name):
    arguments, code = COMMAND_LINES[name]
    assert exit_code(arguments) == code


def run(program: str) -> subprocess.CompletedProcess:
    """Run code in another process."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )


def test_a_bug_ends_with_1_and_a_traceback():
    program = "from clip_vit import COMMANDS, main\n"
    program += "COMMANDS['fail'] = ('utils.errors', 'a_function_that_is_not_there', '')\n"
    program += "raise SystemExit(main(['fail']))"
    done = run(program)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_command_whose_output_nobody_reads_ends_quietly():
    program = "import sys, clip_vit; clip_vit.prepare_package()\n"
    program += "import modeling_clip_vit.utils.errors as module\n"
    program += "module.count = lambda _: [print(number) for number in range(100_000)] and 0\n"
    program += "clip_vit.COMMANDS['count'] = ('utils.errors', 'count', '')\n"
    program += "sys.exit(clip_vit.main(['count']))"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_the_list_of_commands_loads_no_torch():
    done = run("import sys, clip_vit; clip_vit.main(['--help']); print('torch' in sys.modules)")
    assert done.stdout.splitlines()[-1] == "False"


def test_help_lists_every_exit_code(capsys):
    main(["--help"])
    lines = capsys.readouterr().out.split("exit codes:\n")[1].splitlines()
    listed = {int(number) for line in lines for number in re.findall(r"\b\d+\b", line[:16])}
    codes = {code for _, code in COMMAND_LINES.values()}
    assert listed == codes | {128 + number for number in (1, 2, 13, 15)}
