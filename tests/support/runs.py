"""Training on the squares of eight colours: recipes, runs in this process and in two."""

import json
from collections.abc import Sequence
from pathlib import Path

from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from modeling_clip_vit.cli import main

from .processes import TWO_PROCESSES, finish, kill, start, wait_for


def save_recipe(folder: Path, recipe: dict) -> Path:
    """Write a recipe's options into a folder."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def write_recipe(folder: Path, dataset: Path, model_config: Path, **fields) -> Path:
    """A recipe for the squares of eight colours."""
    recipe = {
        "dataset": str(dataset),
        "concept_column": "key",
        "images_per_concept": 2,
        "evaluations": [
            {
                "split": "validation",
                "tasks": ["retrieval", "zero_shot"],
                "label_columns": ["kind"],
            }
        ],
        "caption_columns": ["caption_en", "caption_zh"],
        "caption_sampling": "each",
        "tags_columns": {"caption_en": "tags_en"},
        "tag_probability": 0.2,
        "rotation": 5,
        "erase_probability": 0.1,
        "model_config": str(model_config),
        "view_loss_weight": 0.5,
        "max_steps": 150,
        "per_device_train_batch_size": 16,
        "optim": "muon",
        "output_dir": str(folder / "out"),
        "report_to": "tensorboard",
        "save_steps": 20,
        "eval_steps": 50,
        "logging_steps": 10,
        # What `auto` measures may differ from one process to the next on a busy machine.
        "bf16": False,
        **fields,
    }
    return save_recipe(folder, recipe)


def write_class_recipe(folder: Path, dataset: Path, model_config: Path, **fields) -> Path:
    """A recipe for a classifier of labelled images."""
    recipe = {
        "task": "classification",
        "dataset": str(dataset),
        "evaluations": [{"split": "test"}],
        "model_config": str(model_config),
        "max_steps": 60,
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-3,
        "label_smoothing": 0.1,
        "rotation": 5,
        "output_dir": str(folder / "out"),
        "save_steps": 0,
        "eval_steps": 0,
        "logging_steps": 10,
        "bf16": False,
        **fields,
    }
    return save_recipe(folder, recipe)


def write_recipes(folder: Path, names: Sequence[str], *places: Path, **fields) -> list[Path]:
    """Equal recipes for several runs, each with a folder of its name."""
    for name in names:
        (folder / name).mkdir()
    return [write_recipe(folder / name, *places, **fields) for name in names]


def output_of(recipe: Path) -> Path:
    """The folder that a recipe's run writes to."""
    return Path(json.loads(recipe.read_text())["output_dir"])


def train(recipe: Path, *arguments: str) -> dict:
    """Train here, over what was trained before; returns the training log's last line of losses."""
    # Accelerate's state, such as the precision, would stay from one run to the next.
    AcceleratorState._reset_state(reset_partial_state=True)
    command = ["train", "--config", str(recipe), "--report_to", "none"]
    assert main([*command, "--overwrite_output_dir", "true", *arguments]) == 0
    return read_log(output_of(recipe))[-1]


def read_log(folder: Path) -> list[dict]:
    """What a run logged of its updates, a dict per line."""
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").open()]
    return [line for line in lines if "loss" in line]


def train_in_two_processes(recipe: Path):
    """Train a recipe in two processes of this machine."""
    finish(start(recipe, launch=TWO_PROCESSES))


def kill_after(recipe: Path, checkpoint: str, *arguments: str, launch: Sequence[str] = ()):
    """Start a run, and kill it once it has a checkpoint of this name, which may have wildcards.

    A name that fits later checkpoints too still fits when a busy machine comes to look.
    """
    process = start(recipe, "--report_to", "none", *arguments, launch=launch)
    wait_for(output_of(recipe) / "checkpoints" / checkpoint, process)
    kill(process)
    weights = output_of(recipe) / "model.safetensors"
    assert not weights.exists(), "the run has ended before it could be killed"


def assert_same_weights(folder: Path, expected: Path, tolerance: float = 0):
    """Two trained models have the same weights, to the bit by default."""
    weights, others = (load_file(place / "model.safetensors") for place in (folder, expected))
    assert weights.keys() == others.keys()
    for name, value in others.items():
        assert (weights[name] - value).abs().max() <= tolerance, name
