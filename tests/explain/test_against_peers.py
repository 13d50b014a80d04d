"""Explanations of converted models are those that other libraries compute with the originals."""

import sys
import types

import numpy as np
import open_clip
import pytest
import torch
from captum.attr import IntegratedGradients, Occlusion
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from modeling_clip_vit.conversion import from_open_clip
from modeling_clip_vit.explain.explain import explain
from modeling_clip_vit.explain.match import Match, prepare
from modeling_clip_vit.explain.methods import legrad
from modeling_clip_vit.explain.methods.integrated_gradients import explain_picture as integrate
from modeling_clip_vit.explain.methods.occlusion import explain_picture as occlude
from modeling_clip_vit.inference.loading import TorchEncoder
from tests.support.matches import noise
from tests.support.peers import NARROW, TEXT_TOWER, open_clip_model, stir
from tests.support.releases import install, releases_folder
from tests.support.transformers_peers import MODELS, converters, make_processor

LEGRAD = "legrad_torch==1.1"


def siglip():
    """Attention pooling, as timm has it."""
    vision = {
        "timm_model_name": "vit_narrow_patch8_siglip_32",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 32,
    }
    text = {**TEXT_TOWER, "pool_type": "last", "proj_type": "none"}
    return open_clip.CustomTextCLIP(32, vision, text)


#: Name -> a small model of open_clip.
PEERS = {"cls": lambda: open_clip_model(3, NARROW), "map": siglip}


@pytest.fixture(params=PEERS)
def peer(request):
    torch.manual_seed(0)
    return stir(PEERS[request.param]())


@pytest.fixture
def match(peer, processor) -> Match:
    """A picture and a text as the converted model sees them."""
    encoder = TorchEncoder(from_open_clip(peer).eval(), processor)
    return prepare(encoder, noise(), "a red square", grid=4)


def score(peer, match: Match):
    """The cosine that the original computes."""
    return lambda pixels: F.normalize(peer.encode_image(pixels), dim=-1) @ match.text_embeds[0]


def test_integrated_gradients_are_those_of_the_original(peer, match):
    expected = IntegratedGradients(score(peer, match)).attribute(
        match.pixels, match.blank_pixels, n_steps=8, method="gausslegendre"
    )
    assert_close(
        integrate(match).values, match.cells.sum(expected[0].detach()), atol=1e-5, rtol=1e-3
    )


def test_occlusion_is_that_of_the_original(peer, match):
    expected = Occlusion(score(peer, match)).attribute(
        match.pixels,
        sliding_window_shapes=(3, 16, 16),
        strides=(3, 8, 8),
        baselines=match.blank_pixels,
    )
    assert_close(occlude(match).values, expected[0, 0, ::8, ::8].detach(), atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def legrad_torch():
    """The authors' package. It asks for an old open_clip, so pip installs it without its needs."""
    target = releases_folder() / LEGRAD.replace("==", "-")
    install(target, LEGRAD, with_needs=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(target))
        # It draws with OpenCV, which no computation needs.
        patch.setitem(sys.modules, "cv2", types.ModuleType("cv2"))
        import legrad as package

        yield package


@pytest.mark.slow
@pytest.mark.parametrize("layers", [None, 2], ids=["all blocks", "the last two"])
def test_legrad_is_that_of_its_authors(peer, match, legrad_torch, layers):
    values = legrad.explain_picture(match, layers).values
    wrapper = legrad_torch.LeWrapper(peer, layer_index=0 if layers is None else -layers)
    if isinstance(peer, open_clip.CLIP):
        for block in peer.visual.transformer.resblocks:
            block.attn.batch_first = False  # as in the open_clip that it was written for
        expected = wrapper.compute_legrad_clip(match.text_embeds, match.pixels)
    else:
        expected = wrapper.compute_legrad_siglip(
            match.text_embeds, match.pixels, apply_correction=False
        )
    # Theirs are enlarged and scaled to the range from 0 to 1, in this order for the first.
    ours = F.interpolate(values[None, None], scale_factor=8, mode="bilinear")[0, 0]
    low, high = (ours.min(), ours.max())
    if not isinstance(peer, open_clip.CLIP):
        low, high = values.min(), values.max()
    assert_close((ours - low) / (high - low), expected[0, 0].detach(), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_model_of_two_towers_is_explained(name):
    """As it is converted, with its own processor: texts without masks, patches of any shape."""
    torch.manual_seed(0)
    convert, _ = converters(name)
    encoder = TorchEncoder(convert(stir(MODELS[name]())).eval(), make_processor(name))
    found = explain(encoder, noise(48, 32), "a red square", words_method="integrated_gradients")
    reference = explain(encoder, noise(48, 32), "a red square", "occlusion", "occlusion")
    for one in (found, reference):
        assert one.patches.shape == reference.patches.shape
        assert np.abs(one.patches).max() > 0
        assert [word.text for word in one.words] == ["a", "red", "square"]
        assert max(abs(word.value) for word in one.words) > 0
    assert found.cosine == pytest.approx(found.patches.sum() + found.patches_rest, abs=1e-5)
