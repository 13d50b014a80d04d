"""What the engine can be told, in whole runs: each option trains, and a killed run goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, start, wait_for, write_recipe
from safetensors.torch import load_file

from modeling_clip_vit.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]


@pytest.fixture(scope="module")
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
    out = Path(json.loads(recipe.read_text())["output_dir"])
    lines = [json.loads(line) for line in (out / "training_log.jsonl").open()]
    return [line for line in lines if "loss" in line][-1]


OPTIONS = {
    "clip": {"loss": "clip", "images_per_concept": 1, "label_smoothing": 0.1},
    "hard negatives": {"loss": "hard_negative", "images_per_concept": 1},
    "siglip": {"loss": "siglip", "view_loss_weight": 0},
    "matryoshka": {"matryoshka_dims": [4, 16]},
    "gradient cache": {"gradient_cache_batch_size": 5},
    "adafactor": {"optim": "adafactor", "learning_rate": 3e-3},
    "warmup, stable, decay": {"lr_scheduler_type": "warmup_stable_decay"},
    "average": {"ema_decay": 0.9},
    "accumulation": {"gradient_accumulation_steps": 2, "max_grad_spike": 5},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains(name, tmp_path, color_dataset, linear_config):
    fields = {"view_loss_weight": 0, **OPTIONS[name]}
    if fields.get("images_per_concept") == 1:
        fields |= {"caption_sampling": "one", "per_device_train_batch_size": 8}
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, max_steps=60, save_steps=0, eval_steps=0, **fields
    )
    last = train(recipe)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    # Eight colours: guessing finds one in eight.
    assert metrics["validation/caption_en/text_to_image/R@1"] >= 0.35, (name, metrics)
    assert last["accuracy"] >= 0.4
    assert 0 <= last["data_wait"] <= 1
    assert last["memory_megabytes"] > 100
    assert last["skipped_updates"] == 0


def test_the_gradient_cache_trains_as_the_whole_batch_does(tmp_path, color_dataset, linear_config):
    config = json.loads((linear_config / "config.json").read_text())
    config["vision_config"] |= {"drop_path_rate": 0.0, "hidden_dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    losses = []
    for part in ("0", "3"):
        recipe = write_recipe(
            tmp_path,
            color_dataset,
            tmp_path,
            optim="adamw",
            max_steps=8,
            save_steps=0,
            eval_split=None,
            zero_shot_columns=[],
            bf16=False,
            logging_steps=1,
        )
        losses.append(train(recipe, "--gradient_cache_batch_size", part)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_blocks_compile(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, max_steps=3, save_steps=0, eval_steps=0, bf16=False
    )
    plain = train(recipe)["loss"]
    assert train(recipe, "--torch_compile", "true")["loss"] == pytest.approx(plain, rel=0.2)


def test_a_student_learns_a_teachers_similarities(tmp_path, color_dataset, linear_config, capsys):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, save_steps=0, eval_steps=0)
    train(recipe)
    teacher = tmp_path / "out"
    fields = {"max_steps": 60, "view_loss_weight": 0, "save_steps": 0, "eval_steps": 0}
    student = tmp_path / "student"
    student.mkdir()
    recipe = write_recipe(student, color_dataset, linear_config, **fields)
    options = ["--teacher_name_or_path", str(teacher), "--distillation_weight", "1"]
    train(recipe, *options)  # the teacher is all it learns from
    metrics = json.loads((student / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["validation/caption_en/text_to_image/R@1"] >= 0.35
    config = json.loads((linear_config / "config.json").read_text())
    config["vision_config"]["image_size"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = write_recipe(student, color_dataset, tmp_path, **fields)
    assert main(["train", "--config", str(recipe), *options]) == 1
    assert "made for images of 32 pixels" in capsys.readouterr().err


def test_a_run_that_diverges_stops_and_says_why(tmp_path, color_dataset, linear_config, capsys):
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, optim="adamw", save_steps=0, eval_steps=0
    )
    command = ["train", "--config", str(recipe), "--report_to", "none", "--learning_rate", "1e30"]
    assert main([*command, "--max_skipped_updates", "4", "--warmup_ratio", "0"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: stopped at update")
    assert "the last 4 updates were skipped" in message


def test_a_killed_run_with_an_average_resumes_to_the_same_weights(
    tmp_path, color_dataset, linear_config
):
    fields = {"ema_decay": 0.95, "max_grad_spike": 3, "gradient_cache_batch_size": 5}
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    recipes = [
        write_recipe(folder, color_dataset, linear_config, max_steps=80, **fields)
        for folder in folders
    ]
    train(recipes[0])
    process = start(recipes[1])
    wait_for(folders[1] / "out" / "checkpoints" / "step-*40", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    train(recipes[1], "--resume_from_checkpoint", "latest")
    whole, again = (load_file(folder / "out" / "model.safetensors") for folder in folders)
    for name, value in whole.items():
        assert torch.equal(again[name], value), name


def test_a_truncated_newest_checkpoint_is_passed_over_with_a_word(
    tmp_path, color_dataset, linear_config, caplog
):
    fields = {"max_steps": 25, "save_steps": 10, "save_total_limit": 2, "eval_steps": 0}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **fields)
    train(recipe)
    expected = load_file(tmp_path / "out" / "model.safetensors")
    weights = tmp_path / "out" / "checkpoints" / "step-00000020" / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-5], whole[:-5] + b"wrong"):
        weights.write_bytes(damaged)
        caplog.clear()
        train(recipe, "--resume_from_checkpoint", "latest")
        assert "model.safetensors is not as it was written; it is damaged" in caplog.text
        again = load_file(tmp_path / "out" / "model.safetensors")
        assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_two_runs_do_not_write_to_one_folder(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=100_000)
    first = start(recipe)
    wait_for(tmp_path / "out" / "checkpoints" / "step-*20", first)
    second = start(recipe)
    _, errors = second.communicate(timeout=120)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.returncode == 1
    assert "error: another run writes to" in errors.splitlines()[-1]
    # Whoever was killed holds nothing.
    assert train(recipe, "--max_steps", "2")["step"] == 2


@pytest.fixture
def object_store(monkeypatch):
    """A server that speaks S3, and a bucket in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    import fsspec

    fsspec.config.conf["s3"] = {"endpoint_url": f"http://127.0.0.1:{port}"}
    files = fsspec.filesystem("s3")
    for _ in range(100):
        try:
            files.mkdir("bucket")
            break
        except Exception:
            time.sleep(0.2)
    yield files
    fsspec.config.conf.pop("s3")
    server.kill()
    server.wait()


