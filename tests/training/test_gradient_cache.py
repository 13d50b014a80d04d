"""The gradient cache: the gradients of the whole batch, dropout included."""

import pytest
import torch
from torch.testing import assert_close

from modeling_clip_vit.losses import MultiPositiveLoss, SigLipLoss
from modeling_clip_vit.training.gradient_cache import cached_backward, cut, refuse_batch_norm
from tests.support.models import make_images, make_texts, small_model


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("part_size", [1, 3, 7, 20])
def test_the_gradients_are_those_of_the_whole_batch(part_size):
    model = small_model(logit_bias_init_value=-3.0).double().train()
    inputs = {"pixel_values": make_images(7).double(), **make_texts([4, 7, 6, 5, 3])}
    ids = torch.tensor([0, 1, 2, 3, 4, 0, 1]), torch.arange(5)
    criterion = SigLipLoss()

    def loss(*embeds_and_scale):
        return criterion(*embeds_and_scale, targets=ids), "more"

    outputs = model(**inputs)
    scale, bias = model.get_logit_scale(), model.get_logit_bias()
    expected, _ = loss(outputs.image_embeds, outputs.text_embeds, scale, bias)
    expected.backward()
    whole = gradients(model)
    model.zero_grad()
    parts = cut(inputs, part_size)
    assert len(parts) == min(-(-7 // part_size), 5)
    value, more = cached_backward(model, model.similarity, parts, loss)
    assert more == "more"
    assert_close(value, expected.detach())
    cached = gradients(model)
    assert cached.keys() == whole.keys()
    for name, gradient in whole.items():
        assert_close(cached[name], gradient, atol=1e-12, rtol=1e-9)


def test_dropout_is_the_same_in_both_passes():
    """With dropout, a part's second pass must repeat its first: then the loss can be rebuilt."""
    model = small_model(
        vision={"drop_path_rate": 0.3, "hidden_dropout": 0.2, "patch_dropout": 0.3},
        text={"attention_dropout": 0.2, "attention_gate": "elementwise", "value_residual": True},
    )
    model = model.double().train()
    inputs = {"pixel_values": make_images(6).double(), **make_texts([5] * 6)}
    parts, criterion = cut(inputs, 2), MultiPositiveLoss()

    def loss(images, texts, scale, bias):
        return criterion(images, texts, scale), None

    torch.manual_seed(3)
    embeds = [model(**part) for part in parts]
    images = torch.cat([outputs.image_embeds for outputs in embeds])
    texts = torch.cat([outputs.text_embeds for outputs in embeds])
    loss(images, texts, model.get_logit_scale(), None)[0].backward()
    whole, after = gradients(model), torch.rand(1)
    model.zero_grad()
    torch.manual_seed(3)
    cached_backward(model, model.similarity, parts, loss)
    for name, gradient in gradients(model).items():
        assert_close(gradient, whole[name], atol=1e-12, rtol=1e-9)
    assert torch.equal(torch.rand(1), after)


@pytest.mark.parametrize("vision", [{"norm_type": "batchnorm"}, {"patch_embedding": "conv_stem"}])
def test_batch_norm_is_refused_unless_it_is_frozen(vision):
    model = small_model(vision)
    with pytest.raises(ValueError, match=r"cannot cut a batch that vision_model\..*BatchNorm"):
        refuse_batch_norm(model)
    model.vision_model.requires_grad_(False)
    refuse_batch_norm(model)
