"""Encoders of Transformers as towers."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    DistilBertConfig,
    ModernBertConfig,
    Qwen3Config,
    ResNetConfig,
    RobertaConfig,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    XLMRobertaConfig,
)

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from tests.support.checkpoints import WEIGHT, spoil
from tests.support.models import TEXT, VISION, make_images, make_texts, small_config, small_model

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SMALL_TEXT = {**SMALL, "vocab_size": 300, "max_position_embeddings": 32, "pad_token_id": 0}
SMALL_IMAGE = {**SMALL, "image_size": 32, "patch_size": 8}
DISTILBERT = {"dim": 24, "hidden_dim": 48, "n_layers": 2, "n_heads": 2, "vocab_size": 300}

TEXT_CONFIGS = {
    "bert": BertConfig(**SMALL_TEXT),
    "bert, mean": BertConfig(**SMALL_TEXT, pooling="mean"),
    "roberta": RobertaConfig(**SMALL_TEXT, pooling="cls"),
    "xlm-roberta": XLMRobertaConfig(**SMALL_TEXT, projection_type="mlp"),
    "distilbert": DistilBertConfig(**DISTILBERT, pad_token_id=0),
    "modernbert": ModernBertConfig(
        **SMALL_TEXT, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "qwen3, last": Qwen3Config(
        **SMALL_TEXT, head_dim=12, num_key_value_heads=1, eos_token_id=2, pooling="last"
    ),
}
IMAGE_CONFIGS = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]),
    "dinov2": Dinov2Config(**SMALL_IMAGE),
    "dinov2, mean": Dinov2Config(**SMALL_IMAGE, pooling="mean"),
    "siglip": SiglipVisionConfig(**SMALL_IMAGE),
}


def build(vision=None, text=None, **fields) -> ClipVitModel:
    torch.manual_seed(0)
    config = ClipVitConfig(
        vision_config=vision or VISION, text_config=text or TEXT, projection_dim=16, **fields
    )
    return ClipVitModel(config).eval()


@pytest.mark.parametrize("name", TEXT_CONFIGS)
def test_any_text_encoder_embeds_without_regard_to_padding(name):
    model = build(text=TEXT_CONFIGS[name].to_dict())
    assert model.config.text_config.model_type == TEXT_CONFIGS[name].model_type
    lengths = [5, 9, 3]
    short = model.get_text_features(**make_texts(lengths)).pooler_output
    longer = model.get_text_features(**make_texts(lengths, length=15)).pooler_output
    assert short.shape == (3, 16)
    assert_close(short, longer, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", IMAGE_CONFIGS)
def test_any_image_encoder_embeds(name):
    model = build(vision=IMAGE_CONFIGS[name].to_dict())
    images = make_images(3)
    outputs = model(pixel_values=images, **make_texts([4, 5]), output_hidden_states=True)
    assert outputs.logits_per_image.shape == (3, 2)
    assert len(outputs.vision_model_output.hidden_states) == 3
    alone = model.get_image_features(images[1:2]).pooler_output
    assert_close(torch.nn.functional.normalize(alone), outputs.image_embeds[1:2], atol=1e-5, rtol=0)


def test_pooling_is_that_of_the_configuration():
    text = BertConfig(**SMALL_TEXT).to_dict()
    ids = make_texts([6])["input_ids"]
    for pooling, expected in {
        None: lambda out: out.pooler_output,
        "mean": lambda out: out.last_hidden_state.mean(dim=1),
        "cls": lambda out: out.last_hidden_state[:, 0],
        "last": lambda out: out.last_hidden_state[:, -1],
    }.items():
        model = build(text={**text, "pooling": pooling})
        pooled = expected(model.text_model(ids))
        assert_close(model.get_text_features(ids).pooler_output, model.text_projection(pooled))


@pytest.mark.parametrize("part", ["bert", "dinov2"])
def test_a_model_with_a_foreign_tower_survives_saving(tmp_path, part):
    model = (
        build(text={**TEXT_CONFIGS["bert"].to_dict(), "pooling": "mean", "projection_type": "mlp"})
        if part == "bert"
        else build(vision=IMAGE_CONFIGS["dinov2, mean"].to_dict())
    )
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    for part in ("vision_config", "text_config"):
        before, after = (getattr(m.config, part).to_dict() for m in (model, again))
        assert before == after | {"dtype": before["dtype"]}
    inputs = {"pixel_values": make_images(2), **make_texts([4, 5])}
    assert torch.equal(again(**inputs).logits_per_image, model(**inputs).logits_per_image)


def test_two_pretrained_encoders_are_joined_with_their_weights(tmp_path):
    torch.manual_seed(1)
    text, vision = BertModel(BertConfig(**SMALL_TEXT)), Dinov2Model(IMAGE_CONFIGS["dinov2"])
    text.save_pretrained(tmp_path / "text")
    vision.save_pretrained(tmp_path / "vision")
    model = ClipVitModel.from_vision_text_pretrained(
        str(tmp_path / "vision"),
        str(tmp_path / "text"),
        text_fields={"pooling": "mean"},
        projection_dim=16,
    )
    ids, images = make_texts([6])["input_ids"], make_images(2)
    hidden = text.eval()(ids).last_hidden_state
    assert torch.equal(model.text_model(ids).last_hidden_state, hidden)
    assert torch.equal(
        model.vision_model(images).pooler_output, vision.eval()(images).pooler_output
    )
    expected = model.text_projection(hidden.mean(dim=1))
    assert_close(model.get_text_features(ids).pooler_output, expected)


def test_the_towers_of_joint_models_are_taken_apart(tmp_path):
    """From a SigLIP its image tower, from one of our own its text tower."""
    torch.manual_seed(1)
    siglip = SiglipModel(SiglipConfig(vision_config=SMALL_IMAGE, text_config=SMALL_TEXT)).eval()
    siglip.save_pretrained(tmp_path / "siglip")
    ours = ClipVitModel(small_config()).eval()
    ours.save_pretrained(tmp_path / "ours")
    model = ClipVitModel.from_vision_text_pretrained(
        str(tmp_path / "siglip"), str(tmp_path / "ours"), projection_dim=16
    )
    images, texts = make_images(2), make_texts([4, 5])
    expected = siglip.vision_model(images).pooler_output
    assert_close(model.vision_model(images).pooler_output, expected)
    expected = ours.text_model(**texts).pooler_output
    assert torch.equal(model.text_model(**texts).pooler_output, expected)


def test_a_tower_that_lacks_weights_is_refused(tmp_path):
    small_model().save_pretrained(tmp_path / "ours")
    spoil(tmp_path / "ours", "lacks")
    lost = WEIGHT.removeprefix("text_model.")
    with pytest.raises(ValueError, match=f"does not fit a ClipVitTextModel: it lacks {lost}$"):
        ClipVitModel.from_vision_text_pretrained(None, str(tmp_path / "ours"))


def test_a_pooler_may_be_missing_only_where_it_is_not_used(tmp_path):
    """As in checkpoints of masked language models, which have a head in its place."""
    BertForMaskedLM(BertConfig(**SMALL_TEXT)).save_pretrained(tmp_path)
    pooled = {"pooling": "mean"}
    ClipVitModel.from_vision_text_pretrained(None, str(tmp_path), text_fields=pooled)
    with pytest.raises(ValueError, match=r"lacks pooler\.dense\.bias, pooler\.dense\.weight"):
        ClipVitModel.from_vision_text_pretrained(None, str(tmp_path))


def test_a_joint_model_of_our_own_and_another_tower_trains():
    model = build(text=TEXT_CONFIGS["bert"].to_dict()).train()
    inputs = {"pixel_values": make_images(4), **make_texts([4, 7, 6, 5]), "return_loss": True}
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(80):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert min(losses) < 0.5


def test_what_no_tower_can_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model_type='nothing' is not allowed"):
        ClipVitConfig(text_config={"model_type": "nothing"})
    with pytest.raises(
        ValueError, match="pooling='flatten' is not allowed with a tower of type 'bert'"
    ):
        ClipVitConfig(text_config={**BertConfig().to_dict(), "pooling": "flatten"})
    with pytest.raises(Exception, match=r"projection_type=.conv. is not allowed"):
        ClipVitConfig(text_config={**BertConfig().to_dict(), "projection_type": "conv"})
    with pytest.raises(ValueError, match="has no hidden_size"):
        build(vision={"model_type": "mobilenet_v2", "depth_multiplier": 0.1})
    bert = BertModel(BertConfig(**SMALL_TEXT))
    bert.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="poling='mean' is not allowed: a bert has no such field"):
        ClipVitModel.from_vision_text_pretrained(None, str(tmp_path), None, {"poling": "mean"})
