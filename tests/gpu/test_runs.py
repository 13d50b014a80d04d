"""Whole runs on a GPU: train, resume, evaluate and search."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.loading import load_clip
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.trainer import build_trainer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.usefixtures("fresh_state"),
]

ROOT = Path(__file__).parent.parent.parent
#: Seconds of a run, its start included; several share a card.
LIMIT = 120
COLORS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "brown")


@pytest.fixture
def fresh_state():
    """Accelerate keeps the precision of the first run in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of squares in eight colours, four shades each, with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    for split in ("train", "validation"):
        (folder / split).mkdir()
        lines = ["file_name,caption"]
        for number, color in enumerate(COLORS * (4 if split == "train" else 1)):
            picture = Image.new("RGB", (40, 40), "white")
            picture.paste(Image.new("RGB", (20, 20), color), (number % 13, number % 7))
            picture.save(folder / split / f"{number}.png")
            lines.append(f"{number}.png,a {color} square")
        (folder / split / "metadata.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def model_config(tmp_path_factory) -> Path:
    """A small CLIP with everything that is random in training, and a normalisation of batches."""
    folder = tmp_path_factory.mktemp("config")
    vision = {
        "model_type": "clip_vit_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "patch_embedding": "conv_stem",
        "pooling": "flatten",
        "drop_path_rate": 0.1,
        "hidden_dropout": 0.1,
    }
    text = {
        "model_type": "clip_vit_text_model",
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 16,
    }
    config = {
        "model_type": "clip_vit",
        "projection_dim": 16,
        "vision_config": vision,
        "text_config": text,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_recipe(folder: Path, pictures: Path, model_config: Path, **fields) -> Path:
    """A recipe for the squares."""
    recipe = {
        "dataset": str(pictures),
        "model_config": str(model_config),
        "rotation": 5,
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "output_dir": str(folder / "out"),
        "report_to": "none",
        "save_steps": 3,
        "save_total_limit": 5,
        "logging_steps": 1,
        **fields,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def train(recipe: Path, *arguments: str) -> Path:
    """Train in a process of its own; returns the output folder."""
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(recipe), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    return Path(json.loads(recipe.read_text())["output_dir"])


def losses(folder: Path) -> list[float]:
    """The loss of each update that was logged."""
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").open()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("optim", ["muon", "adamw", "adafactor"])
def test_a_resumed_run_ends_with_the_same_weights(optim, tmp_path, pictures, model_config):
    fields = {"optim": optim, "ema_decay": 0.9}
    whole = train(write_recipe(tmp_path / "whole", pictures, model_config, **fields))
    recipe = write_recipe(tmp_path / "halved", pictures, model_config, **fields)
    halved = train(recipe)
    (first,) = (halved / "checkpoints").glob("step-*3")
    resumed = train(recipe, "--resume_from_checkpoint", str(first))
    expected, given = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert expected.keys() == given.keys()
    for name, weight in expected.items():
        assert torch.equal(given[name], weight), name


VARIANTS: dict[str, dict] = {
    "float32": {"bf16": False},
    "float16": {"bf16": False, "fp16": True},
    "compiled": {"torch_compile": True},
    "recomputed": {"gradient_checkpointing": True},
    "packed": {"pack_texts": True},
    "workers": {"dataloader_num_workers": 2, "cache_images": False, "max_steps": 12},
    "mixed images": {"mixup_probability": 0.5, "cutmix_probability": 0.5},
    "gradient cache": {
        "gradient_cache_batch_size": 3,
        # Without the stem, whose batch norm takes statistics over what the cache cuts.
        "vision_fields": {"patch_embedding": "conv", "pooling": "mean"},
    },
    "two views": {"images_per_concept": 2, "view_loss_weight": 0.5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_trains_with(variant, tmp_path, pictures, model_config):
    fields = VARIANTS[variant]
    folder = train(write_recipe(tmp_path, pictures, model_config, **fields))
    values = losses(folder)
    assert len(values) == fields.get("max_steps", 6)
    assert all(0 < value < 10 for value in values)


@pytest.mark.parametrize(
    ("is_on_device", "fields"),
    [(False, {"bf16": False, "fp16": True}), (False, {"optim": "muon"}), (True, {})],
)
def test_the_guard_skips_an_update_that_is_no_number(
    is_on_device, fields, tmp_path, pictures, model_config
):
    recipe = write_recipe(tmp_path, pictures, model_config, **fields)
    training = build_trainer(parse_arguments(["--config", str(recipe)]))
    training.set_training_mode()
    batch = next(training.batches())
    before = {name: p.detach().clone() for name, p in training.unwrapped().named_parameters()}
    broken = {**batch, "pixel_values": batch["pixel_values"] * float("nan")}
    training.train_step(broken)
    assert (training.device_guard is not None) == is_on_device
    training.settle()
    assert training.guard.skipped == 1
    for name, weight in training.unwrapped().named_parameters():
        assert torch.equal(weight, before[name]), name


def test_batches_come_from_pinned_memory_to_the_device(tmp_path, pictures, model_config):
    recipe = write_recipe(tmp_path, pictures, model_config)
    training = build_trainer(parse_arguments(["--config", str(recipe)]))
    assert training.preparation.data.loader.pin_memory
    batch = next(training.batches())
    assert batch["pixel_values"].device.type == "cuda"
    assert training.accelerator.device.type == "cuda"


def test_muon_multiplies_in_what_the_gpu_multiplies_fast(tmp_path, pictures, model_config):
    recipe = write_recipe(tmp_path, pictures, model_config, optim="muon")
    training = build_trainer(parse_arguments(["--config", str(recipe)]))
    expected = torch.float32
    if torch.cuda.get_device_capability()[0] >= 8:
        expected = torch.bfloat16
    assert training.scheduler.optimizer.product_dtype == expected


def test_a_trained_model_is_evaluated_and_searched(tmp_path, pictures, model_config, capsys):
    fields = {"max_steps": 150, "save_steps": 0, "optim": "muon", "rotation": 0}
    folder = train(write_recipe(tmp_path, pictures, model_config, **fields))
    assert load_clip(str(folder))[0].device.type == "cuda"
    assert main(["search", str(folder), "a red square", "--images", str(pictures)]) == 0
    assert "a red square" in capsys.readouterr().out.splitlines()[1]
    arguments = ["--dataset", str(pictures), "--output_dir", str(tmp_path / "evaluation")]
    assert main(["evaluate", str(folder), *arguments]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert metrics["validation/caption/text_to_image/R@1"] >= 0.75


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_fsdp_trains_and_resumes(optim, tmp_path, pictures, model_config):
    recipe = write_recipe(tmp_path, pictures, model_config, optim=optim)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    config = ROOT / "configuration" / "accelerate" / "fsdp2.yaml"
    command = [*launch, "--config_file", str(config), "--main_process_port", "0"]
    command += [str(ROOT / "train.py"), "--config", str(recipe)]
    for more in ([], ["--resume_from_checkpoint", "latest", "--max_steps", "9"]):
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, cwd=ROOT, timeout=LIMIT
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(tmp_path / "out")) == 9
