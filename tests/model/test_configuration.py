"""Configurations: what is refused, and what survives a round trip."""

import pytest
from transformers import AutoConfig

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitTextConfig,
    ClipVitVisionConfig,
    attention,
    configuration_clip_vit,
    embeddings,
    feed_forward,
    normalization,
    pooling,
)

REFUSED = [
    (ClipVitVisionConfig, {"image_size": 65, "patch_size": 32}, "multiple of patch_size=32"),
    (ClipVitVisionConfig, {"patch_embedding": "mlp"}, "conv, linear, conv_stem"),
    (ClipVitVisionConfig, {"pooling": "eos"}, "cls, mean, map, flatten"),
    (ClipVitVisionConfig, {"hidden_act": "gelo"}, "gelu"),
    (ClipVitVisionConfig, {"norm_type": "none"}, "layernorm, rmsnorm, groupnorm, batchnorm, dyt"),
    (ClipVitVisionConfig, {"mlp_type": "moe"}, "mlp, glu"),
    (ClipVitTextConfig, {"attention_type": "linear"}, "softmax, sigmoid"),
    (ClipVitTextConfig, {"attention_gate": "layerwise"}, "none, headwise, elementwise"),
    (ClipVitVisionConfig, {"num_attention_heads": 0}, "at least 1"),
    (ClipVitVisionConfig, {"num_attention_heads": 7}, "multiple of num_attention_heads=7"),
    (ClipVitVisionConfig, {"num_key_value_heads": 5}, "divisor of num_attention_heads=12"),
    (ClipVitVisionConfig, {"drop_path_rate": 1.0}, "below 1"),
    (ClipVitVisionConfig, {"use_cls_token": False, "pooling": "cls"}, "True with pooling='cls'"),
    (
        ClipVitVisionConfig,
        {"patch_embedding": "conv_stem", "conv_stem_strides": [2, 2]},
        "product is patch_size=32",
    ),
    (
        ClipVitVisionConfig,
        {
            "patch_embedding": "conv_stem",
            "conv_stem_strides": [8, 4],
            "conv_stem_kernels": [3, 4],
            "conv_stem_widths": [8, 8],
        },
        "at least as large as conv_stem_strides",
    ),
    (ClipVitVisionConfig, {"norm_type": "groupnorm", "num_norm_groups": 7}, "divisor of hidden"),
    (ClipVitVisionConfig, {"norm_placement": "middle"}, "pre, post, sandwich"),
    (ClipVitVisionConfig, {"final_norm": "last"}, "before_pooling, after_pooling, none"),
    (ClipVitVisionConfig, {"position_embedding_type": "alibi"}, "learned, sincos, rope, none"),
    (ClipVitVisionConfig, {"position_embedding_type": "rope", "head_dim": 6}, "multiple of 4"),
    (ClipVitTextConfig, {"position_embedding_type": "rope", "head_dim": 7}, "multiple of 2"),
    (ClipVitVisionConfig, {"position_embedding_type": "rope", "rope_theta": 0.0}, "above 0"),
    (ClipVitVisionConfig, {"projection_type": "conv"}, "linear, mlp, none"),
    (ClipVitVisionConfig, {"num_register_tokens": -1}, "at least 0"),
    (ClipVitVisionConfig, {"patch_dropout": 1.0}, "below 1"),
    (ClipVitVisionConfig, {"patch_dropout": 0.1, "pooling": "flatten"}, "0 with pooling='flatten'"),
    (ClipVitConfig, {"vision_config": {"projection_type": "none"}, "projection_dim": 5}, "768"),
    (ClipVitTextConfig, {"pooling": "flatten"}, "cls, mean, map, eos, last"),
    (ClipVitTextConfig, {"eos_token_id": None}, "end-of-text token with pooling='eos'"),
    (ClipVitTextConfig, {"vocab_size": 0}, "at least 1"),
    (ClipVitConfig, {"projection_dim": 0}, "at least 1"),
    (ClipVitConfig, {"logit_scale_max": -1.0}, "above 0"),
    (ClipVitConfig, {"logit_scale_init_value": 5.0}, "at most that of logit_scale_max=100"),
]


@pytest.mark.parametrize(("config_class", "fields", "allowed"), REFUSED)
def test_refusal_names_field_value_and_what_is_allowed(config_class, fields, allowed):
    with pytest.raises(Exception, match="is not allowed") as caught:
        config_class(**fields)
    message = str(caught.value)
    assert allowed in message
    assert any(f"{name}={value!r}" in message for name, value in fields.items())


