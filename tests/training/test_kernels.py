"""The memory format that a run gives its weights."""

import pytest
import torch

from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.kernels import choose_kernels
from tests.support.models import small_model


@pytest.mark.parametrize("is_sharded", [False, True])
def test_convolutions_have_channels_last_unless_fsdp_shards_them(is_sharded):
    """FSDP2 takes contiguous weights only."""
    model = small_model(vision={"patch_embedding": "conv_stem"})
    choose_kernels(model, TrainArguments(), torch.device("cpu"), "no", is_sharded)
    kernel = model.vision_model.embeddings.patch_embedding.stem[0].weight
    assert kernel.is_contiguous() == is_sharded
    assert all(weight.is_contiguous() for weight in model.parameters()) == is_sharded
