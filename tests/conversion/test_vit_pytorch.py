"""vit-pytorch's ViT and SimpleViT, and its older forms, as image classifiers of ours."""

import pytest
import torch
import vit_pytorch
from torch import nn
from vit_pytorch.simple_vit import SimpleViT
from vit_pytorch.simple_vit_with_register_tokens import SimpleViT as RegisterViT

from modeling_clip_vit import ClipVitForImageClassification
from modeling_clip_vit.conversion import ConversionError, from_vit_pytorch
from tests.support.models import make_images
from tests.support.peers import assert_same_gradient, stir

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "mlp_dim": 64,
}
LARGER = {"dim": 48, "depth": 3, "heads": 3, "dim_head": 24, "mlp_dim": 100, "image_size": 40}
PEERS = {
    "cls": (vit_pytorch.ViT, {}),
    "cls, larger": (vit_pytorch.ViT, LARGER),
    "mean": (vit_pytorch.ViT, {"pool": "mean"}),
    "mean, larger": (vit_pytorch.ViT, {"pool": "mean", **LARGER}),
    "one head of full width": (vit_pytorch.ViT, {"heads": 1, "dim_head": 32}),
    "one channel": (vit_pytorch.ViT, {"channels": 1}),
    "simple": (SimpleViT, {}),
    "simple, larger": (SimpleViT, LARGER),
}


def make_peer(name: str):
    kind, options = PEERS[name]
    torch.manual_seed(0)
    return stir(kind(**{**SIZES, **options}))


def age(peer: vit_pytorch.ViT) -> nn.Module:
    """The form of older versions: patches without norms, wrapped branches, a norm in the head."""

    class PreNorm(nn.Module):
        def __init__(self, norm, fn):
            super().__init__()
            self.norm, self.fn = norm, fn

        def forward(self, x):
            return self.fn(self.norm(x))

    for layer in peer.transformer.layers:
        attention, feed_forward = layer
        norms = attention.norm, feed_forward.net[0]
        attention.norm, feed_forward.net = nn.Identity(), feed_forward.net[1:]
        layer[0], layer[1] = PreNorm(norms[0], attention), PreNorm(norms[1], feed_forward)
    peer.mlp_head = nn.Sequential(peer.transformer.norm, peer.mlp_head)
    peer.transformer.norm = nn.Identity()
    peer.to_patch_embedding = nn.Sequential(peer.to_patch_embedding[0], peer.to_patch_embedding[2])
    return peer


def assert_same(peer, channels: int = 3) -> ClipVitForImageClassification:
    """Same logits and gradients."""
    ours = from_vit_pytorch(peer)
    images = make_images(3, ours.config.image_size)[:, :channels]
    mine, theirs = ours(images).logits, peer(images)
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    for logits in (mine, theirs):
        logits.log_softmax(dim=1)[:, 0].sum().backward()
    weights = dict(peer.named_parameters())
    first = next(name for name in weights if name.endswith("to_qkv.weight"))
    attention = ours.vision_model.encoder.layers[0].attention
    assert_same_gradient(attention.qkv_proj.weight, weights[first])
    head = next(name for name in reversed(weights) if name.endswith(".weight"))
    assert_same_gradient(ours.classifier.weight, weights[head])
    return ours


@pytest.mark.parametrize("name", PEERS)
def test_a_classifier_computes_the_same(name):
    ours = assert_same(make_peer(name), PEERS[name][1].get("channels", 3))
    assert ours.config.final_norm == "before_pooling"


@pytest.mark.parametrize("name", PEERS)
def test_a_converted_classifier_loads_as_it_was_saved(name, tmp_path):
    ours = from_vit_pytorch(make_peer(name))
    ours.save_pretrained(tmp_path)
    again = ClipVitForImageClassification.from_pretrained(tmp_path)
    assert again.config.num_labels == 5
    images = torch.randn(2, ours.config.num_channels, *[ours.config.image_size] * 2)
    assert torch.equal(again(images).logits, ours(images).logits)


@pytest.mark.parametrize("name", ["cls", "cls, larger", "mean", "mean, larger"])
def test_the_form_of_older_versions_computes_the_same(name):
    ours = assert_same(age(make_peer(name)))
    assert ours.config.final_norm == "after_pooling"
    assert ours.config.patch_embedding == "conv"


def test_older_versions_average_the_class_token_too():
    peer = make_peer("cls")
    peer.pool = "mean"
    assert assert_same(peer).config.pool_prefix_tokens


def test_a_missing_layer_after_attention_is_the_identity():
    ours = from_vit_pytorch(make_peer("one head of full width"))
    layer = ours.vision_model.encoder.layers[0].attention.out_proj
    assert torch.equal(layer.weight, torch.eye(32))
    assert not layer.bias.any()


def test_dropouts_are_kept():
    options = {"dropout": 0.2, "emb_dropout": 0.1}
    config = from_vit_pytorch(vit_pytorch.ViT(**SIZES, **options)).config
    rates = config.embedding_dropout, config.attention_dropout, config.hidden_dropout
    assert rates == (0.1, 0.2, 0.2)


def test_a_model_in_half_precision_stays_so():
    assert from_vit_pytorch(make_peer("cls").to(torch.bfloat16)).dtype == torch.bfloat16


def test_a_conversion_leaves_the_source_as_it_was():
    peer = make_peer("cls").to(torch.bfloat16).train()
    from_vit_pytorch(peer)
    assert peer.training
    assert {weight.dtype for weight in peer.parameters()} == {torch.bfloat16}
    peer(make_images(1).to(torch.bfloat16)).sum().backward()
    assert all(weight.grad is not None for weight in peer.parameters())


def with_two_norms() -> nn.Module:
    peer = make_peer("cls")
    peer.mlp_head = nn.Sequential(nn.LayerNorm(32), peer.mlp_head)
    return peer


#: What the error names -> what is not converted.
UNREADABLE = {
    "without a place: register_tokens": lambda: RegisterViT(**SIZES),
    "head of type NoneType is no linear classifier": lambda: vit_pytorch.ViT(
        **{**SIZES, "num_classes": 0}
    ),
    "Linear is not built as vit-pytorch's ViT": lambda: nn.Linear(3, 3),
    "no checkpoints with a configuration": lambda: "folder",
    "norm before pooling and another after it": with_two_norms,
}


@pytest.mark.parametrize("sentence", UNREADABLE)
def test_another_model_is_rejected(sentence):
    with pytest.raises(ConversionError, match=sentence):
        from_vit_pytorch(UNREADABLE[sentence]())


def with_another_scale() -> nn.Module:
    peer = make_peer("cls")
    peer.transformer.layers[1][0].scale *= 2
    return peer


def with_other_positions() -> nn.Module:
    peer = make_peer("simple")
    peer.pos_embedding = peer.pos_embedding.flip(0)
    return peer


@pytest.mark.parametrize("make", [with_another_scale, with_other_positions])
def test_weights_of_the_same_names_that_compute_something_else_are_found_out(make):
    with pytest.raises(ConversionError, match="differs in logits"):
        from_vit_pytorch(make())
