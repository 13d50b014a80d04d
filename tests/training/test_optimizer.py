"""Parameter groups, layer-wise learning-rate decay and schedules."""

import pytest
import torch

from modeling_clip_vit.training.optimizer import (
    build_optimizer,
    build_schedule,
    learning_rate_scales,
)
from modeling_clip_vit.training.options import OptimizerOptions
from tests.support.models import small_model


def test_the_scale_of_the_learning_rate_falls_with_depth():
    model = small_model()
    scales = learning_rate_scales(model, 0.5)
    tower = model.text_model
    weights = [
        tower.embeddings.token_embedding.weight,
        tower.encoder.layers[0].norm1.weight,
        tower.encoder.layers[1].norm1.weight,
        tower.final_norm.weight,
    ]
    assert [scales[id(weight)] for weight in weights] == [0.5**3, 0.5**2, 0.5, 1]


@pytest.mark.parametrize(("optim", "matrix_rate"), [("adamw", 1e-3), ("muon", 0.02)])
def test_each_weight_has_the_rate_of_its_kind_and_depth(optim, matrix_rate):
    model = small_model()
    tower = model.text_model
    options = OptimizerOptions(optim=optim, layer_decay=0.5, learning_rate=1e-3)
    optimizer = build_optimizer(model, options)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        tower.embeddings.token_embedding.weight: 1e-3 / 8,
        model.similarity.logit_scale: 1e-3,
        tower.encoder.layers[0].attention.qkv_proj.weight: matrix_rate / 4,
        model.text_projection.weight: matrix_rate,
    }
    actual = {weight: rates[id(weight)] for weight in expected}
    assert actual == pytest.approx(expected)


@pytest.mark.parametrize("layer_decay", [0.5, 1.0])
def test_each_weight_is_in_one_group(layer_decay):
    model = small_model()
    optimizer = build_optimizer(model, OptimizerOptions(layer_decay=layer_decay))
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_without_layer_decay_there_are_matrices_and_the_rest(optim):
    optimizer = build_optimizer(small_model(), OptimizerOptions(optim=optim))
    assert len(optimizer.param_groups) == 2


@pytest.fixture(scope="module")
def stable_rates() -> list[float]:
    """The rates of 10 updates: 2 of warm-up, 5 of the peak, 3 of decay; and the one after them."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    options = OptimizerOptions(
        lr_scheduler_type="warmup_stable_decay", warmup_ratio=0.2, decay_ratio=0.3
    )
    schedule = build_schedule(optimizer, options, max_steps=10)
    rates = schedule.get_last_lr()
    for _ in range(10):
        optimizer.step()
        schedule.step()
        rates = rates + schedule.get_last_lr()
    return rates


def test_the_stable_schedule_rises_from_0(stable_rates):
    assert stable_rates[:2] == pytest.approx([0, 0.5])


def test_the_stable_schedule_is_constant_then(stable_rates):
    assert stable_rates[2:8] == pytest.approx([1.0] * 6)


def test_the_stable_schedule_falls_to_0_over_its_last_part(stable_rates):
    assert 1 > stable_rates[8] > stable_rates[9] > stable_rates[10]
    assert stable_rates[10] == pytest.approx(0, abs=1e-6)
