"""What the tests share: small configurations, and a small dataset of real files."""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PillowImage
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from modeling_clip_vit.cli import main
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.training.models import build_processor

REPOSITORY = Path(__file__).parent.parent

#: Markers that Transformers' own tests carry.
FOREIGN_MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "torch_compile_test",
)


#: Folders whose tests are a tier of their own, which a plain `pytest` leaves out.
TIERS = ("contract", "distributed", "export", "faults", "install", "quantization", "releases")


def pytest_configure(config):
    for marker in FOREIGN_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of Transformers")
    for tier in TIERS:
        config.addinivalue_line("markers", f"{tier}: the tests of tests/{tier}")
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Workers share the processor, and so do the processes that their tests start.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Mark the tests of each tier; leave them out where nothing was asked for by name."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in TIERS:
            item.add_marker(folder)
    is_plain = config.args_source.name == "TESTPATHS" and not config.option.markexpr
    if not is_plain or config.option.keyword:
        return
    tiers = {*TIERS, "slow"}
    left_out = [item for item in items if tiers & {mark.name for mark in item.iter_markers()}]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def small_config(vision: dict | None = None, text: dict | None = None, **top) -> ClipVitConfig:
    """A CLIP of a few thousand parameters."""
    return ClipVitConfig(
        vision_config={**VISION, **(vision or {})},
        text_config={**TEXT, **(text or {})},
        **{"projection_dim": 16, **top},
    )


