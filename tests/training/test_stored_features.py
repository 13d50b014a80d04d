"""Frozen towers and teachers that embed the data once, before the first step."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from modeling_clip_vit.data.features import read_features
from modeling_clip_vit.training import stored_features
from modeling_clip_vit.training.arguments import (
    MixOptions,
    QuantizationOptions,
    StreamOptions,
    TrainArguments,
)
from modeling_clip_vit.training.options import DataOptions, LossOptions, ModelOptions
from modeling_clip_vit.utils.errors import UserError
from tests.support.runs import (
    output_of,
    read_log,
    train,
    train_in_two_processes,
    write_recipe,
)

#: Options with which nothing about a sample is random.
PLAIN = {
    "rotation": 0,
    "erase_probability": 0,
    "tag_probability": 0,
    "caption_columns": ["caption_en"],
    "bf16": False,
    "optim": "adamw",
    "max_steps": 6,
    "logging_steps": 1,
    "eval_steps": 0,
    "save_steps": 0,
    "view_loss_weight": 0,
    "evaluations": [],
}
VARIED = {**PLAIN, "rotation": 20, "tag_probability": 0.5}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of features of each test's own."""
    monkeypatch.setattr(stored_features, "FOLDER", tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def run(tmp_path, color_dataset, checkpoint):
    """Train from a checkpoint; returns the folder of the result."""

    def start(name: str, options: dict, **fields):
        (tmp_path / name).mkdir()
        fields = {**options, "model_name_or_path": str(checkpoint), **fields}
        recipe = write_recipe(tmp_path / name, color_dataset, checkpoint, **fields)
        train(recipe)
        return output_of(recipe)

    return start


def assert_same_losses(folder, expected):
    """Two runs have the same loss and gradient at each update.

    Weights would differ where a gradient is nothing but rounding, which AdamW scales up.
    """
    logs = [
        [(line["loss"], line["gradient_norm"]) for line in read_log(place)]
        for place in (folder, expected)
    ]
    assert_close(torch.tensor(logs[0]), torch.tensor(logs[1]), rtol=1e-3, atol=1e-6)
    assert max(loss for loss, _ in logs[0]) > 1.001 * min(loss for loss, _ in logs[0])


@pytest.mark.parametrize("frozen", [["vision"], ["text"], ["vision", "text"]])
def test_stored_features_train_the_same_model(run, cache, frozen):
    run("steps", PLAIN, frozen_towers=frozen, stored_views=0)
    assert not cache.exists()
    run("stored", PLAIN, frozen_towers=frozen)
    assert len(list(cache.iterdir())) == 1
    assert_same_losses(cache.parent / "stored/out", cache.parent / "steps/out")


def test_frozen_towers_are_not_run_in_any_step(run, monkeypatch):
    rows = []
    embed = stored_features.embed

    def count(one, samples, accelerator):
        rows.extend([one.name] * len(samples))
        return embed(one, samples, accelerator)

    monkeypatch.setattr(stored_features, "embed", count)
    calls = []
    run_tower = stored_features.run_tower
    monkeypatch.setattr(
        "modeling_clip_vit.modeling_clip_vit.run_tower",
        lambda *args, **kwargs: calls.append(1) or run_tower(*args, **kwargs),
    )
    run("once", PLAIN, frozen_towers=["vision", "text"])
    assert sorted(set(rows)) == ["text_pooler_output", "vision_pooler_output"]
    assert len(rows) == 2 * 16
    assert calls == []


def test_another_run_over_the_same_data_reads_the_file(run, cache):
    run("first", PLAIN, frozen_towers=["vision"])
    (path,) = cache.iterdir()
    written = path.stat().st_mtime_ns
    run("second", PLAIN, frozen_towers=["vision"], seed=1)
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]


