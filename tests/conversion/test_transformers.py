"""Two-tower models of Transformers: same outputs from images and texts, nothing lost on the way."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPVisionConfig,
    SiglipModel,
)

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from modeling_clip_vit.cli import main
from modeling_clip_vit.conversion import (
    ConversionError,
    from_hf_clipseg,
    from_hf_dual_encoder,
    from_hf_siglip,
    hf_siglip,
    to_hf_dual_encoder,
    to_hf_siglip,
)
from modeling_clip_vit.conversion.kept_towers import kept_config
from modeling_clip_vit.conversion.peers import PEERS
from modeling_clip_vit.conversion.trial_inputs import image_inputs, text_inputs
from modeling_clip_vit.conversion.weights import move_weights
from modeling_clip_vit.data.native import cut_patches
from tests.support.peers import assert_bit_equal, stir
from tests.support.processes import run_without_package
from tests.support.transformers_peers import (
    CLIP_TEXTS,
    IMAGES,
    MODELS,
    converters,
    dual_encoder,
    make_processor,
)


def make(name: str):
    torch.manual_seed(0)
    return stir(MODELS[name]())


def run(model, config: ClipVitConfig) -> torch.Tensor:
    """Logits of a model for random images and texts, one of which is padded if it has a mask."""
    texts = text_inputs(config.text_config)
    if config.logit_bias_init_value is None:  # SigLIP reads padding, and has no mask
        ids = texts["input_ids"]
        ids[1, -3] = ids[1, -1]
        ids[1, -2:] = getattr(config.text_config, "pad_token_id", 0)
        texts["attention_mask"] = torch.ones_like(ids)
        texts["attention_mask"][1, -2:] = 0
    with torch.no_grad():
        return model(**images_for(model, config), **texts).logits_per_image


def images_for(model, config: ClipVitConfig) -> dict[str, torch.Tensor]:
    """Random images, as patches for a SigLIP 2 and for what was made of one."""
    vision = config.vision_config
    if getattr(vision, "position_interpolation", None) != "antialiased":
        return image_inputs(vision)
    counted = SimpleNamespace(num_patches=vision.grid_size**2, patch_size=16, num_channels=3)
    return image_inputs(counted)


def test_every_model_of_transformers_is_tested():
    assert set(MODELS) == {name for name in PEERS if name.startswith("hf_")}


@pytest.mark.parametrize("name", MODELS)
def test_it_computes_the_same_with_padded_texts(name):
    peer = make(name)
    ours = converters(name)[0](peer)
    expected = run(peer, ours.config)
    assert (run(ours, ours.config) - expected).abs().max() <= 1e-5 * expected.abs().max()


def assert_same_weights(again, before):
    """Bit-equal, but for a temperature, which is a logarithm on the way."""
    assert_bit_equal(again, before, left_out="temperature")
    if hasattr(before, "temperature"):
        assert torch.isclose(again.temperature, before.temperature, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_it_goes_there_and_back_bit_equal(name):
    peer = make(name)
    from_peer, to_peer = converters(name)
    again = to_peer(from_peer(peer))
    assert_same_weights(again, peer)
    assert type(again) is type(peer)


@pytest.mark.parametrize("name", MODELS)
def test_its_checkpoint_is_converted_there_and_back(tmp_path, capsys, name):
    peer = make(name)
    peer.save_pretrained(tmp_path / "peer")
    places = [str(tmp_path / place) for place in ("peer", "ours", "back")]
    assert main(["convert", *places[:2]]) == 0, capsys.readouterr().err
    assert main(["convert", *places[1:], "--to", name]) == 0, capsys.readouterr().err
    ours = AutoModel.from_pretrained(places[1])
    assert_bit_equal(ours, converters(name)[0](peer))
    assert_same_weights(type(peer).from_pretrained(places[2]), peer)


def draw(file):
    """An image that is neither square nor of the model's size."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 255, (61, 83, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).resize((166, 122)).save(file)


@pytest.mark.parametrize("name", MODELS)
def test_an_image_file_and_a_text_are_embedded_the_same(tmp_path, capsys, name):
    peer, processor = make(name), make_processor(name)
    if getattr(peer.config.text_config, "eos_token_id", None) is not None:
        peer.config.text_config.eos_token_id = processor.tokenizer.eos_token_id
        peer.text_model.config.eos_token_id = processor.tokenizer.eos_token_id
        peer.text_model.eos_token_id = processor.tokenizer.eos_token_id
    for part in (peer, processor):
        part.save_pretrained(tmp_path / "peer")
    assert main(["convert", str(tmp_path / "peer"), str(tmp_path / "ours")]) == 0
    draw(tmp_path / "image.png")
    outputs = []
    for model, place in ((peer, "peer"), (AutoModel.from_pretrained(tmp_path / "ours"), "ours")):
        inputs = AutoProcessor.from_pretrained(tmp_path / place)(
            text=["a red square", "blue"],
            images=Image.open(tmp_path / "image.png"),
            padding="max_length",
            return_tensors="pt",
        )
        with torch.no_grad():
            outputs.append(model(**inputs))
    theirs, mine = outputs
    assert torch.allclose(mine.image_embeds, theirs.image_embeds, atol=1e-5)
    assert torch.allclose(mine.text_embeds, theirs.text_embeds, atol=1e-5)


