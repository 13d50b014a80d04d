"""Whole runs in real processes: train, load, search, kill, resume, and bad input."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor, CLIPProcessor

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.embedding import embed_images, embed_texts
from tests.support.checkpoints import MISFITS, spoil
from tests.support.pictures import draw_picture
from tests.support.processes import start, wait_for, wait_until
from tests.support.runs import train_in_two_processes, write_recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory, color_dataset, model_config_folder) -> Path:
    """The output folder of a run in a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    process = start(write_recipe(folder, color_dataset, model_config_folder))
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    assert "text_to_image/R@1" in output
    assert "150/150" in errors  # the progress bar
    assert "loss" in errors
    return folder / "out"


def test_a_run_leaves_all_its_files(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "modeling_clip_vit.py",
        "processor_config.json",
        "modules.json",
        "retrieval.png",
        "sentence_bert_config.json",
        "tokenizer.json",
        "training_curves.png",
        "training_log.jsonl",
    }
    assert list((finished / "runs").rglob("events.out.tfevents*"))
    assert Image.open(finished / "retrieval.png").size[0] > 400
    assert not list(finished.glob(".*"))
    lines = [json.loads(line) for line in (finished / "training_log.jsonl").open()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(10, 151, 10))
    assert {line["step"] for line in lines if "loss" not in line} == {50, 100, 150}


def test_the_model_learned_what_the_pictures_show(finished):
    report = json.loads((finished / "metrics.json").read_text())
    # Eight colours: guessing finds one in eight.
    assert report["metrics"]["validation/caption_en/text_to_image/R@1"] >= 0.75
    assert report["metrics"]["validation/caption_zh/text_to_image/R@1"] >= 0.75
    assert report["steps"] == 150
    assert report["recipe"]["max_steps"] == 150
    assert "validation/zero_shot/kind/accuracy" in report["metrics"]


def test_the_card_says_what_was_done_and_measured(finished):
    card = (finished / "README.md").read_text()
    metrics = json.loads((finished / "metrics.json").read_text())["metrics"]
    assert f"{100 * metrics['validation/caption_en/text_to_image/R@1']:.1f}" in card
    assert "16 images of 8 concepts" in card
    assert "AutoModel.from_pretrained" in card
    assert "trust_remote_code=True" in card
    assert "pipeline_tag: zero-shot-image-classification" in card
    assert "max_steps: 150" in card


