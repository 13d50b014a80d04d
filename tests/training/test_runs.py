"""Whole runs in real processes: train, load, search, kill, resume, and bad input."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

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
from tests.support.processes import finish, outputs, start, wait_until
from tests.support.runs import (
    assert_same_weights,
    kill_after,
    train,
    train_in_two_processes,
    write_recipe,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]


class Finished(NamedTuple):
    """A run in a process of its own: its folder, and what it printed and wrote to stderr."""

    folder: Path
    output: str
    errors: str


@pytest.fixture(scope="module")
def run(tmp_path_factory, color_dataset, model_config_folder) -> Finished:
    """A run that has ended well."""
    folder = tmp_path_factory.mktemp("finished")
    process = start(write_recipe(folder, color_dataset, model_config_folder))
    output, errors = outputs(process)
    assert process.returncode == 0, errors[-3000:]
    return Finished(folder / "out", output, errors)


@pytest.fixture(scope="module")
def finished(run) -> Path:
    """Its output folder."""
    return run.folder


@pytest.fixture(scope="module")
def report(finished) -> dict:
    """Its metrics.json."""
    return json.loads((finished / "metrics.json").read_text())


def test_a_run_prints_its_metrics(run):
    assert "text_to_image/R@1" in run.output


def test_a_run_shows_its_progress(run):
    assert "150/150" in run.errors
    assert "loss" in run.errors


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


def test_a_run_leaves_no_hidden_files(finished):
    assert not list(finished.glob(".*"))


def test_a_run_draws_what_it_finds(finished):
    assert Image.open(finished / "retrieval.png").size[0] > 400


def test_a_run_writes_for_its_tracker(finished):
    assert list((finished / "runs").rglob("events.out.tfevents*"))


def test_the_log_has_the_steps_that_the_recipe_asks_for(finished):
    lines = [json.loads(line) for line in (finished / "training_log.jsonl").open()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(10, 151, 10))
    assert {line["step"] for line in lines if "loss" not in line} == {50, 100, 150}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_model_learned_what_the_pictures_show(report, language):
    # Eight colours: guessing finds one in eight.
    assert report["metrics"][f"validation/caption_{language}/text_to_image/R@1"] >= 0.75


def test_the_metrics_are_those_of_the_tasks_that_the_recipe_names(report):
    tasks = {name.split("/")[1] for name in report["metrics"]}
    assert tasks == {"caption_en", "caption_zh", "zero_shot"}


def test_the_report_says_how_it_was_trained(report):
    assert (report["steps"], report["recipe"]["max_steps"]) == (150, 150)


@pytest.mark.parametrize(
    "text",
    [
        "16 images of 8 concepts",
        "AutoModel.from_pretrained",
        "trust_remote_code=True",
        "pipeline_tag: zero-shot-image-classification",
        "max_steps: 150",
    ],
)
def test_the_card_says_what_was_done(finished, text):
    assert text in (finished / "README.md").read_text()


def test_the_card_has_what_was_measured(finished, report):
    value = report["metrics"]["validation/caption_en/text_to_image/R@1"]
    assert f"{100 * value:.1f}" in (finished / "README.md").read_text()


def test_the_five_lines_of_the_card_run(finished, tmp_path):
    card = (finished / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    draw_picture("red", 7).save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tensor" in done.stdout


def test_the_loaded_model_embeds_as_the_evaluation_did(finished, report, color_dataset):
    model, processor = AutoModel.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    assert type(processor) is CLIPProcessor
    split = load_dataset(str(color_dataset), split="validation")
    image_embeds = embed_images(model.eval(), processor, [row["image"] for row in split])
    text_embeds = embed_texts(model, processor.tokenizer, split["caption_en"])
    found = (text_embeds @ image_embeds.t()).argmax(dim=1)
    recall = (found == torch.arange(8)).float().mean().item()
    assert recall == pytest.approx(report["metrics"]["validation/caption_en/text_to_image/R@1"])


@pytest.mark.parametrize("kind", ["texts", "pictures"])
def test_sentence_transformers_embed_as_the_model_that_a_run_left(finished, kind):
    model, processor = AutoModel.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    encoder = SentenceTransformer(str(finished), device="cpu")
    if kind == "texts":
        inputs = ["a red square", "绿色方块"]
        expected = embed_texts(model.eval(), processor.tokenizer, inputs)
    else:
        inputs = [draw_picture("red", 1), draw_picture("blue", 2)]
        expected = embed_images(model.eval(), processor, inputs)
    actual = encoder.encode(inputs, convert_to_tensor=True)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of four pictures and a broken one."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for number, color in enumerate(("red", "green", "blue", "black")):
        draw_picture(color, 50 + number).save(folder / "deep" / f"{color}.png")
    (folder / "deep" / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("query", ["a green square", "绿色方块"])
def test_search_finds_a_picture_in_a_folder(finished, pictures, query, capsys):
    arguments = [str(finished), query, "--images", str(pictures)]
    assert main(["search", *arguments, "--top_k", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("green.png")


def test_search_names_the_pictures_that_cannot_be_read(finished, pictures, capsys):
    assert main(["search", str(finished), "a green square", "--images", str(pictures)]) == 0
    assert "broken.jpg" in capsys.readouterr().err


def test_search_draws_what_it_finds(finished, pictures, tmp_path):
    save = tmp_path / "found.png"
    arguments = [str(finished), "a green square", "--images", str(pictures), "--save", str(save)]
    assert main(["search", *arguments]) == 0
    assert Image.open(save).size[0] > 300


def test_search_finds_a_picture_in_a_dataset(finished, color_dataset, capsys):
    arguments = [str(finished), "红色方块", "--images", str(color_dataset), "--split", "validation"]
    assert main(["search", *arguments]) == 0
    assert "a red square" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_model_is_the_same_if_the_seed_is(
    finished, tmp_path, color_dataset, model_config_folder, seed
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder, seed=seed)
    train(recipe)
    weights, again = (
        load_file(folder / "model.safetensors") for folder in (finished, tmp_path / "out")
    )
    is_same = all(torch.equal(again[name], value) for name, value in weights.items())
    assert is_same == (seed == 0)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory, color_dataset, model_config_folder) -> Path:
    """The output folder of a run like the finished one that was killed and resumed."""
    folder = tmp_path_factory.mktemp("resumed")
    recipe = write_recipe(folder, color_dataset, model_config_folder)
    kill_after(recipe, "step-*")
    # What a kill in the middle of writing leaves is passed over.
    (folder / "out" / "checkpoints" / ".step-00000099.partial").mkdir()
    finish(start(recipe, "--resume_from_checkpoint", "latest"))
    return folder / "out"


def test_a_killed_run_resumes_to_the_same_weights(resumed, finished):
    assert_same_weights(resumed, finished)


def test_a_killed_run_resumes_to_the_same_log(resumed, finished):
    logs = [(folder / "training_log.jsonl").read_text() for folder in (resumed, finished)]
    steps = [[json.loads(line)["step"] for line in log.splitlines()] for log in logs]
    assert steps[0] == steps[1]


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
    _, errors = outputs(process)
    assert process.returncode == 128 + number
    assert "--resume_from_checkpoint latest" in errors.splitlines()[-1]
    saved = list((tmp_path / "out" / "checkpoints").iterdir())
    assert len(saved) == 1
    assert json.loads((saved[0] / "progress.json").read_text())["step"] > 0


def test_a_full_disk_ends_in_a_sentence_and_loses_nothing(
    tmp_path, color_dataset, model_config_folder
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder, max_steps=30)
    finish(start(recipe, "--max_steps", "10", "--save_steps", "5"))
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*") if path.is_file()}
    kept = {path.name for path in (tmp_path / "out" / "checkpoints").iterdir()}

    def no_large_files():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    # The second checkpoint says that the first could not be written in the background.
    saving = ("--report_to", "none", "--save_steps", "10", "--overwrite_output_dir", "true")
    process = start(recipe, *saving, preexec_fn=no_large_files)
    _, errors = outputs(process)
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


#: Options -> a part of the sentence.
BAD_INPUT = {
    "--caption_columns=[text]": "no column 'text': it has image, caption_en",
    "--train_split=dev": "no split 'dev': it has train, validation",
    "--model_config=nowhere": "no model configuration 'nowhere'",
    "--vision_fields={image_size: 33}": "image_size=33 is not allowed: it must be a multiple of "
    "patch_size=8",
    "--resume_from_checkpoint=latest": "there is no checkpoint",
    "--per_device_train_batch_size=32": "takes 16 concepts, but the dataset has 8",
}


@pytest.mark.parametrize("option", BAD_INPUT)
def test_bad_input_ends_in_one_sentence(
    tmp_path, color_dataset, model_config_folder, capsys, option
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    assert BAD_INPUT[option] in run_in_process(capsys, recipe, option)
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_configuration_of_another_model_ends_in_one_sentence(
    tmp_path, color_dataset, model_config_folder, capsys
):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    recipe = write_recipe(tmp_path, color_dataset, tmp_path)
    assert "configures a model of type 'clip', not 'clip_vit'" in run_in_process(capsys, recipe)


def cut_short(checkpoint: Path):
    """Leave the beginning of the weights."""
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def exchange(checkpoint: Path):
    """Put the weights of another model in."""
    save_file({"other": torch.zeros(3)}, checkpoint / "model.safetensors")


def empty(checkpoint: Path):
    """Leave no checkpoint at all."""
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "cannot resume from"),
        (exchange, "cannot resume from"),
        (empty, "is not a checkpoint"),
    ],
)
def test_a_damaged_checkpoint_is_rejected_in_one_sentence(
    finished, tmp_path, color_dataset, model_config_folder, capsys, damage, message
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    newest = sorted((finished / "checkpoints").iterdir())[-1]
    damaged = shutil.copytree(newest, tmp_path / "damaged")
    damage(damaged)
    assert message in run_in_process(capsys, recipe, "--resume_from_checkpoint", str(damaged))


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_with_other_weights_is_rejected_in_one_sentence(
    tmp_path, color_dataset, model_config_folder, checkpoint, capsys, misfit
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    spoiled = shutil.copytree(checkpoint, tmp_path / misfit)
    spoil(spoiled, misfit)
    message = run_in_process(capsys, recipe, "--model_name_or_path", str(spoiled))
    assert f"'{spoiled}' does not fit a ClipVitModel: {MISFITS[misfit]}" in message
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_tower_with_other_weights_is_rejected_in_one_sentence(
    tmp_path, color_dataset, model_config_folder, checkpoint, capsys
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    spoiled = shutil.copytree(checkpoint, tmp_path / "lacks")
    spoil(spoiled, "lacks")
    message = run_in_process(capsys, recipe, "--text_model_name_or_path", str(spoiled))
    assert "does not fit a ClipVitTextModel: it lacks encoder.layers.0" in message


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
    errors = finish(start(recipe, "--cache_images", cache))
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
    listed = output.split("would push to me/colors:\n")[1].split("not uploaded:")[0].split()
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
    recipe = write_recipe(
        tmp_path,
        color_dataset,
        model_config_folder,
        vision_fields={"patch_embedding": "linear"},
        per_device_train_batch_size=8,
        save_steps=0,
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
