"""What can go wrong while training: kills, damage, dead processes, wrong launches, other places."""

import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
from conftest import COLORS, REPOSITORY, draw_picture, start, train, wait_for, write_recipe
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

#: How often the run below is killed; more by `CLIP_VIT_KILLS=20 pytest tests/faults`.
KILLS = int(os.environ.get("CLIP_VIT_KILLS", "3"))


def test_kills_at_random_moments_change_nothing(tmp_path, color_dataset, linear_config):
    """A checkpoint at every step, so that many a kill falls into its writing."""
    steps = 60 + 20 * KILLS
    fields = {"max_steps": steps, "save_steps": 1, "eval_steps": 0, "ema_decay": 0.9}
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    recipes = [write_recipe(folder, color_dataset, linear_config, **fields) for folder in folders]
    process = start(recipes[0], "--report_to", "none", "--save_steps", "0")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    checkpoints = folders[1] / "out" / "checkpoints"
    moments = random.Random(0)
    resume: list[str] = []
    reached = [0]
    for _ in range(KILLS):
        process = start(recipes[1], "--report_to", "none", *resume)
        wait_for(checkpoints / f"step-{reached[-1] + 2:08d}*", process)
        time.sleep(moments.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        whole = sorted(path.parent.name for path in checkpoints.glob("step-*/progress.json"))
        reached.append(int(whole[-1].removeprefix("step-")))
        assert reached[-1] > reached[-2]
        resume = ["--resume_from_checkpoint", "latest"]
    process = start(recipes[1], "--report_to", "none", *resume)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    expected, again = (load_file(folder / "out" / "model.safetensors") for folder in folders)
    for name, value in expected.items():
        assert torch.equal(again[name], value), name


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
    weights = tmp_path / "out" / "checkpoints" / "step-00000025" / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[:-5], whole[:-5] + b"wrong"):
        weights.write_bytes(damaged)
        caplog.clear()
        train(recipe, "--resume_from_checkpoint", "latest")
        assert "model.safetensors is not as it was written; it is damaged" in caplog.text
        again = load_file(tmp_path / "out" / "model.safetensors")
        assert all(torch.equal(again[name], value) for name, value in expected.items())


def test_a_run_that_goes_back_keeps_what_it_saves_itself(tmp_path, color_dataset, linear_config):
    """An older run's checkpoint of a later step is not taken for newer."""
    fields = {"save_steps": 10, "eval_steps": 0}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **fields)
    checkpoints = tmp_path / "out" / "checkpoints"
    train(recipe, "--max_steps", "45")
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000045"]
    train(recipe, "--max_steps", "25", "--seed", "1")
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000025"]


def test_two_runs_do_not_write_to_one_folder(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=100_000)
    first = start(recipe)
    wait_for(tmp_path / "out" / "checkpoints" / "step-*20", first)
    checkpoints = ["--checkpoint_dir", str(tmp_path / "out" / "checkpoints")]
    shared = ["--output_dir", str(tmp_path / "other"), *checkpoints]
    told = []
    for arguments in ([], shared):
        other = start(recipe, *arguments)
        _, errors = other.communicate(timeout=120)
        assert other.returncode == 1
        told.append(errors.splitlines()[-1])
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert all(message.startswith("error: another run writes to") for message in told), told
    assert [message.rsplit(" ", 1)[1] for message in told] == ["output_dir", "checkpoint_dir"]
    # A killed run holds no lock.
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
    assert names == ["step-00000040", "step-00000045"]
    assert not list((tmp_path / "out" / "checkpoints").glob("*"))
    # An upload that was cut off has no progress.json, and does not count.
    object_store.rm("bucket/run/step-00000045/progress.json")
    train(recipe, "--resume_from_checkpoint", "latest")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in expected.items())
    url = "s3://bucket/run/step-00000040"
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
    assert "several processes were requested, but Accelerate's CPU launcher started" in done.stderr
    done = launch(recipe, options=["--use_fsdp", "--num_processes", "2", "--main_process_port=0"])
    assert done.returncode != 0
    assert "error: FSDP needs GPUs" in done.stderr


def test_another_number_of_processes_goes_on_where_the_first_stopped(
    tmp_path, color_dataset, linear_config
):
    fields = {"per_device_train_batch_size": 8, "images_per_concept": 1, "eval_steps": 0}
    recipe = write_recipe(
        tmp_path,
        color_dataset,
        linear_config,
        max_steps=30,
        save_steps=15,
        save_total_limit=2,
        **fields,
    )
    file = REPOSITORY / "configuration" / "accelerate" / "cpu.yaml"
    done = launch(recipe, "--view_loss_weight", "0", options=["--config_file", str(file)])
    assert done.returncode == 0, done.stderr[-3000:]
    saved = tmp_path / "out" / "checkpoints" / "step-00000015"
    assert json.loads((saved / "progress.json").read_text())["processes"] == 2
    last = train(recipe, "--view_loss_weight", "0", "--resume_from_checkpoint", str(saved))
    assert last["step"] == 30