def test_the_five_lines_of_the_card_run(finished, tmp_path):
    card = (finished / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    draw_picture("red", 7).save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tensor" in done.stdout


def test_the_loaded_model_embeds_as_the_evaluation_did(finished, color_dataset):
    model, processor = AutoModel.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    assert type(processor) is CLIPProcessor
    split = load_dataset(str(color_dataset), split="validation")
    image_embeds = embed_images(model.eval(), processor, [row["image"] for row in split])
    text_embeds = embed_texts(model, processor.tokenizer, split["caption_en"])
    found = (text_embeds @ image_embeds.t()).argmax(dim=1)
    metrics = json.loads((finished / "metrics.json").read_text())["metrics"]
    recall = (found == torch.arange(8)).float().mean().item()
    assert recall == pytest.approx(metrics["validation/caption_en/text_to_image/R@1"])


def test_sentence_transformers_embed_as_the_model_that_a_run_left(finished):
    model, processor = AutoModel.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    encoder = SentenceTransformer(str(finished), device="cpu")
    texts = ["a red square", "绿色方块"]
    pictures = [draw_picture("red", 1), draw_picture("blue", 2)]
    for expected, inputs in (
        (embed_texts(model.eval(), processor.tokenizer, texts), texts),
        (embed_images(model, processor, pictures), pictures),
    ):
        given = encoder.encode(inputs, convert_to_tensor=True)
        torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


def test_search_finds_a_picture_in_a_folder_and_in_a_data_set(
    finished, color_dataset, tmp_path, capsys
):
    pictures = tmp_path / "pictures" / "deep"
    pictures.mkdir(parents=True)
    for number, color in enumerate(("red", "green", "blue", "black")):
        draw_picture(color, 50 + number).save(pictures / f"{color}.png")
    (pictures / "broken.jpg").write_bytes(b"no picture")
    save = tmp_path / "found.png"
    for query in ("a green square", "绿色方块"):
        arguments = [str(finished), query, "--images", str(tmp_path / "pictures")]
        assert main(["search", *arguments, "--save", str(save), "--top_k", "3"]) == 0
        captured = capsys.readouterr()
        assert captured.out.splitlines()[1].endswith("green.png")
        assert "broken.jpg" in captured.err
        assert Image.open(save).size[0] > 300
    arguments = [str(finished), "红色方块", "--images", str(color_dataset), "--split", "validation"]
    assert main(["search", *arguments]) == 0
    assert "a red square" in capsys.readouterr().out.splitlines()[1]


def test_the_same_seed_gives_the_same_model_and_another_seed_another(
    finished, tmp_path, color_dataset, model_config_folder
):
    weights = load_file(finished / "model.safetensors")
    for seed in (0, 1):
        recipe = write_recipe(
            tmp_path, color_dataset, model_config_folder, output_dir=str(tmp_path / f"{seed}")
        )
        arguments = ["--config", str(recipe), "--seed", str(seed), "--report_to", "none"]
        assert main(["train", *arguments]) == 0
        again = load_file(tmp_path / f"{seed}" / "model.safetensors")
        same = all(torch.equal(again[name], value) for name, value in weights.items())
        assert same == (seed == 0)


def test_a_killed_run_resumes_to_the_same_weights(
    finished, tmp_path, color_dataset, model_config_folder
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    process = start(recipe)
    wait_for(tmp_path / "out" / "checkpoints" / "step-*40", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    # What a kill in the middle of writing leaves is passed over.
    (tmp_path / "out" / "checkpoints" / ".step-00000099.partial").mkdir()
    resumed = start(recipe, "--resume_from_checkpoint", "latest")
    _, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors[-3000:]
    weights = load_file(finished / "model.safetensors")
    again = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in weights.items():
        assert torch.equal(again[name], value), name
    log = (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()
    assert len(log) == len((finished / "training_log.jsonl").read_text().splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_says_how_to_go_on(
    tmp_path, color_dataset, model_config_folder, number
):
    recipe = write_recipe(
        tmp_path, color_dataset, model_config_folder, max_steps=100_000, save_steps=0
    )
    process = start(recipe)
    logs = tmp_path / "out" / "runs" / "clip-vit"
    wait_until(
        lambda: any(b"loss" in path.read_bytes() for path in logs.glob("events*")),
        "the log of a loss",
        process,
    )
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "--resume_from_checkpoint latest" in errors.splitlines()[-1]
    saved = list((tmp_path / "out" / "checkpoints").iterdir())
    assert len(saved) == 1
    assert json.loads((saved[0] / "progress.json").read_text())["step"] > 0


def test_a_full_disk_ends_in_a_sentence_and_loses_nothing(
    tmp_path, color_dataset, model_config_folder
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder, max_steps=30)
    process = start(recipe, "--max_steps", "10", "--save_steps", "5")
    assert process.wait(timeout=300) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*") if path.is_file()}
    kept = {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()}

    def no_large_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    process = start(recipe, "--report_to", "none", preexec_fn=no_large_files)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    message = errors.splitlines()[-1]
    assert message.startswith("error: cannot save the checkpoint")
    assert "untouched" in message
    assert "Traceback" not in errors
    after = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*") if path.is_file()}
    assert after == before
    assert {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()} == kept


def run_in_process(capsys, recipe: Path, *arguments: str) -> str:
    """Train here, expecting one sentence; returns it."""
    assert main(["train", "--config", str(recipe), "--report_to", "none", *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, lines
    return errors[0]


def test_bad_input_ends_in_one_sentence(
    tmp_path, color_dataset, model_config_folder, checkpoint, capsys
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    assert "no column 'text': it has image, caption_en" in run_in_process(
        capsys, recipe, "--caption_columns", "[text]"
    )
    assert "no split 'dev': it has train, validation" in run_in_process(
        capsys, recipe, "--train_split", "dev"
    )
    assert "no model configuration 'nowhere'" in run_in_process(
        capsys, recipe, "--model_config", "nowhere"
    )
    config = json.loads((model_config_folder / "config.json").read_text())
    config["vision_config"]["image_size"] = 33
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "image_size=33 is not allowed: it must be a multiple of patch_size=8" in run_in_process(
        capsys, recipe, "--model_config", str(tmp_path)
    )
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert "configures a model of type 'clip', not 'clip_vit'" in run_in_process(
        capsys, recipe, "--model_config", str(tmp_path)
    )
    assert "there is no checkpoint" in run_in_process(
        capsys, recipe, "--resume_from_checkpoint", "latest"
    )
    assert "takes 16 concepts, but the dataset has 8" in run_in_process(
        capsys, recipe, "--per_device_train_batch_size", "32"
    )
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_damaged_checkpoint_is_refused_in_one_sentence(
    finished, tmp_path, color_dataset, model_config_folder, capsys
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    newest = sorted((finished / "checkpoints").iterdir())[-1]
    damaged = tmp_path / "damaged"
    shutil.copytree(newest, damaged)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "cannot resume from" in run_in_process(
        capsys, recipe, "--resume_from_checkpoint", str(damaged)
    )
    save_file({"other": torch.zeros(3)}, weights)
    assert "cannot resume from" in run_in_process(
        capsys, recipe, "--resume_from_checkpoint", str(damaged)
    )
    assert "is not a checkpoint" in run_in_process(
        capsys, recipe, "--resume_from_checkpoint", str(tmp_path)
    )


def test_a_checkpoint_with_other_weights_is_refused_in_one_sentence(
    tmp_path, color_dataset, model_config_folder, checkpoint, capsys
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    for misfit, told in MISFITS.items():
        spoiled = tmp_path / misfit
        shutil.copytree(checkpoint, spoiled)
        spoil(spoiled, misfit)
        message = run_in_process(capsys, recipe, "--model_name_or_path", str(spoiled))
        assert f"'{spoiled}' does not fit a ClipVitModel: {told}" in message
    message = run_in_process(capsys, recipe, "--text_model_name_or_path", str(tmp_path / "lacks"))
    assert "does not fit a ClipVitTextModel: it lacks encoder.layers.0" in message
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.fixture
def folder_with_bad_images(tmp_path) -> Path:
    """An image folder: a caption and a key for each of 12 files, two of which are no images."""
    folder = tmp_path / "folder" / "train"
    folder.mkdir(parents=True)
    lines = []
    for number, color in enumerate(("red", "green", "blue", "black", "purple", "brown") * 2):
        name = f"{number}.png"
        draw_picture(color, number).save(folder / name)
        lines.append({"file_name": name, "caption": f"a {color} square", "key": color})
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:80])
    (folder / "10.png").write_bytes(b"")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder.parent


@pytest.mark.parametrize("cache", ["true", "false"])
def test_unreadable_images_are_skipped_counted_and_named(
    folder_with_bad_images, tmp_path, model_config_folder, cache
):
    recipe = write_recipe(
        tmp_path,
        folder_with_bad_images,
        model_config_folder,
        caption_columns=["caption"],
        tags_columns={},
        evaluations=[],
        max_steps=4,
        per_device_train_batch_size=12,
        max_bad_sample_ratio=0.2,
        report_to="none",
    )
    process = start(recipe, "--cache_images", cache, env={**os.environ})
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    assert "3.png" in errors
    assert "10.png" in errors
    card = (tmp_path / "out" / "README.md").read_text()
    assert "10.png" in card


def test_too_many_unreadable_images_are_an_error(
    folder_with_bad_images, tmp_path, model_config_folder, capsys
):
    recipe = write_recipe(
        tmp_path,
        folder_with_bad_images,
        model_config_folder,
        caption_columns=["caption"],
        tags_columns={},
        evaluations=[],
    )
    message = run_in_process(capsys, recipe)
    assert "2 of 12 rows" in message
    assert "max_bad_sample_ratio=0.01" in message


def test_a_dry_run_of_a_push_lists_the_files(tmp_path, color_dataset, model_config_folder, capsys):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder, max_steps=2, save_steps=1)
    arguments = ["--push_to_hub", "true", "--hub_model_id", "me/colors", "--hub_dry_run", "true"]
    assert main(["train", "--config", str(recipe), *arguments]) == 0
    output = capsys.readouterr().out
    listed = output.split("would push to me/colors:\n")[1].split()
    assert {"model.safetensors", "config.json", "README.md", "retrieval.png"} <= set(listed)
    assert not any(name.startswith(("checkpoints", "runs")) for name in listed)


def test_training_goes_on_from_a_checkpoint_with_its_tokenizer(
    finished, tmp_path, color_dataset, model_config_folder
):
    recipe = write_recipe(
        tmp_path, color_dataset, model_config_folder, max_steps=1, report_to="none"
    )
    assert main(["train", "--config", str(recipe), "--model_name_or_path", str(finished)]) == 0
    ours, theirs = (tmp_path / "out" / "tokenizer.json"), (finished / "tokenizer.json")
    assert json.loads(ours.read_text())["model"] == json.loads(theirs.read_text())["model"]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["validation/caption_en/text_to_image/R@1"] >= 0.75


def test_two_processes_train_one_model(tmp_path, color_dataset, model_config_folder):
    # Without the stem's batch norm, whose statistics over a process's eight images are poor.
    config = json.loads((model_config_folder / "config.json").read_text())
    config["vision_config"]["patch_embedding"] = "linear"
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = write_recipe(
        tmp_path, color_dataset, tmp_path, per_device_train_batch_size=8, save_steps=0
    )
    train_in_two_processes(recipe)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # Guessing finds one in eight.
    assert report["metrics"]["validation/caption_en/text_to_image/R@1"] >= 0.5
    lines = [json.loads(line) for line in (tmp_path / "out" / "training_log.jsonl").open()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert list(losses) == list(range(10, 151, 10))
    # Two right texts an image, so log 2 is the least there is.
    assert losses[150] < 0.75