def small_model(vision: dict | None = None, text: dict | None = None, **top) -> ClipVitModel:
    """A CLIP of a few thousand parameters with the same random weights every time.

    Larger weights than those that training starts from: attention that is all but even would hide
    a wrong mask or position.
    """
    torch.manual_seed(0)
    model = ClipVitModel(small_config(vision, text, **top)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("proj.weight"):
                weight.mul_(8)
    return model


def make_texts(lengths: list[int], length: int | None = None) -> dict[str, torch.Tensor]:
    """Token ids of texts of the given lengths, each ending in its end token, padded right."""
    generator = torch.Generator().manual_seed(1)
    length = length or max(lengths)
    ids = torch.zeros(len(lengths), length, dtype=torch.long)
    for row, count in enumerate(lengths):
        ids[row, :count] = torch.randint(3, 300, (count,), generator=generator)
        ids[row, 0], ids[row, count - 1] = 1, 2
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def make_images(count: int, size: int = 32) -> torch.Tensor:
    """Random normalised pixels."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def run_without_package(
    code: str, folder, *arguments: str, without: tuple[str, ...] = ("modeling_clip_vit",)
) -> str:
    """Run code in another process, in `folder`, where some packages cannot be imported."""
    block = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {without}:
                    raise ModuleNotFoundError("No module named " + name, name=name)
        sys.meta_path.insert(0, Block())
        try:
            import {without[0]}
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("the package can still be imported")
    """
    program = textwrap.dedent(block) + textwrap.dedent(code)
    command = [sys.executable, "-I", "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_example(
    folder,
    *arguments: str,
    without: tuple[str, ...] = ("torch", "transformers", "modeling_clip_vit"),
) -> str:
    """What an export's example.py prints where some packages cannot be imported."""
    code = """
        import runpy
        sys.argv[0] = "example.py"
        runpy.run_path("example.py", run_name="__main__")
    """
    return run_without_package(code, folder, *arguments, without=without)


#: How a checkpoint can misfit -> what the refusal says of the weight `WEIGHT`.
WEIGHT = "text_model.encoder.layers.0.feed_forward.fc1.weight"
MISFITS = {
    "lacks": f"it lacks {WEIGHT}",
    "extra": "it has, beside the model's, other.weight",
    "shape": f"it has in another shape {WEIGHT} (3, 24) instead of (48, 24)",
}


def spoil(folder: Path, misfit: str):
    """Take a weight out of a saved joint model, cut it, or put another beside it."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    if misfit == "extra":
        weights["other.weight"] = torch.zeros(3)
    else:
        weight = weights.pop(WEIGHT)
        if misfit == "shape":
            weights[WEIGHT] = weight[:3].clone()
    save_file(weights, path, metadata={"format": "pt"})


COLORS = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "purple": "紫色",
    "orange": "橙色",
    "black": "黑色",
    "brown": "棕色",
}


def draw_picture(color: str, seed: int) -> PillowImage.Image:
    """A square of a colour somewhere on white."""
    rng = np.random.default_rng(seed)
    picture = PillowImage.new("RGB", (32, 32), "white")
    left, top = rng.integers(2, 10, 2)
    picture.paste(PillowImage.new("RGB", (18, 18), color), (int(left), int(top)))
    return picture


@pytest.fixture(scope="session")
def color_dataset(tmp_path_factory) -> Path:
    """A dataset on disk, as parquet: squares of eight colours, two artists and a third unseen."""
    folder = tmp_path_factory.mktemp("colors")
    features = Features(
        {
            "image": Image(),
            "caption_en": Value("string"),
            "caption_zh": Value("string"),
            "tags_en": List(Value("string")),
            "key": Value("string"),
            "kind": ClassLabel(names=["warm", "cold"]),
        }
    )
    for split, seeds in {"train": (0, 1), "validation": (2,)}.items():
        rows = [
            {
                "image": draw_picture(color, 100 * seed + number),
                "caption_en": f"a {color} square",
                "caption_zh": f"{chinese}方块",
                "tags_en": ["square", color],
                "key": color,
                "kind": "cold" if color in ("green", "blue", "black") else "warm",
            }
            for seed in seeds
            for number, (color, chinese) in enumerate(COLORS.items())
        ]
        Dataset.from_list(rows, features=features).to_parquet(
            folder / f"{split}-00000-of-00001.parquet"
        )
    return folder


@pytest.fixture(scope="session")
def model_config_folder(tmp_path_factory) -> Path:
    """A configuration folder of a small CLIP with every kind of randomness in training."""
    folder = tmp_path_factory.mktemp("config")
    config = {
        "model_type": "clip_vit",
        "projection_dim": 16,
        "vision_config": {
            **VISION,
            "model_type": "clip_vit_vision_model",
            "patch_embedding": "conv_stem",
            "pooling": "flatten",
            "drop_path_rate": 0.1,
            "hidden_dropout": 0.1,
        },
        "text_config": {
            **TEXT,
            "model_type": "clip_vit_text_model",
            "is_causal": False,
            "pooling": "mean",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A saved small CLIP with a tokenizer and an image processor, untrained."""
    folder = tmp_path_factory.mktemp("checkpoint")
    texts = [f"a {name} square {chinese}方块" for name, chinese in COLORS.items()]
    tokenizer = train_tokenizer(texts, vocab_size=300, max_length=16)
    model = small_model(text={"pooling": "mean", "is_causal": False})
    model.save_pretrained(folder)
    build_processor(tokenizer, image_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def processor(checkpoint):
    """The tokenizer and image processor of that CLIP."""
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture
def fresh_accelerate():
    """Accelerate's state, such as the precision, stays behind, and the next run would meet it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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


def start(recipe: Path, *arguments: str, **options) -> subprocess.Popen:
    """Start train.py on a recipe."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "--config", str(recipe), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120):
    """Wait until a file or folder exists."""
    deadline = time.monotonic() + seconds
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"no {path} in {seconds} s"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def linear_config(tmp_path_factory, model_config_folder) -> Path:
    """The small model without batch norm, and with a pooling that any image size can have."""
    folder = tmp_path_factory.mktemp("linear")
    config = json.loads((model_config_folder / "config.json").read_text())
    config["vision_config"] |= {"patch_embedding": "linear", "pooling": "mean"}
    config["logit_bias_init_value"] = -3.0
    (folder / "config.json").write_text(json.dumps(config))
    return folder


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
