"""Updates that are skipped, and the running mean of the weights."""

import logging
import math

import pytest
import torch
from torch import nn

from modeling_clip_vit.training.averaging import WeightAverage
from modeling_clip_vit.training.guard import DeviceGuard, TrainingError, UpdateGuard


@pytest.mark.parametrize(
    ("loss", "norm", "reason"),
    [(math.nan, 1.0, "the loss is nan"), (2.0, math.inf, "the gradient norm is inf")],
)
def test_what_is_not_finite_is_skipped_with_the_reason(loss, norm, reason, caplog):
    guard = UpdateGuard(max_spike=0, max_skipped=3)
    with caplog.at_level(logging.WARNING):
        assert not guard.accepts(2, loss, norm)
    assert f"update 2 is skipped: {reason} (1 in a row; 3 end the run)" in caplog.text


def test_too_many_skipped_updates_in_a_row_end_the_run():
    guard = UpdateGuard(max_spike=0, max_skipped=3)
    for step in (1, 2):
        assert not guard.accepts(step, math.nan, math.nan)
    assert guard.accepts(3, 2.0, 1.0)  # the streak is over
    for step in (4, 5):
        assert not guard.accepts(step, math.nan, math.nan)
    with pytest.raises(TrainingError, match="stopped at update 6: the loss is nan"):
        guard.accepts(6, math.nan, math.nan)


def test_skipped_updates_are_counted():
    guard = UpdateGuard(max_spike=0, max_skipped=3)
    for loss in (math.nan, 1.0, math.inf):
        guard.accepts(1, loss, 1.0)
    assert guard.skipped == 2


def settled_guard() -> UpdateGuard:
    """A guard that has seen many gradients of norm 2, after a long first one."""
    guard = UpdateGuard(max_spike=4, max_skipped=10)
    for norm in (100.0, *[2.0] * 199):
        assert guard.accepts(0, 1.0, norm)
    return guard


@pytest.mark.parametrize(("norm", "is_accepted"), [(3.0, True), (7.0, True), (12.0, False)])
def test_a_spike_is_more_than_a_multiple_of_the_usual_norm(norm, is_accepted):
    assert settled_guard().accepts(200, 1.0, norm) == is_accepted


def test_a_resumed_guard_goes_on_as_the_first():
    guard, again = settled_guard(), UpdateGuard(max_spike=4, max_skipped=10)
    again.load_state_dict(guard.state_dict())
    for norm in (7.0, 12.0, 3.0):
        assert again.accepts(200, 1.0, norm) == guard.accepts(200, 1.0, norm)
    assert vars(guard) == vars(again)


def make_updates(seed: int) -> list[tuple[float, float]]:
    """Losses and norms of a run with spikes, and with some that are no numbers."""
    generator = torch.Generator().manual_seed(seed)
    values = (2 + torch.randn(300, 2, generator=generator)).abs()
    values[::23, 1] *= 20
    values[::41, 0] = torch.nan
    values[::67, 1] = torch.inf
    return values.tolist()


@pytest.mark.parametrize("max_spike", [0, 3.0])
def test_a_device_decides_as_the_guard(max_spike):
    guard, told = (UpdateGuard(max_spike, max_skipped=300) for _ in range(2))
    device_guard = DeviceGuard(told, torch.device("cpu"))
    for step, (loss, norm) in enumerate(make_updates(0)):
        refused = device_guard.refuses(step, torch.tensor(loss), torch.tensor(norm))
        assert bool(refused) != guard.accepts(step, loss, norm)
    assert guard.skipped > 10
    device_guard.settle()
    assert vars(told) == vars(guard)


def test_what_a_device_skipped_is_named_when_it_is_asked(caplog):
    device_guard = DeviceGuard(UpdateGuard(max_spike=0, max_skipped=3), torch.device("cpu"))
    for step, loss in ((1, 1.0), (2, math.nan), (3, 1.0)):
        device_guard.refuses(step, torch.tensor(loss), torch.tensor(1.0))
    assert not caplog.text
    device_guard.settle()
    assert "update 2 is skipped: the loss is nan (1 in a row; 3 end the run)" in caplog.text


def test_too_many_updates_that_a_device_skipped_in_a_row_end_the_run():
    device_guard = DeviceGuard(UpdateGuard(max_spike=0, max_skipped=2), torch.device("cpu"))
    for step, loss in ((1, math.nan), (2, math.nan), (3, 1.0)):
        device_guard.refuses(step, torch.tensor(loss), torch.tensor(1.0))
    with pytest.raises(TrainingError, match="stopped at update 2: the loss is nan"):
        device_guard.settle()


def averaged(model: nn.Linear, updates: int) -> tuple[WeightAverage, torch.Tensor]:
    """The average of weights that grow by 1 with each update, and what it should be."""
    average = WeightAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for update in range(1, updates + 1):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update()
        decay = min(0.9, update / (update + 9))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    return average, expected


def test_the_mean_follows_the_formula():
    model = nn.Linear(2, 2)
    average, expected = averaged(model, 120)
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)


def test_the_mean_is_behind_by_what_its_decay_says():
    model = nn.Linear(2, 2)
    average, _ = averaged(model, 120)
    behind = model.weight.detach() - average.tensors()["weight"]
    # decay / (1 - decay) updates.
    torch.testing.assert_close(behind, torch.full_like(behind, 9.0), atol=0.5, rtol=0)


def test_the_weights_are_themselves_again_after_the_mean_was_applied():
    model = nn.Linear(2, 2)
    average, _ = averaged(model, 3)
    live = model.weight.detach().clone()
    with average.applied():
        assert not torch.equal(model.weight, live)
    assert torch.equal(model.weight, live)


def test_what_is_frozen_has_no_mean():
    model = nn.Linear(2, 2)
    model.bias.requires_grad = False
    assert list(WeightAverage(model, decay=0.9).tensors()) == ["weight"]
