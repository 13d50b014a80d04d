"""From arguments to a model."""

import pytest
from transformers import AutoTokenizer

from modeling_clip_vit.training.arguments import ModelOptions
from modeling_clip_vit.training.models import build_model, build_processor, load_model
from tests.support import REPOSITORY
from tests.support.models import small_model

EMOJI = REPOSITORY / "configuration" / "model" / "emoji"


class Words:
    """A few captions, for a tokenizer to learn from."""

    def corpus(self):
        return ["a red square", "a blue circle", "红色的方块"]


def test_a_recipe_changes_fields_of_the_model():
    vision = {"pooling": "mean", "mlp_type": "glu", "hidden_act": "silu"}
    options = ModelOptions(
        str(EMOJI),
        model_fields={"logit_bias_init_value": -10.0},
        vision_fields=vision,
        text_fields={"num_hidden_layers": 3},
    )
    model, _ = build_model(options, Words())
    changed = model.config.vision_config
    assert {name: getattr(changed, name) for name in vision} == vision
    assert len(model.text_model.encoder.layers) == 3
    assert model.get_logit_bias().item() == -10
    assert changed.conv_stem_widths == [64, 128, 256]


def test_every_head_keeps_keys_of_its_own_unless_a_recipe_says_otherwise():
    heads = {"hidden_size": 96, "num_attention_heads": 6}
    for fields, keys in ((heads, 6), ({**heads, "num_key_value_heads": 2}, 2)):
        model, _ = build_model(ModelOptions(str(EMOJI), vision_fields=fields), Words())
        assert model.config.vision_config.num_key_value_heads == keys


def test_a_field_that_a_tower_does_not_have_is_refused():
    with pytest.raises(ValueError, match="poling='mean' is not allowed"):
        build_model(ModelOptions(str(EMOJI), vision_fields={"poling": "mean"}), Words())


def test_a_checkpoint_goes_on_with_other_dropouts_but_not_with_another_shape(tmp_path):
    _, processor = build_model(ModelOptions(str(EMOJI)), Words())
    model = small_model()
    model.save_pretrained(tmp_path)
    build_processor(processor.tokenizer, 32).save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(processor.tokenizer)
    again, _ = load_model(str(tmp_path), ModelOptions(vision_fields={"patch_dropout": 0.25}))
    assert again.vision_model.config.patch_dropout == 0.25
    more = ModelOptions(text_fields={"num_hidden_layers": 7})
    with pytest.raises(ValueError, match="lacks"):
        load_model(str(tmp_path), more)