@pytest.mark.parametrize(
    "field", ["attention_type", "mlp_type", "norm_type", "patch_embedding", "pooling"]
)
def test_an_unknown_module_may_be_added_by_code_that_was_not_imported(field):
    with pytest.raises(Exception, match="after an import of the code that adds it"):
        ClipVitVisionConfig(**{field: "of_my_own"})


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (configuration_clip_vit.PATCH_EMBEDDINGS, embeddings.PATCH_EMBEDDINGS),
        (configuration_clip_vit.POSITION_INTERPOLATIONS, embeddings.POSITION_INTERPOLATIONS),
        (configuration_clip_vit.ATTENTION_TYPES, attention.ATTENTIONS),
        (configuration_clip_vit.FEED_FORWARDS, feed_forward.FEED_FORWARDS),
        (configuration_clip_vit.NORM_TYPES, normalization.NORM_LAYERS),
        (configuration_clip_vit.IMAGE_POOLINGS, pooling.IMAGE_POOLINGS),
        (configuration_clip_vit.TEXT_POOLINGS, pooling.TEXT_POOLINGS),
    ],
)
def test_the_modules_have_what_the_configuration_allows(names, table):
    assert sorted(names) == sorted(table)


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(Exception, match="hidden_size"):
        ClipVitVisionConfig(hidden_size="wide")


def test_round_trip_keeps_every_field(tmp_path):
    config = ClipVitConfig(
        vision_config={
            "image_size": 64,
            "patch_size": 16,
            "patch_embedding": "conv_stem",
            "pooling": "flatten",
            "mlp_type": "glu",
            "hidden_act": "silu",
            "norm_type": "rmsnorm",
            "attention_type": "sigmoid",
            "num_key_value_heads": 3,
            "drop_path_rate": 0.2,
            "attention_k_bias": False,
            "attention_gate": "headwise",
            "attention_gate_bias": False,
            "value_residual": True,
            "qk_norm": True,
            "mlp_bias": False,
            "adjust_glu_size": True,
            "norm_placement": "sandwich",
            "embedding_norm": True,
            "final_norm": "after_pooling",
            "layer_scale_init_value": 1e-4,
            "position_embedding_type": "rope",
            "rope_theta": 100.0,
            "num_register_tokens": 4,
            "pool_prefix_tokens": True,
            "patch_bias": False,
            "position_interpolation": "antialiased",
            "projection_type": "mlp",
            "projection_bias": True,
        },
        text_config={"is_causal": False, "pooling": "mean", "head_dim": 16},
        projection_dim=48,
        logit_bias_init_value=-10.0,
        logit_scale_max=None,
    )
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    ignored = {"transformers_version", "auto_map", "_name_or_path"}
    before = {key: value for key, value in config.to_dict().items() if key not in ignored}
    after = {key: value for key, value in again.to_dict().items() if key not in ignored}
    assert before == after


def test_a_tower_takes_its_configuration_and_projection_from_the_joint_one(tmp_path):
    ClipVitConfig(vision_config={"hidden_size": 96}, projection_dim=48).save_pretrained(tmp_path)
    vision = ClipVitVisionConfig.from_pretrained(tmp_path)
    assert (vision.hidden_size, vision.projection_dim) == (96, 48)
    assert ClipVitTextConfig.from_pretrained(tmp_path).projection_dim == 48


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ({"mlp_type": "swiglu"}, "SwiGLU is mlp_type='glu' with hidden_act='silu'"),
        ({"hidden_act": "SwiGLU"}, "SwiGLU is mlp_type='glu' with hidden_act='silu'"),
        ({"mlp_type": "geglu"}, "GEGLU is mlp_type='glu' with hidden_act='gelu'"),
        ({"mlp_type": "reglu"}, "ReGLU is mlp_type='glu' with hidden_act='relu'"),
        ({"mlp_type": "relu2"}, "ReLU² is mlp_type='mlp' with hidden_act='relu2'"),
    ],
)
def test_the_name_of_a_feed_forward_is_answered_with_its_fields(fields, meant):
    with pytest.raises(Exception, match=meant):
        ClipVitVisionConfig(**fields)


def test_relu2_is_an_activation():
    assert ClipVitVisionConfig(hidden_act="relu2").hidden_act == "relu2"
