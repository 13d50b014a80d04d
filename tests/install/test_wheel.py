"""An installed wheel is enough: recipes, architectures and data come with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.pictures import COLORS, draw_picture

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
        "from clip_vit import main; sys.exit(main(sys.argv[2:]))"
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


SHORT = ("--max_steps", "3", "--per_device_train_batch_size", "8", "--report_to", "none")
QUIET = ("--evaluations", "[]", "--save_steps", "0")
TRAIN = ("train", "--dataset", "pictures", *SHORT, *QUIET, "--output_dir")


@pytest.fixture(scope="module")
def model(site, place) -> str:
    """The folder of a model that the installed command trained."""
    assert "the model, its card" in run(site, place, *TRAIN, "model")
    return "model"


@pytest.fixture(scope="module")
def exported(site, place, model) -> str:
    run(site, place, "export", model, "exported", "--format", "onnx")
    return "exported"


def test_it_searches(site, place, model):
    printed = run(site, place, "search", model, "a red square", "--images", "pictures")
    assert "in 32 pictures of pictures" in printed


def test_it_searches_with_an_export_and_saves_a_picture(site, place, exported):
    run(site, place, "search", exported, "red", "--images", "pictures", "--save", "new/out.png")
    assert (place / "new" / "out.png").is_file()


@pytest.fixture(scope="module")
def indexing(site, place, model) -> str:
    """What is printed while pictures.index is made."""
    return run(site, place, "index", model, "pictures", "pictures.index")


@pytest.mark.parametrize("noise", ["[torch.onnx]", "WARN"])
def test_an_index_is_made_without_messages_of_other_packages(indexing, noise):
    assert noise not in indexing


@pytest.mark.usefixtures("indexing")
def test_it_indexes_and_searches_the_index(site, place):
    printed = run(site, place, "search", "pictures.index", "a red square", "--format", "paths")
    assert Path(printed.splitlines()[0]).is_file()


@pytest.mark.usefixtures("indexing")
def test_it_writes_the_page_of_an_index(site, place):
    run(site, place, "demo", "pictures.index", "--target", "page")
    assert (place / "page" / "index.html").is_file()


def test_it_trains_a_ready_made_architecture_that_can_be_converted(site, place):
    architecture = ("--model_config", "clip-vit-tiny-patch16", "--frozen_towers", "[text]")
    one_block = ("--vision_fields", '{"num_hidden_layers": 1}')
    run(site, place, *TRAIN, "tiny", *architecture, *one_block)
    run(site, place, "convert", "tiny", "back", "--to", "hf_clip")
    assert (place / "back" / "model.safetensors").is_file()


def test_recipes_are_found_by_name(site, place):
    few = ["--max_steps", "1", "--report_to", "none", "--save_steps", "0", "--evaluations", "[]"]
    out = ["--output_dir", "digits"]
    run(site, place, "train", "--config", "digits_classification", *few, *out)
    assert (place / "digits" / "model.safetensors").is_file()


def test_an_unknown_recipe_is_rejected_with_those_there_are(site, place):
    message = run(site, place, "train", "--config", "nothing", code=1)
    assert "no recipe 'nothing'" in message
    assert "emoji" in message


def test_the_wheel_has_no_tests(site):
    assert not (site / "tests").exists()
    assert not list(site.rglob("conftest.py"))


def test_the_wheel_has_the_page_and_what_it_runs(site):
    for folder in ("web", "vendor"):
        ours = REPOSITORY / "modeling_clip_vit" / "page" / folder
        files = {it.relative_to(ours) for it in ours.rglob("*") if it.is_file()}
        installed = site / "modeling_clip_vit" / "page" / folder
        missing = [
            it for it in files if "__pycache__" not in str(it) and not (installed / it).is_file()
        ]
        assert not missing


def test_without_data_it_says_what_to_give(site, place):
    message = run(site, place, "train", code=1)
    assert "there is nothing to train on: pass --dataset" in message
    assert "Traceback" not in message