@pytest.mark.parametrize("change", ["weights", "pixels"])
def test_other_weights_or_pixels_make_other_features(run, cache, checkpoint, tmp_path, change):
    run("first", PLAIN, frozen_towers=["vision"])
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    if change == "weights":
        weights = load_file(other / "model.safetensors")
        name = next(name for name in weights if name.startswith("vision_model"))
        save_file(
            {**weights, name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"}
        )
    else:
        path = next(path for path in other.glob("*processor*.json") if "0.4" in path.read_text())
        path.write_text(path.read_text().replace("0.4", "0.3"))
    run("second", PLAIN, frozen_towers=["vision"], model_name_or_path=str(other))
    assert len(list(cache.iterdir())) == 2


def test_what_varies_is_only_stored_on_request(run, cache):
    run("auto", VARIED, frozen_towers=["vision"])
    assert not cache.exists()
    run("views", VARIED, frozen_towers=["vision"], stored_views=3)
    (path,) = cache.iterdir()
    views = read_features(path).images["vision_pooler_output"]
    assert len(views) == 3
    assert (views[0] - views[1]).abs().max() > 1e-3


def test_stored_views_are_those_of_the_first_epochs(run, cache):
    """As long as an epoch has a view of its own, training sees the same as without storing."""
    options = {**VARIED, "frozen_towers": ["vision", "text"], "images_per_concept": 1}
    run("steps", options, stored_views=0)
    run("stored", options, stored_views=6)
    assert_same_losses(cache.parent / "stored/out", cache.parent / "steps/out")


def test_texts_still_vary_next_to_stored_images(run, cache):
    options = {**PLAIN, "tag_probability": 1.0, "images_per_concept": 1}
    run("steps", options, frozen_towers=["vision"], stored_views=0)
    run("stored", options, frozen_towers=["vision"])
    assert cache.exists()
    assert_same_losses(cache.parent / "stored/out", cache.parent / "steps/out")


def test_a_damaged_file_is_made_anew(run, cache, caplog):
    run("first", PLAIN, frozen_towers=["vision"])
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    run("second", PLAIN, frozen_towers=["vision"])
    assert "is made anew" in caplog.text
    assert read_features(path).images


def test_a_stored_teacher_teaches_the_same(run, cache, checkpoint):
    options = {**PLAIN, "teacher_name_or_path": str(checkpoint), "learning_rate": 1e-2}
    run("steps", options, stored_views=0)
    run("stored", options)
    assert_same_losses(cache.parent / "stored/out", cache.parent / "steps/out")


def test_a_stored_teacher_may_take_images_of_another_size(run, cache, checkpoint, tmp_path):
    from transformers import AutoModel, AutoProcessor

    teacher = tmp_path / "teacher"
    model = AutoModel.from_pretrained(checkpoint)
    processor = AutoProcessor.from_pretrained(checkpoint)
    size = 2 * model.config.vision_config.image_size
    config = model.config
    config.vision_config.image_size = size
    type(model)(config).save_pretrained(teacher)
    processor.image_processor.size = {"shortest_edge": size}
    processor.image_processor.crop_size = {"height": size, "width": size}
    processor.save_pretrained(teacher)
    run("stored", PLAIN, teacher_name_or_path=str(teacher), stored_views=1)
    (path,) = cache.iterdir()
    images = read_features(path).images["teacher_image_embeds"]
    assert_close(images[0].norm(dim=-1), torch.ones(16))


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, cache, color_dataset, checkpoint, monkeypatch):
    fields = {**PLAIN, "model_name_or_path": str(checkpoint), "frozen_towers": ["vision"]}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    recipes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        recipes.append(write_recipe(tmp_path / name, color_dataset, checkpoint, **fields))
    train(recipes[0])
    train_in_two_processes(recipes[1])
    (one,) = cache.iterdir()
    (two,) = (tmp_path / "home/clip-vit/features").iterdir()
    assert_close(read_features(two).images, read_features(one).images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ModelOptions(stored_views=-1)}, "must be null or at least 0"),
        ({"model": ModelOptions(stored_views=1)}, "not allowed without frozen_towers"),
        ({"mix": MixOptions(mixup_probability=0.5)}, "not allowed with mixup_probability"),
        (
            {"stream": StreamOptions(stream_sources=["x"], samples_per_epoch=10)},
            "not allowed with stream_sources",
        ),
        (
            {"quantization": QuantizationOptions(quantization_mode="dynamic")},
            "not allowed with quantization_mode='dynamic'",
        ),
    ],
)
def test_what_cannot_be_stored_is_rejected(options, message):
    model = ModelOptions(frozen_towers=["vision"], stored_views=2)
    sections = {"data": DataOptions(dataset="x"), "loss": LossOptions(), "model": model, **options}
    with pytest.raises(UserError, match=message):
        TrainArguments(**sections)
