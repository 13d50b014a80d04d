"""An installed wheel is enough: recipes, architectures and data come with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import COLORS, REPOSITORY, draw_picture

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where the wheel is installed; the rest of its environment is this one's."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--no-deps", "--no-build-isolation"]
    wheels = folder / "wheels"
    subprocess.run([*pip, "wheel", *quiet, "-w", str(wheels), str(REPOSITORY)], check=True)
    [wheel] = wheels.glob("*.whl")
    command = [*pip, "install", "--quiet", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([*command, str(wheel)], check=True)
    return folder / "site"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with pictures and captions, and nothing else."""
    folder = tmp_path_factory.mktemp("place")
    lines = ["file_name,caption"]
    for seed in range(4):
        for color in COLORS:
            (folder / "pictures").mkdir(exist_ok=True)
            draw_picture(color, seed).save(folder / "pictures" / f"{color}{seed}.png")
            lines.append(f"{color}{seed}.png,a {color} square")
    (folder / "pictures" / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(site: Path, place: Path, *arguments: str, code: int = 0) -> str:
    """What the installed command prints, on both outputs."""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    program = (
        "import sys, modeling_clip_vit; assert modeling_clip_vit.__file__.startswith(sys.argv[1]);"
        "from modeling_clip_vit.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(site), *arguments],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_it_trains_searches_converts_and_exports_anywhere(site, place):
    small = ["--max_steps", "3", "--per_device_train_batch_size", "8", "--report_to", "none"]
    quiet = ["--eval_split", "null", "--save_steps", "0"]
    train = ["train", "--dataset", "pictures", "--output_dir", "model", *small, *quiet]
    assert "the model, its card" in run(site, place, *train)
    found = run(site, place, "search", "model", "a red square", "--images", "pictures")
    assert "in 32 pictures of pictures" in found
    run(site, place, "export", "model", "exported", "--format", "onnx")
    run(site, place, "search", "exported", "red", "--images", "pictures", "--save", "new/out.png")
    assert (place / "new" / "out.png").is_file()
    architecture = ["--model_config", "clip-vit-tiny-patch16", "--frozen_towers", "[text]"]
    tiny = ["--vision_fields", '{"num_hidden_layers": 1}', "--output_dir", "tiny"]
    run(site, place, *train[:3], *small, *quiet, *architecture, *tiny)
    run(site, place, "convert", "tiny", "back", "--to", "hf_clip")


def test_recipes_are_found_by_name(site, place):
    few = ["--max_steps", "1", "--report_to", "none", "--save_steps", "0", "--eval_split", "null"]
    out = ["--output_dir", "digits"]
    run(site, place, "train", "--config", "digits_classification", *few, *out)
    assert (place / "digits" / "model.safetensors").is_file()
    message = run(site, place, "train", "--config", "nothing", code=1)
    assert "no recipe 'nothing'" in message
    assert "emoji" in message


def test_without_data_it_says_what_to_give(site, place):
    message = run(site, place, "train", code=1)
    assert "there is nothing to train on: pass --dataset" in message
    assert "Traceback" not in message