def test_a_dual_encoder_with_the_image_tower_of_a_clip(tmp_path):
    torch.manual_seed(0)
    peer = stir(dual_encoder(CLIPVisionConfig))
    from_hf_dual_encoder(peer).save_pretrained(tmp_path)
    ours = AutoModel.from_pretrained(tmp_path)
    expected = run(peer, ours.config)
    assert (run(ours, ours.config) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert_bit_equal(to_hf_dual_encoder(ours), peer)


def test_the_decoder_of_a_clipseg_is_left_out(tmp_path):
    torch.manual_seed(0)
    config = CLIPSegConfig(
        vision_config=IMAGES,
        text_config=CLIP_TEXTS,
        projection_dim=24,
        extract_layers=[0, 1],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    peer = stir(CLIPSegForImageSegmentation(config))
    peer.save_pretrained(tmp_path)
    assert_bit_equal(from_hf_clipseg(str(tmp_path)), from_hf_clipseg(peer.clip))


@pytest.mark.parametrize("name", ["hf_altclip", "hf_siglip2", "hf_align"])
def test_kept_towers_load_without_this_package(tmp_path, name):
    ours = converters(name)[0](make(name))
    ours.save_pretrained(tmp_path / "model")
    inputs = {**images_for(ours, ours.config), **text_inputs(ours.config.text_config)}
    torch.save(inputs, tmp_path / "inputs.pt")
    code = """
        import json, torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained("model", trust_remote_code=True)
        inputs = torch.load("inputs.pt", weights_only=True)
        print(json.dumps(model(**inputs).logits_per_image.tolist()))
    """
    logits = torch.tensor(json.loads(run_without_package(code, tmp_path).splitlines()[-1]))
    assert torch.equal(logits, ours(**inputs).logits_per_image)


@pytest.mark.parametrize(
    ("source", "to", "sentence"),
    [
        ("hf_align", "hf_altclip", "AltCLIP cannot hold a tower of type 'align_vision_model'"),
        ("hf_align", "hf_aimv2", "it has one of 'aimv2_vision_model'"),
        ("hf_clip", "hf_siglip2", "SigLIP 2 cannot hold .*position_interpolation='bicubic'"),
        ("hf_siglip2", "hf_siglip", "SigLIP cannot hold position_interpolation='antialiased'"),
        ("hf_align", "hf_dual_encoder", "projection_type='none' .it has 'linear'"),
        ("hf_siglip", "hf_metaclip_2", "MetaCLIP 2 cannot hold .*use_cls_token=False"),
        ("hf_clip", "hf_chinese_clip", "tower of type 'clip_vit_text_model'"),
    ],
)
def test_a_peer_refuses_what_it_cannot_hold(source, to, sentence):
    with pytest.raises(ConversionError, match=sentence):
        converters(to)[1](converters(source)[0](make(source)))


def test_a_siglip_2_that_was_converted_takes_squares_too():
    """At the size of its grid, nothing is interpolated."""
    peer = make("hf_siglip2")
    ours = converters("hf_siglip2")[0](peer)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    patches = cut_patches(pixels, 16)
    mask, shapes = torch.ones(2, 16, dtype=torch.long), torch.full((2, 2), 4)
    with torch.no_grad():
        expected = peer.get_image_features(patches, mask, shapes).pooler_output
        embeds = ours.get_image_features(pixels).pooler_output
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 9), (3, 5), (9, 2), (4, 4), (8, 8)])
def test_a_siglip_2_has_the_same_embeddings_for_pictures_of_any_shape(shape):
    peer = make("hf_siglip2")
    ours = converters("hf_siglip2")[0](peer)
    rows, columns = shape
    patches = torch.randn(1, 70, 768, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(70) < rows * columns).long().unsqueeze(0)
    inputs = patches, mask, torch.tensor([shape])
    with torch.no_grad():
        expected = peer.get_image_features(*inputs).pooler_output
        embeds = ours.get_image_features(inputs[0], False, *inputs[1:]).pooler_output
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=1e-5)


def test_what_an_earlier_version_made_of_a_siglip_2_goes_back():
    peer = make("hf_siglip2")
    fields = kept_config(peer.config.vision_config, {"projection_type": "none"})
    ours = ClipVitModel(hf_siglip.joint_config(fields, peer.config.text_config))
    move_weights(peer, ours, hf_siglip.rules(ours), to_ours=True)
    assert_bit_equal(converters("hf_siglip2")[1](ours), peer)


def test_a_siglip_whose_images_are_not_whole_patches_goes_there_and_back():
    torch.manual_seed(0)
    config = MODELS["hf_siglip"]().config
    config.vision_config.image_size = 36  # of patches of 8, as 384 of 14
    peer = stir(SiglipModel(config))
    ours = from_hf_siglip(peer)
    expected = run(peer, ours.config)
    assert (run(ours, ours.config) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert_bit_equal(to_hf_siglip(ours), peer)
