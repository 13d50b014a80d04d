"""Updates that are skipped, and the running mean of the weights."""

import logging
import math

import pytest
import torch
from torch import nn

from modeling_clip_vit.training.averaging import WeightAverage
from modeling_clip_vit.training.guard import TrainingError, UpdateGuard


def test_what_is_not_a_number_is_skipped_and_a_streak_of_it_ends_the_run(caplog):
    guard = UpdateGuard(max_spike=0, max_skipped=3)
    assert guard.accepts(1, 2.0, 5.0)
    with caplog.at_level(logging.WARNING):
        assert not guard.accepts(2, math.nan, 1.0)
        assert not guard.accepts(3, 2.0, math.inf)
    assert "update 2 is skipped: the loss is nan (1 in a row; 3 end the run)" in caplog.text
    assert guard.accepts(4, 2.0, 1.0)  # the streak is over
    assert not guard.accepts(5, math.nan, math.nan)
    assert not guard.accepts(6, math.nan, math.nan)
    with pytest.raises(TrainingError, match="stopped at update 7: the loss is nan"):
        guard.accepts(7, math.nan, math.nan)
    assert guard.skipped == 5


def test_a_spike_is_told_from_the_usual_and_a_resumed_guard_judges_alike():
    guard = UpdateGuard(max_spike=4, max_skipped=10)
    assert guard.accepts(0, 1.0, 100.0)  # nothing is usual yet
    assert all(guard.accepts(step, 1.0, 2.0) for step in range(1, 200))
    again = UpdateGuard(max_spike=4, max_skipped=10)
    again.load_state_dict(guard.state_dict())
    for one in (guard, again):
        assert one.accepts(200, 1.0, 7.0)
        assert not one.accepts(201, 1.0, 12.0)
        assert one.accepts(202, 1.0, 3.0)
    assert vars(guard) == vars(again)


def test_the_mean_follows_the_formula_and_leaves_the_weights_alone():
    model = nn.Linear(2, 2)
    model.bias.requires_grad = False
    average = WeightAverage(model, decay=0.9)
    expected = model.weight.detach().clone()
    for update in range(1, 120):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update()
        decay = min(0.9, update / (update + 9))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    live = model.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
    assert torch.equal(model.weight, live)
    assert list(average.state_dict()) == ["weight"]
    # Weights that grow by 1 an update are ahead of their mean by decay / (1 - decay).
    torch.testing.assert_close(live - expected, torch.full_like(live, 9.0), atol=0.5, rtol=0)