TWO = ["--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]


def test_a_process_that_dies_takes_the_job_down_and_a_restart_goes_on(
    tmp_path, color_dataset, linear_config
):
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    recipes = [
        write_recipe(folder, color_dataset, linear_config, per_device_train_batch_size=8)
        for folder in folders
    ]
    end = ["--max_steps", "45", "--lr_scheduler_type", "constant"]
    done = launch(recipes[0], *end, options=TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    script = [str(REPOSITORY / "train.py"), "--config", str(recipes[1]), "--report_to", "none"]
    job = subprocess.Popen(
        [*LAUNCH, *TWO, *script, "--max_steps", "100000", "--lr_scheduler_type", "constant"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    wait_for(folders[1] / "out" / "checkpoints" / "step-*20", job)
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
    saved = sorted((folders[1] / "out" / "checkpoints").glob("step-*"))[0]
    done = launch(recipes[1], *end, "--resume_from_checkpoint", str(saved), options=TWO)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, again = (load_file(folder / "out" / "model.safetensors") for folder in folders)
    for name, value in expected.items():
        assert (again[name] - value).abs().max() <= 1e-6, name


#: What a recipe for the tars below has otherwise than one for the parquet files.
STREAM = {
    "eval_split": None,
    "zero_shot_columns": [],
    "concept_column": None,
    "images_per_concept": 1,
    "image_column": "png",
    "caption_columns": ["txt"],
    "caption_sampling": "one",
    "tags_columns": {},
    "view_loss_weight": 0,
}


@pytest.fixture
def color_tars(tmp_path) -> Path:
    """Squares of eight colours in tars, one of them cut off in the middle."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number, color in enumerate(COLORS):
                picture = io.BytesIO()
                draw_picture(color, 10 * shard + number).save(picture, "PNG")
                name = f"{shard}{number}"
                for end, content in (("png", picture.getvalue()), ("txt", color.encode())):
                    member = tarfile.TarInfo(f"{name}.{end}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    whole = (folder / "3.tar").read_bytes()
    (folder / "3.tar").write_bytes(whole[: len(whole) // 2])
    return folder


def test_a_killed_run_on_a_stream_resumes_to_the_same_weights(tmp_path, color_tars, linear_config):
    fields = {
        **STREAM,
        "stream_sources": [str(color_tars / "*.tar")],
        "samples_per_epoch": 24,
        "shuffle_buffer_size": 8,
        "per_device_train_batch_size": 8,
        "max_bad_sample_ratio": 0.5,
        "max_steps": 60,
    }
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    recipes = [write_recipe(folder, color_tars, linear_config, **fields) for folder in folders]
    assert train(recipes[0])["accuracy"] >= 0.3
    process = start(recipes[1], "--report_to", "none")
    wait_for(folders[1] / "out" / "checkpoints" / "step-*20", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    train(recipes[1], "--resume_from_checkpoint", "latest")
    whole, again = (load_file(folder / "out" / "model.safetensors") for folder in folders)
    for name, value in whole.items():
        assert torch.equal(again[name], value), name


def test_processes_with_unequal_parts_of_a_stream_train_together(
    tmp_path, color_tars, linear_config
):
    fields = {
        **STREAM,
        "stream_sources": [str(color_tars / "[01].tar")],
        "max_steps": 6,
        "save_steps": 0,
    }
    # Sixteen samples in two shards, one of them shorter by two after this.
    with tarfile.open(color_tars / "1.tar") as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar.getmembers()[:12]]
    with tarfile.open(color_tars / "1.tar", "w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    recipe = write_recipe(
        tmp_path, color_tars, linear_config, **fields, per_device_train_batch_size=4
    )
    done = launch(recipe, options=TWO)  # two batches against one
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["steps"] == 6
    # One sample, and two processes: one of them never has a batch.
    one = ["--stream_sources", f"[{color_tars}/1*.tar]", "--per_device_train_batch_size", "2"]
    with tarfile.open(color_tars / "1.tar", "w") as tar:
        for member, content in members[:2]:
            tar.addfile(member, io.BytesIO(content))
    done = launch(recipe, *one, options=TWO)
    assert done.returncode != 0
    assert "gave no batch for every process" in done.stderr
