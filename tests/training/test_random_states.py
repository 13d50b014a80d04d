"""Random states that a checkpoint keeps, and that Accelerate restores or silently does not."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils.other import load as load_file
from torch import nn

from modeling_clip_vit.training.checkpoint_reader import load_checkpoint


def load(accelerator: Accelerator, path):
    """Resume from a checkpoint of a model without weights."""
    model = nn.Identity()
    load_checkpoint(accelerator, path, model, torch.optim.SGD([torch.zeros(1)]))


@pytest.fixture
def saved(tmp_path):
    """An accelerator, its checkpoint, and the random states in it."""
    accelerator = Accelerator(cpu=True)
    accelerator.save_state(str(tmp_path))
    return accelerator, tmp_path, tmp_path / "random_states_0.pkl"


def test_random_states_that_are_restored_are_not_spoken_of(saved, caplog):
    accelerator, path, _ = saved
    torch.rand(3)
    load(accelerator, path)
    assert caplog.text == ""


def test_random_states_that_are_not_restored_are_warned_of(saved, caplog):
    accelerator, path, file = saved
    states = load_file(file)
    del states["numpy_random_seed"]  # Accelerate gives up here, and says nothing
    torch.save(states, file)
    torch.rand(3)
    load(accelerator, path)
    assert "are not restored" in caplog.text
