"""Conversion to and from the installed peers: same outputs, same gradients, nothing lost."""

import open_clip
import pytest
import timm
import torch
from conftest import MISFITS, make_images, small_model, spoil
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize
from transformers import AutoProcessor, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from modeling_clip_vit import ClipVitModel, ClipVitVisionConfig, ClipVitVisionModel
from modeling_clip_vit.cli import main
from modeling_clip_vit.conversion import (
    ConversionError,
    from_hf_clip,
    from_hf_siglip,
    from_open_clip,
    from_timm_vit,
    to_hf_clip,
    to_hf_siglip,
    to_open_clip,
    to_timm_vit,
)
from modeling_clip_vit.conversion.verify import verify

WIDE = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 3}
NARROW = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}


def stir(model):
    """Random numbers in every weight: what starts as 0 or 1 would hide a mix-up."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make_ids(vocab_size: int, length: int = 12) -> torch.Tensor:
    """Texts that end in the largest id, as CLIP's do, without padding after it."""
    ids = torch.randint(3, vocab_size - 1, (3, length), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = vocab_size - 1
    return ids


def hf_clip(depth: int, sizes: dict) -> CLIPModel:
    return CLIPModel(
        CLIPConfig(
            vision_config={**sizes, "num_hidden_layers": depth, "image_size": 32, "patch_size": 8},
            text_config={**NARROW, "num_hidden_layers": 2, "vocab_size": 300, "eos_token_id": 299},
            projection_dim=24,
        )
    )


def hf_siglip(depth: int, sizes: dict) -> SiglipModel:
    return SiglipModel(
        SiglipConfig(
            vision_config={**sizes, "num_hidden_layers": depth, "image_size": 32, "patch_size": 8},
            text_config={
                **NARROW,
                "num_hidden_layers": 2,
                "vocab_size": 300,
                "max_position_embeddings": 12,
                "projection_size": sizes["hidden_size"],
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        )
    )


def open_clip_model(depth: int, sizes: dict, quick_gelu: bool = False):
    heads = sizes["num_attention_heads"]
    vision = {
        "layers": depth,
        "width": sizes["hidden_size"],
        "head_width": sizes["hidden_size"] // heads,
        "mlp_ratio": sizes["intermediate_size"] / sizes["hidden_size"],
        "patch_size": 8,
        "image_size": 32,
    }
    text = {"context_length": 12, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}
    return open_clip.CLIP(24, vision, text, quick_gelu=quick_gelu)


def open_clip_siglip():
    vision = {
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 32,
    }
    text = {
        "context_length": 12,
        "vocab_size": 300,
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    }
    return open_clip.CustomTextCLIP(768, vision, text, init_logit_bias=-10)


def logits_of(model, images, ids) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised embeddings and the logits that a model makes of them."""
    if isinstance(model, CLIPModel | SiglipModel | ClipVitModel):
        outputs = model(pixel_values=images, input_ids=ids)
        return outputs.image_embeds, outputs.text_embeds, outputs.logits_per_image
    image_embeds = model.encode_image(images, normalize=True)
    text_embeds = model.encode_text(ids, normalize=True)
    logits = model.logit_scale.exp() * image_embeds @ text_embeds.t()
    return image_embeds, text_embeds, logits + (0 if model.logit_bias is None else model.logit_bias)


JOINT = {
    "hf_clip, small": (lambda: hf_clip(2, NARROW), from_hf_clip, to_hf_clip),
    "hf_clip, wide": (lambda: hf_clip(3, WIDE), from_hf_clip, to_hf_clip),
    "hf_siglip, small": (lambda: hf_siglip(2, NARROW), from_hf_siglip, to_hf_siglip),
    "hf_siglip, wide": (lambda: hf_siglip(3, WIDE), from_hf_siglip, to_hf_siglip),
    "open_clip, small": (lambda: open_clip_model(2, NARROW), from_open_clip, to_open_clip),
    "open_clip, wide": (lambda: open_clip_model(3, WIDE, True), from_open_clip, to_open_clip),
    "open_clip, siglip": (open_clip_siglip, from_open_clip, None),
}


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_model_computes_the_same_and_comes_back_bit_equal(name):
    make, from_peer, to_peer = JOINT[name]
    torch.manual_seed(0)
    peer = stir(make())
    ours = from_peer(peer)
    images, ids = make_images(3, ours.config.vision_config.image_size), make_ids(300)
    mine, theirs = logits_of(ours, images, ids), logits_of(peer, images, ids)
    for a, b in zip(mine[:2], theirs[:2], strict=True):
        assert (a - b).abs().max() <= 1e-5
    assert (mine[2] - theirs[2]).abs().max() <= 1e-5 * theirs[2].abs().max()

    for logits in (mine[2], theirs[2]):
        logits.log_softmax(dim=1).diagonal().sum().backward()
    gradients = {key: p.grad for key, p in peer.named_parameters() if p.grad is not None}

    def gradient(*ends: str) -> torch.Tensor:
        return next(value for key, value in gradients.items() if key.endswith(ends))

    patches = ("patch_embedding.weight", "conv1.weight", "patch_embed.proj.weight")
    for mine_grad, theirs_grad in (
        (
            ours.text_model.embeddings.token_embedding.weight.grad,
            gradient("token_embedding.weight"),
        ),
        (
            ours.vision_model.embeddings.patch_embedding.projection.weight.grad,
            gradient(*patches),
        ),
    ):
        assert (mine_grad - theirs_grad).norm() <= 1e-4 * theirs_grad.norm()

    if to_peer is not None:
        again = to_peer(ours).state_dict()
        for key, value in peer.state_dict().items():
            if key in dict(peer.named_parameters()):
                assert torch.equal(again[key], value), key
        twice = from_peer(to_peer(ours)).state_dict()
        assert all(torch.equal(twice[key], value) for key, value in ours.state_dict().items())


TIMM = [
    {},
    {"qk_norm": True, "init_values": 0.3, "qkv_bias": False},
    {"global_pool": "map", "class_token": False},
    {"global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True, "pre_norm": True},
    {"act_layer": "quick_gelu", "norm_layer": None, "embed_dim": 48, "depth": 3, "num_heads": 3},
]


@pytest.mark.parametrize("options", TIMM)
def test_an_image_tower_goes_to_timm_and_back(options):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    torch.manual_seed(0)
    peer = stir(timm.models.VisionTransformer(**{**sizes, "num_classes": 5, **options}))
    ours = from_timm_vit(peer)
    images = make_images(3)
    expected = peer.forward_head(peer.forward_features(images), pre_logits=True)
    assert (ours(images).pooler_output - expected).abs().max() <= 1e-5 * expected.abs().max()
    if "act_layer" in options:
        with pytest.raises(ConversionError, match="hidden_act='quick_gelu'"):
            to_timm_vit(ours)
        return
    again = to_timm_vit(ours).state_dict()
    for key, value in peer.state_dict().items():
        if not key.startswith("head."):
            assert torch.equal(again[key], value), key


def test_a_checkpoint_folder_is_read(tmp_path):
    torch.manual_seed(0)
    peer = stir(hf_clip(2, NARROW))
    peer.save_pretrained(tmp_path)
    ours = from_hf_clip(str(tmp_path))
    images, ids = make_images(3), make_ids(300)
    assert (logits_of(ours, images, ids)[0] - logits_of(peer, images, ids)[0]).abs().max() <= 1e-5


def test_a_weight_without_a_place_is_an_error_that_names_it():
    peer = hf_clip(2, NARROW)
    peer.text_model.extra = torch.nn.Linear(3, 3)
    with pytest.raises(ConversionError, match=r"without a place: text_model\.extra\.bias"):
        from_hf_clip(peer)
    with pytest.raises(ConversionError, match="registers"):
        from_timm_vit(timm.models.VisionTransformer(img_size=32, patch_size=8, reg_tokens=2))


def test_what_a_peer_cannot_hold_is_refused_with_its_fields():
    with pytest.raises(ConversionError, match=r"CLIP cannot hold .*norm_type='rmsnorm'"):
        to_hf_clip(small_model(vision={"norm_type": "rmsnorm"}))
    with pytest.raises(ConversionError, match=r"SigLIP cannot hold .*pooling='cls'"):
        to_hf_siglip(small_model())
    config = ClipVitVisionConfig(
        hidden_size=32, num_attention_heads=2, position_embedding_type="rope"
    )
    with pytest.raises(ConversionError, match="position_embedding_type='rope'"):
        to_timm_vit(ClipVitVisionModel(config))


def test_old_end_tokens_of_transformers_are_the_largest_id():
    peer = hf_clip(1, NARROW)
    peer.config.text_config.eos_token_id = 2
    peer.text_model.eos_token_id = 2
    ours = from_hf_clip(peer.eval())
    assert ours.config.text_config.eos_token_id == 299
    images, ids = make_images(3), make_ids(300)
    difference = logits_of(ours, images, ids)[1] - logits_of(peer, images, ids)[1]
    assert difference.abs().max() <= 1e-5
    assert normalize(ours.get_text_features(ids).pooler_output).shape == (3, 24)


@pytest.mark.parametrize("to", ["hf_clip", "open_clip"])
def test_the_command_converts_there_and_back(tmp_path, capsys, to):
    torch.manual_seed(0)
    peer = stir(hf_clip(2, {**NARROW, "num_attention_heads": 4}))
    peer.config.text_config.max_position_embeddings = 77
    peer.save_pretrained(tmp_path / "peer")
    steps = [("peer", "ours", "clip_vit"), ("ours", "there", to), ("there", "back", "clip_vit")]
    for source, target, kind in steps:
        assert main(["convert", str(tmp_path / source), str(tmp_path / target), "--to", kind]) == 0
    printed = capsys.readouterr().out
    assert printed.count("largest differences: image_embeds") == 3
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "back"))
    assert all(torch.equal(first[key], last[key]) for key in first)
    assert not list(tmp_path.glob(".*"))


def test_the_command_writes_nothing_that_it_cannot_vouch_for(tmp_path, capsys):
    small_model().save_pretrained(tmp_path / "ours")
    target = tmp_path / "target"
    assert main(["convert", str(tmp_path / "ours"), str(target), "--to", "hf_siglip"]) == 1
    assert "SigLIP cannot hold" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "nothing"), str(target)]) == 1
    assert "no checkpoint folder" in capsys.readouterr().err
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert main(["convert", str(tmp_path / "ours"), str(target)]) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", ["ours", "peer"])
def test_the_command_converts_no_checkpoint_that_lacks_weights(tmp_path, capsys, kind):
    source, target = tmp_path / kind, tmp_path / "target"
    told = MISFITS["lacks"]
    if kind == "ours":
        small_model().save_pretrained(source)
        spoil(source, "lacks")
    else:
        state = (peer := hf_clip(1, NARROW)).state_dict()
        told = "it lacks text_projection.weight"
        peer.save_pretrained(
            source, state_dict={k: v for k, v in state.items() if k != "text_projection.weight"}
        )
    assert main(["convert", str(source), str(target)]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: '{source}' does not fit a ")
    assert told in message
    assert not target.exists()


def test_a_converted_checkpoint_embeds_with_sentence_transformers(checkpoint, tmp_path):
    hf_clip(1, NARROW).save_pretrained(tmp_path / "peer")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "peer")
    assert main(["convert", str(tmp_path / "peer"), str(tmp_path / "ours")]) == 0
    encoder = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    lengths = encoder.encode(["a red square", "a cat"], convert_to_tensor=True).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(2))


def test_a_model_that_computes_something_else_is_found_out():
    torch.manual_seed(0)
    peer = stir(hf_clip(2, NARROW))
    ours = from_hf_clip(peer)
    ours.config.text_config.max_position_embeddings = 12
    assert max(verify(peer, ours, ours.config).values()) <= 1e-5
    with torch.no_grad():
        ours.vision_model.encoder.layers[1].norm2.bias[3] += 0.05
    with pytest.raises(ConversionError, match="differs in image_embeds by"):
        verify(peer, ours, ours.config)
