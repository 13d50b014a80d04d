"""The runtime that docs/extending.md adds from outside the package, and what opening one loads."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.exported import EXPORT_FILE
from tests.support import REPOSITORY
from tests.support.pictures import COLORS, draw_picture

HEADINGS = {"extending.md": "How to add a runtime", "extending.zh-CN.md": "如何添加运行时"}


def run(arguments: list[str], folder) -> str:
    """What a Python process prints, with this package on its path."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("document", HEADINGS)
def test_a_runtime_added_from_outside_exports_and_searches(document, tmp_path, checkpoint, capsys):
    shutil.copytree(checkpoint, tmp_path / "my_checkpoint")
    (tmp_path / "my_images").mkdir()
    for number, color in enumerate(COLORS):
        draw_picture(color, number).save(tmp_path / "my_images" / f"{color}.png")
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    section = text.split(f"## {HEADINGS[document]}\n")[1]
    (tmp_path / "addition.py").write_text(section.split("```python\n")[1].split("```")[0])
    printed = run(["addition.py"], tmp_path)
    export = json.loads((tmp_path / "my_export" / EXPORT_FILE).read_text())
    assert export["format"] == "torchscript"
    capsys.readouterr()
    command = ["search", str(checkpoint), "a red square", "--images", str(tmp_path / "my_images")]
    assert main(command) == 0
    ranking = capsys.readouterr().out.splitlines()[1:]
    assert ranking == printed.splitlines()[-len(ranking) :]


def test_opening_a_runtime_loads_neither_exporters_nor_another_runtime(tmp_path, checkpoint):
    folder = tmp_path / "export"
    command = ["export", str(checkpoint), str(folder), "--format", "onnx", "--part", "text"]
    assert main(command) == 0
    code = """
        import sys
        from modeling_clip_vit.inference.loading import load_encoder
        load_encoder(sys.argv[1]).encode_text(["a red square"])
        print([name for name in sys.argv[2:] if name in sys.modules])
    """
    unwanted = ["transformers.exporters", "modeling_clip_vit.export", "openvino", "onnx", "nncf"]
    assert run(["-c", textwrap.dedent(code), str(folder), *unwanted], tmp_path) == "[]\n"
