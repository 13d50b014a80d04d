"""The memory format that a run gives its weights, and whether it packs texts."""

import pytest
import torch

from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.kernels import choose_kernels, choose_packing
from tests.support.models import small_model


@pytest.mark.parametrize("is_sharded", [False, True])
def test_convolutions_have_channels_last_unless_fsdp_shards_them(is_sharded):
    """FSDP2 takes contiguous weights only."""
    model = small_model(vision={"patch_embedding": "conv_stem"})
    choose_kernels(model, TrainArguments(), torch.device("cpu"), "no", is_sharded)
    kernel = model.vision_model.embeddings.patch_embedding.stem[0].weight
    assert kernel.is_contiguous() == is_sharded
    assert all(weight.is_contiguous() for weight in model.parameters()) == is_sharded


@pytest.mark.parametrize(
    ("device_type", "option", "is_packed"),
    [
        ("cpu", "", True),
        ("cuda", "", True),
        ("mps", "", False),
        ("cuda", "--torch_compile=true", False),
        ("cuda", "--pack_texts=false", False),
    ],
)
def test_texts_are_packed_where_that_is_faster_and_possible(device_type, option, is_packed):
    args = parse_arguments([option] if option else [])
    assert choose_packing(args, small_model().text_model, device_type) == is_packed
