"""How DistributedDataParallel is set up: what is broadcast, and what is rejected."""

import pytest
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn

from modeling_clip_vit.training.ddp import build_ddp_handler, check_ddp, has_local_buffers
from modeling_clip_vit.training.options import OptimizerOptions
from modeling_clip_vit.utils.errors import UserError
from tests.support.models import small_model


def test_buffers_that_are_the_same_everywhere_are_not_broadcast():
    ours = small_model({"norm_type": "batchnorm", "patch_embedding": "conv_stem"})
    assert any("running_mean" in name for name, _ in ours.named_buffers())
    assert not has_local_buffers(ours)
    assert has_local_buffers(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def test_nothing_is_said_of_buffers_to_a_model_without_them():
    handler = build_ddp_handler(OptimizerOptions(), small_model(), None)
    assert "broadcast_buffers" not in handler.to_kwargs()


def test_gradients_are_views_unless_some_weights_may_have_none():
    model, options = small_model(), OptimizerOptions()
    assert build_ddp_handler(options, model, None).gradient_as_bucket_view
    chosen = DistributedDataParallelKwargs(find_unused_parameters=True)
    handler = build_ddp_handler(options, model, chosen)
    assert handler.find_unused_parameters
    assert not handler.gradient_as_bucket_view


@pytest.mark.parametrize(
    ("strategy", "name"),
    [(DistributedType.FSDP, "FSDP2"), (DistributedType.DEEPSPEED, "DeepSpeed")],
)
def test_a_hook_is_rejected_under_another_strategy(strategy, name):
    with pytest.raises(UserError, match=f"ddp_comm_hook='bf16' is not allowed with {name}, "):
        check_ddp(OptimizerOptions(ddp_comm_hook="bf16"), strategy)
    check_ddp(OptimizerOptions(), strategy)
    check_ddp(OptimizerOptions(ddp_comm_hook="bf16"), DistributedType.MULTI_CPU)
