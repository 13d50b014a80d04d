"""Frozen towers and blocks, and the depth of weights."""

import pytest
import torch
from transformers import BertConfig

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from modeling_clip_vit.training.blocks import depths
from modeling_clip_vit.training.freezing import freeze
from modeling_clip_vit.training.optimizer import build_optimizer
from modeling_clip_vit.training.options import ModelOptions, OptimizerOptions
from tests.support.models import TEXT, VISION, small_model

BERT = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 300}


def with_bert() -> ClipVitModel:
    text = BertConfig(**BERT, intermediate_size=48).to_dict()
    return ClipVitModel(ClipVitConfig(vision_config=VISION, text_config=text, projection_dim=16))


def trainable(model, prefix=""):
    return {
        name for name, p in model.named_parameters() if p.requires_grad and name.startswith(prefix)
    }


def test_a_frozen_tower_has_no_weight_that_learns():
    model = small_model()
    frozen = freeze(model, ModelOptions(frozen_towers=["vision"]))
    assert frozen == [model.vision_model]
    assert not trainable(model, "vision_model.")


def test_all_but_the_frozen_tower_learns():
    model = small_model()
    others = {name for name in trainable(model) if not name.startswith("vision_model.")}
    freeze(model, ModelOptions(frozen_towers=["vision"]))
    assert trainable(model) == others


def test_the_lowest_blocks_are_frozen_with_what_comes_before_them():
    model = small_model(vision={"num_hidden_layers": 3, "patch_embedding": "conv_stem"})
    highest = ("vision_model.encoder.layers.2.", "vision_model.final_norm.")
    expected = {name for name in trainable(model, "vision_model.") if name.startswith(highest)}
    freeze(model, ModelOptions(frozen_vision_layers=2))
    assert trainable(model, "vision_model.") == expected


def test_modules_of_frozen_blocks_are_returned():
    model = small_model(vision={"num_hidden_layers": 3})
    frozen = freeze(model, ModelOptions(frozen_vision_layers=2))
    blocks = model.vision_model.encoder.layers
    assert model.vision_model.embeddings.patch_embedding in frozen
    assert [block in frozen for block in blocks] == [True, True, False]


def test_the_lowest_blocks_of_another_model_type_are_frozen():
    bert = with_bert()
    lowest = ("text_model.embeddings.", "text_model.encoder.layer.0.")
    expected = {name for name in trainable(bert, "text_model.") if not name.startswith(lowest)}
    freeze(bert, ModelOptions(frozen_text_layers=1))
    assert trainable(bert, "text_model.") == expected


def test_more_blocks_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"frozen_text_layers=3 is not allowed: .* has 2 blocks"):
        freeze(small_model(), ModelOptions(frozen_text_layers=3))


@pytest.mark.parametrize("build", [small_model, with_bert])
def test_depth_grows_along_a_tower(build):
    model = build()
    for tower in (model.vision_model, model.text_model):
        depth = depths(tower)
        order = [depth[id(p)] for p in tower.parameters()]
        assert order == sorted(order)
        count = tower.config.num_hidden_layers
        assert set(order) == set(range(count + 2))


def test_training_leaves_what_is_frozen_as_it_is():
    model = small_model(
        vision={"patch_embedding": "conv_stem", "norm_type": "batchnorm"}, text=TEXT
    )
    frozen = freeze(model, ModelOptions(frozen_vision_layers=1))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    for module in frozen:
        module.eval()
    optimizer = build_optimizer(model, OptimizerOptions(optim="adamw", learning_rate=1e-2))
    images, ids = torch.randn(4, 3, 32, 32), torch.randint(3, 300, (4, 6))
    model(pixel_values=images, input_ids=ids, return_loss=True).loss.backward()
    optimizer.step()
    after = model.state_dict()
    lowest = ("vision_model.embeddings", "vision_model.encoder.layers.0.")
    for key, value in before.items():
        if key.startswith(lowest):
            assert torch.equal(after[key], value), key
    assert not torch.equal(
        after["vision_model.encoder.layers.1.norm1.running_mean"],
        before["vision_model.encoder.layers.1.norm1.running_mean"],
    )
