"""What `clip-vit COMMAND --help` prints."""

import re

import pytest

from clip_vit import COMMANDS, main
from modeling_clip_vit.utils.command_line import normalize

#: An option whose type follows its name at once; words of help are set off by more spaces.
UNEXPLAINED = re.compile(r"^  (--\S+(?: \S+)*)\s+\(type:", re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert UNEXPLAINED.findall(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (["--force"], ["--force", "true"]),
        (["--force", "folder"], ["--force", "true", "folder"]),
        (["--force=false"], ["--force", "false"]),
        (["--private"], ["--private", "true"]),
        (["--private", "None"], ["--private", "null"]),
        (["--auto", "true"], ["--auto", "true"]),
    ],
)
def test_what_is_true_or_false_needs_no_value(written, meant):
    types = {"force": bool, "private": bool | None, "auto": bool | str}
    assert normalize(written, types) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("a,b", '["a", "b"]'),
        ("{a,b}.tar", '["{a,b}.tar"]'),
        ("{a,{b,c}}.tar, d", '["{a,{b,c}}.tar", "d"]'),
        ("a},b", '["a}", "b"]'),
    ],
)
def test_a_comma_between_braces_separates_no_elements_of_a_list(written, meant):
    assert normalize(["--sources", written], {"sources": list[str]}) == ["--sources", meant]
