"""Training on the squares of eight colours: recipes, runs in this process and in two."""

import json
import subprocess
import sys
from pathlib import Path

from modeling_clip_vit.cli import main

from . import REPOSITORY


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
        **fields,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


def train(recipe: Path, *arguments: str) -> dict:
    """Train here; returns the training log's last line of losses."""
    command = ["train", "--config", str(recipe), "--report_to", "none", *arguments]
    assert main(command) == 0
    return read_log(Path(json.loads(recipe.read_text())["output_dir"]))[-1]


def read_log(folder: Path) -> list[dict]:
    """What a run logged of its updates, a dict per line."""
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").open()]
    return [line for line in lines if "loss" in line]


def train_in_two_processes(recipe: Path):
    """Train a recipe in two processes of this machine that find each other by gloo."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    processes = ["--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, *processes, str(REPOSITORY / "train.py"), "--config", str(recipe)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
