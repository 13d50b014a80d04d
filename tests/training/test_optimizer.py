"""Parameter groups, layer-wise learning-rate decay and schedules."""

import pytest
import torch

from modeling_clip_vit.training.arguments import OptimizerOptions
from modeling_clip_vit.training.optimizer import (
    build_optimizer,
    build_schedule,
    learning_rate_scales,
)
from tests.support.models import small_model


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_the_learning_rate_falls_with_depth(optim):
    model = small_model()
    scales = learning_rate_scales(model, 0.5)
    tower = model.text_model
    assert scales[id(tower.embeddings.token_embedding.weight)] == 0.5**3
    assert scales[id(tower.encoder.layers[0].norm1.weight)] == 0.5**2
    assert scales[id(tower.encoder.layers[1].norm1.weight)] == 0.5
    assert scales[id(tower.final_norm.weight)] == 1
    options = OptimizerOptions(optim=optim, layer_decay=0.5, learning_rate=1e-3)
    optimizer = build_optimizer(model, options)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rate[id(tower.embeddings.token_embedding.weight)] == pytest.approx(1e-3 / 8)
    assert rate[id(model.similarity.logit_scale)] == pytest.approx(1e-3)
    matrix = 0.02 if optim == "muon" else 1e-3
    weights = [tower.encoder.layers[0].attention.qkv_proj.weight, model.text_projection.weight]
    assert [rate[id(w)] for w in weights] == pytest.approx([matrix / 4, matrix])
    counted = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(counted) == len(set(counted)) == len(list(model.parameters()))
    without = build_optimizer(model, OptimizerOptions(optim=optim))
    assert len(without.param_groups) == 2


def test_the_stable_schedule_is_constant_and_falls_to_0_over_its_last_part():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    options = OptimizerOptions(
        lr_scheduler_type="warmup_stable_decay", warmup_ratio=0.2, decay_ratio=0.3
    )
    schedule = build_schedule(optimizer, options, max_steps=10)
    rates = []
    for _ in range(10):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:2] == pytest.approx([0, 0.5])
    assert rates[2:8] == pytest.approx([1.0] * 6)
    assert rates[8:] == sorted(rates[8:], reverse=True)
    assert max(rates[8:]) < 1
    assert schedule.get_last_lr()[0] == pytest.approx(0, abs=1e-6)
