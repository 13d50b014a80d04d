"""Checkpoints that are written while training goes on, and what happens where that fails."""

import logging

import pytest
import torch

from modeling_clip_vit.training.checkpoints import CheckpointError, check_whole
from modeling_clip_vit.utils.folders import SaveError
from tests.support.models import small_model
from tests.support.trainers import assert_same_weights, build, make_batch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def trainer(tmp_path, processor):
    """A run with a running mean that has done an update and keeps all its checkpoints."""
    trainer = build(tmp_path, processor=processor, ema_decay=0.5, save_total_limit=9)
    update(trainer)
    return trainer


def update(trainer):
    """Do one update."""
    trainer.train_step(make_batch(trainer.progress.step))
    trainer.progress.step += 1


def resumed(tmp_path, processor, trainer, step: int, **options):
    """A new run that has taken over the checkpoint of a step."""
    other = build(
        tmp_path, small_model(logit_bias_init_value=-5.0), processor, ema_decay=0.5, **options
    )
    path = trainer.checkpoints.folder / f"step-{step:08d}"
    other.load(path, check_whole(path))
    return other


@pytest.mark.parametrize("options", [{}, {"optim": "muon"}, {"optim": "adafactor"}], ids=str)
def test_a_run_goes_on_from_what_was_saved_in_the_background(tmp_path, processor, options):
    trainer = build(tmp_path, processor=processor, ema_decay=0.5, **options)
    update(trainer)
    update(trainer)
    trainer.save(is_awaited=False)
    update(trainer)  # changes the weights in place, while they are written
    trainer.writer.wait()
    other = resumed(tmp_path, processor, trainer, 2, **options)
    update(other)
    assert_same_weights(other.unwrapped(), trainer.unwrapped(), rtol=0, atol=0)
    torch.testing.assert_close(other.average.tensors(), trainer.average.tensors(), rtol=0, atol=0)


def test_a_background_save_that_fails_ends_the_run_at_the_next_one(trainer):
    trainer.checkpoints.folder.mkdir(parents=True)
    (trainer.checkpoints.folder / "step-00000001").write_text("in the way")
    trainer.save(is_awaited=False)
    update(trainer)
    with pytest.raises(SaveError, match=r"cannot save the checkpoint .*step-00000001: .*untouched"):
        trainer.save(is_awaited=False)
    assert trainer.checkpoints.names() == []


def test_a_background_save_that_fails_does_not_keep_the_last_one_from_being_saved(trainer, caplog):
    trainer.checkpoints.folder.mkdir(parents=True)
    (trainer.checkpoints.folder / "step-00000001").write_text("in the way")
    trainer.save(is_awaited=False)
    update(trainer)
    with caplog.at_level(logging.WARNING):
        trainer.save(is_awaited=True)
    assert "cannot save the checkpoint" in caplog.text
    assert trainer.checkpoints.names() == ["step-00000002"]


def test_a_run_that_ends_early_completes_what_is_in_the_background(trainer):
    trainer.save(is_awaited=False)
    trainer.max_steps = 0
    trainer.run()
    assert trainer.checkpoints.names() == ["step-00000001"]


def test_in_the_background_or_not_a_checkpoint_has_the_same_files(trainer, tmp_path):
    contents = []
    for is_awaited in (False, True):
        path = trainer.save(is_awaited)
        trainer.writer.wait()
        contents.append(check_whole(trainer.checkpoints.folder / path.rsplit("/", 1)[1])["files"])
    assert contents[0] == contents[1]
    assert {"model.safetensors", "optimizer.safetensors", "average.safetensors"} < set(contents[0])


def is_refused(folder, share: slice) -> bool:
    """Whether a process that checks a share of the files finds one that is damaged."""
    try:
        check_whole(folder, share)
    except CheckpointError:
        return True
    return False


def test_of_three_processes_one_finds_each_damaged_file(trainer):
    path = trainer.save(is_awaited=True)
    folder = trainer.checkpoints.folder / path.rsplit("/", 1)[1]
    for file in check_whole(folder)["files"]:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refusals = [is_refused(folder, slice(process, None, 3)) for process in range(3)]
        assert sorted(refusals) == [False, False, True], file
        (folder / file).write_bytes(content)
