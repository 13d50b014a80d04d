"""Random states that a checkpoint keeps, and that Accelerate restores or silently does not."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils.other import load

from modeling_clip_vit.training.checkpoints import load_checkpoint


@pytest.fixture
def saved(tmp_path):
    """An accelerator, its checkpoint, and the random states in it."""
    accelerator = Accelerator(cpu=True)
    accelerator.save_state(str(tmp_path))
    return accelerator, tmp_path, tmp_path / "random_states_0.pkl"


def test_random_states_that_are_restored_are_not_spoken_of(saved, caplog):
    accelerator, path, _ = saved
    torch.rand(3)
    load_checkpoint(accelerator, path)
    assert caplog.text == ""


def test_random_states_that_are_not_restored_are_warned_of(saved, caplog):
    accelerator, path, file = saved
    states = load(file)
    del states["numpy_random_seed"]  # Accelerate gives up here, and says nothing
    torch.save(states, file)
    torch.rand(3)
    load_checkpoint(accelerator, path)
    assert "are not restored" in caplog.text