def test_checkpoints_live_in_an_object_store(
    tmp_path, color_dataset, linear_config, object_store, caplog
):
    fields = {"max_steps": 45, "save_steps": 10, "save_total_limit": 2, "eval_steps": 0}
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, checkpoint_dir="s3://bucket/run", **fields
    )
    train(recipe)
    expected = load_file(tmp_path / "out" / "model.safetensors")
    names = [path.rsplit("/", 1)[1] for path in object_store.ls("bucket/run", refresh=True)]
    assert names == ["step-00000030", "step-00000040"]
    assert not list((tmp_path / "out" / "checkpoints").glob("*"))
    # An upload that was cut off has no progress.json, and does not count.
    object_store.rm("bucket/run/step-00000040/progress.json")
    train(recipe, "--resume_from_checkpoint", "latest")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    url = "s3://bucket/run/step-00000030"
    train(recipe, "--resume_from_checkpoint", url, "--checkpoint_dir", str(tmp_path / "other"))


LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


def launch(recipe: Path, *arguments: str, options: list[str]) -> subprocess.CompletedProcess:
    """train.py by Accelerate's launcher."""
    script = [str(REPOSITORY / "train.py"), "--config", str(recipe), "--report_to", "none"]
    return subprocess.run(
        [*LAUNCH, *options, *script, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_launch_that_would_train_otherwise_than_asked_is_refused(
    tmp_path, color_dataset, linear_config
):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=2)
    done = launch(recipe, options=["--cpu", "--num_processes", "2"])
    assert done.returncode != 0
    assert "several processes were asked for, but Accelerate's CPU launcher started" in done.stderr
    done = launch(recipe, options=["--use_fsdp", "--num_processes", "2", "--main_process_port=0"])
    assert done.returncode != 0
    assert "error: FSDP needs GPUs" in done.stderr


def test_another_number_of_processes_goes_on_where_the_first_stopped(
    tmp_path, color_dataset, linear_config
):
    fields = {"per_device_train_batch_size": 8, "images_per_concept": 1, "eval_steps": 0}
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, max_steps=30, save_steps=15, **fields
    )
    file = REPOSITORY / "configuration" / "accelerate" / "cpu.yaml"
    done = launch(recipe, "--view_loss_weight", "0", options=["--config_file", str(file)])
    assert done.returncode == 0, done.stderr[-3000:]
    saved = tmp_path / "out" / "checkpoints" / "step-00000015"
    assert json.loads((saved / "progress.json").read_text())["processes"] == 2
    last = train(recipe, "--view_loss_weight", "0", "--resume_from_checkpoint", str(saved))
    assert last["step"] == 30


def test_a_process_that_dies_takes_the_job_down_and_a_restart_goes_on(
    tmp_path, color_dataset, linear_config
):
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, per_device_train_batch_size=8, max_steps=100_000
    )
    options = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
    job = subprocess.Popen(
        [*LAUNCH, *options, str(REPOSITORY / "train.py"), "--config", str(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for(tmp_path / "out" / "checkpoints" / "step-*20", job)
    ranks = subprocess.run(
        ["pgrep", "-P", str(job.pid), "-f", "train.py"], capture_output=True, text=True
    ).stdout.split()
    assert len(ranks) == 2
    started = time.monotonic()
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, errors = job.communicate(timeout=60)
    assert time.monotonic() - started < 60
    assert job.returncode != 0
    assert "SIGKILL" in errors
    resume = ["--resume_from_checkpoint", "latest", "--max_steps", "45", "--save_steps", "0"]
    done = launch(recipe, *resume, options=options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == 45
