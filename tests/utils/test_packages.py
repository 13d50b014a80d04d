"""What needs an optional package says so in one wording, where the package cannot be imported."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from modeling_clip_vit.utils.errors import UserError
from modeling_clip_vit.utils.packages import require
from tests.support import REPOSITORY

#: Makes a package unimportable, whether it is installed or not.
BLOCK = """
import sys
for name in {packages}:
    sys.modules[name] = None
    try:
        __import__(name)
    except ImportError:
        pass
sys.path.insert(0, {repository!r})
from pathlib import Path
from modeling_clip_vit.cli import main
"""


class Case(NamedTuple):
    """What needs a package.

    Args:
        packages: what is made unimportable.
        install: what to install instead, as the message says it.
        purpose: how the message begins.
        code: what needs it; `{checkpoint}` is a folder.
    """

    packages: list[str]
    install: str
    purpose: str
    code: str


def command(*words: str) -> str:
    """Code that runs a command."""
    return f"raise SystemExit(main({list(words)!r}))"


EXPORT = ("export", "{checkpoint}", "out", "--format")
INT8 = ("--precision", "int8", "--calibration", "data/emoji")
CASES = {
    "exporting to ONNX": Case(
        ["onnxscript"], "'clip-vit[onnx]'", "--format onnx", command(*EXPORT, "onnx")
    ),
    "exporting to OpenVINO": Case(
        ["openvino"], "'clip-vit[openvino]'", "--format openvino", command(*EXPORT, "openvino")
    ),
    "exporting to ExecuTorch": Case(
        ["executorch"],
        "'clip-vit[executorch]'",
        "--format executorch",
        command(*EXPORT, "executorch", "--part", "image"),
    ),
    "int8 in OpenVINO": Case(
        ["nncf"],
        "'clip-vit[openvino]'",
        "--format openvino --precision int8",
        command(*EXPORT, "openvino", *INT8),
    ),
    "int8 in torch.export": Case(
        ["torchao"],
        "'clip-vit[quantize]'",
        "--format torch_export --precision int8",
        command(*EXPORT, "torch_export", *INT8),
    ),
    "running ONNX": Case(
        ["onnxruntime"],
        "'clip-vit[onnx]'",
        "running 'image.onnx'",
        """
        from modeling_clip_vit.runtimes import open_session
        open_session(Path("image.onnx"), "onnxruntime", "fp32")
        """,
    ),
    "quantising": Case(
        ["torchao"],
        "'clip-vit[quantize]'",
        "quantisation",
        command("quantize", "{checkpoint}", "out"),
    ),
    "a quantised checkpoint": Case(
        ["torchao"],
        "'clip-vit[quantize]'",
        "the quantised checkpoint '{checkpoint}'",
        """
        import json
        path = Path("{checkpoint}", "config.json")
        config = json.loads(path.read_text())
        config["quantization_config"] = {{"quant_method": "torchao", "quant_type": "int8"}}
        path.write_text(json.dumps(config))
        raise SystemExit(main(["search", "{checkpoint}", "a cat", "--images", "data/emoji"]))
        """,
    ),
    "static ranges in training": Case(
        ["nncf"],
        "'clip-vit[openvino]'",
        "int8 with fixed ranges",
        "from modeling_clip_vit.quantization import static; static.nncf_quantize(None, [])",
    ),
    "converting from open_clip": Case(
        ["open_clip"],
        "'clip-vit[convert]'",
        "a conversion from or to open_clip",
        command("convert", "{checkpoint}", "out", "--to", "open_clip"),
    ),
    "templates of open_clip": Case(
        ["open_clip"],
        "'clip-vit[convert]'",
        "the set of templates 'open_clip_simple'",
        """
        from modeling_clip_vit.data.templates import load_templates
        load_templates("open_clip_simple")
        """,
    ),
    "a tracker": Case(
        ["wandb"],
        "wandb",
        "report_to='wandb'",
        command("train", "--config", "digits", "--report_to", "wandb"),
    ),
    "DeepSpeed": Case(
        ["deepspeed"],
        "'clip-vit[deepspeed]'",
        "training with DeepSpeed",
        """
        import os
        os.environ |= {{"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}}
        raise SystemExit(main(["train", "--config", "digits", "--report_to", "none"]))
        """,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_missing_package_is_named_with_what_to_install(name, tmp_path, checkpoint):
    case = CASES[name]
    copied = tmp_path / "checkpoint"
    copied.symlink_to(checkpoint) if "config.json" not in case.code else copy(checkpoint, copied)
    program = BLOCK.format(packages=case.packages, repository=str(REPOSITORY))
    program += textwrap.dedent(case.code).format(checkpoint=copied)
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    purpose = case.purpose.format(checkpoint=copied)
    message = (
        f"{purpose} needs {case.packages[0]}, which is not installed: pip install {case.install}"
    )
    assert done.stderr.strip().splitlines()[-1].endswith(message), done.stderr[-2000:]


def copy(source: Path, target: Path):
    """Copy the files of a folder, to change one of them."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())


def test_several_missing_packages_are_named_together():
    with pytest.raises(UserError, match=r"^it needs no_one and no_two, which are not installed: "):
        require(("no_one", "json", "no_two"), "", "it")


def test_only_one_module_says_that_a_package_is_missing():
    """Any other would have a wording of its own."""
    folder = REPOSITORY / "modeling_clip_vit"
    files = [path for path in folder.rglob("*.py") if "pip install" in path.read_text()]
    assert [path.relative_to(folder).as_posix() for path in files] == ["utils/packages.py"]
