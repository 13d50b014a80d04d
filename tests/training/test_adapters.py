"""Adapters through PEFT: steps of a trainer built from objects, and what cannot be trained."""

import copy

import pytest
import torch
from peft import PeftModel
from torch.testing import assert_close
from transformers import AutoModel

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.finetuning.adapters import Adapter
from modeling_clip_vit.utils.errors import UserError
from tests.support.models import make_images, make_texts, small_model
from tests.support.trainers import build, make_batch, weights_of

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

LORA = {"peft_type": "LORA", "lora_rank": 4, "learning_rate": 1e-2}
#: Kinds of adapters -> fields that fit the layers of a small model.
KINDS = {
    "C3A": {"block_size": 8},
    "DELORA": {},
    "FOURIERFT": {"n_frequency": 16},
    "GRALORA": {"r": 4},
    "HIRA": {"r": 4},
    "HRA": {"r": 4},
    "IA3": {},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "LORA": {"use_dora": True, "use_rslora": True},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "VBLORA": {"vector_length": 8, "num_vectors": 8},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 16},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> str:
    """The folder of a small model, to be fine-tuned."""
    folder = tmp_path_factory.mktemp("published")
    small_model(vision={"patch_embedding": "conv_stem"}).save_pretrained(folder)
    return str(folder)


def load(path: str) -> ClipVitModel:
    return AutoModel.from_pretrained(path)


def train(published, tmp_path, steps: int = 3, **options):
    """A trainer of an adapter that has made some updates."""
    torch.manual_seed(0)  # of the adapter
    trainer = build(tmp_path, load(published), model_name_or_path=published, **{**LORA, **options})
    trainer.set_training_mode()
    for step in range(steps):
        trainer.train_step(make_batch(step))
        trainer.progress.step += 1
    return trainer


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    inputs = {"pixel_values": make_images(3), **make_texts([4, 7, 6])}
    return model.eval()(**inputs).logits_per_image


def adapt(published, **options) -> tuple[Adapter, ClipVitModel]:
    """A model with an adapter, without a trainer."""
    values = {"model_name_or_path": published, **LORA, **options}
    args = parse_arguments([f"--{name}={value}" for name, value in values.items()])
    model = load(published)
    return Adapter(args.adapter, model), model


def test_an_untrained_adapter_changes_no_bit(published):
    _, model = adapt(published)
    assert torch.equal(logits_of(model), logits_of(load(published)))


def test_only_the_adapter_has_gradients_and_an_optimizer_state(published, tmp_path):
    trainer = train(published, tmp_path)
    named = dict(trainer.unwrapped().named_parameters())
    learning = {name for name, parameter in named.items() if parameter.requires_grad}
    assert learning == {name for name in named if "lora_" in name}
    states = {id(parameter) for parameter in trainer.optimizer.state}
    assert states == {id(named[name]) for name in learning}


def test_training_changes_the_adapter_and_nothing_beneath_it(published, tmp_path):
    trainer = train(published, tmp_path)
    state = trainer.unwrapped().state_dict()
    beneath = {n.replace(".base_layer", ""): v for n, v in state.items() if "lora_" not in n}
    expected = load(published).state_dict()
    assert beneath.keys() == expected.keys()
    assert all(torch.equal(beneath[name], value) for name, value in expected.items())
    assert all(value.any() for name, value in state.items() if "lora_B" in name)


def test_the_merged_model_computes_what_the_adapted_one_does(published, tmp_path):
    trainer = train(published, tmp_path)
    adapted = logits_of(trainer.unwrapped())
    assert (adapted - logits_of(load(published))).abs().max() > 0.1
    merged = trainer.finish()
    assert merged.state_dict().keys() == load(published).state_dict().keys()
    assert_close(logits_of(merged), adapted, atol=1e-5, rtol=1e-5)


def test_peft_loads_the_saved_adapter_onto_the_published_model(published, tmp_path):
    trainer = train(published, tmp_path, modules_to_save="[similarity]")
    adapted = logits_of(trainer.unwrapped())
    trainer.finish()
    trainer.finetuning.adapter.save(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(load(published), tmp_path / "adapter")
    assert torch.equal(logits_of(loaded), adapted)
    assert loaded.peft_config["default"].base_model_name_or_path == published


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_adapter_trains_merges_and_loads(kind, published, tmp_path):
    fields = {f"peft_fields.{name}": value for name, value in KINDS[kind].items()}
    options = {"peft_type": kind, "lora_rank": 8, "adapter_targets": "[qkv_proj,fc1]", **fields}
    trainer = train(published, tmp_path, **options)
    adapted = logits_of(trainer.unwrapped())
    assert (adapted - logits_of(load(published))).abs().max() > 1e-4
    assert_close(logits_of(trainer.finish()), adapted, atol=1e-4, rtol=1e-4)
    trainer.finetuning.adapter.save(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(load(published), tmp_path / "adapter")
    assert_close(logits_of(loaded), adapted, atol=1e-6, rtol=1e-6)


def ranks_of(model) -> dict[str, int]:
    """Rank of each adapted layer by name."""
    return {
        name.removesuffix(".lora_A.default"): len(module.weight)
        for name, module in model.named_modules()
        if name.endswith("lora_A.default")
    }


def scales_of(model) -> dict[str, float]:
    """Scale of each adapted layer by name."""
    modules = dict(model.named_modules())
    return {name: modules[name].scaling["default"] for name in ranks_of(model)}


def test_a_tower_has_a_rank_and_a_scale_of_its_own(published):
    _, model = adapt(published, lora_text_rank=2)
    ranks = ranks_of(model)
    assert {rank for name, rank in ranks.items() if name.startswith("text_")} == {2}
    assert {rank for name, rank in ranks.items() if name.startswith("vis")} == {4}
    assert set(scales_of(model).values()) == {2.0}


def test_rank_0_leaves_a_tower_and_its_projection_without_adapter(published):
    _, model = adapt(published, lora_vision_rank=0)
    assert ranks_of(model)
    assert all(name.startswith("text_") for name in ranks_of(model))


def test_alpha_and_targets_are_those_of_the_options(published):
    _, model = adapt(published, lora_alpha=2, adapter_targets="[out_proj]")
    adapted = scales_of(model)
    assert set(adapted.values()) == {0.5}
    assert all(name.endswith("out_proj") for name in adapted)


def test_the_logit_scale_and_the_projections_learn_by_choice(published, tmp_path):
    chosen = "[similarity,visual_projection]"
    trainer = train(published, tmp_path, modules_to_save=chosen)
    start, end = weights_of(load(published)), weights_of(trainer.finish())
    for name in ("similarity.logit_scale", "visual_projection.weight"):
        assert not torch.equal(start[name], end[name])
    assert trainer.task.describe_weights(trainer.preparation.model)["logit_scale"] == float(
        end["similarity.logit_scale"].exp()
    )


def test_running_statistics_beneath_an_adapter_do_not_move(published, tmp_path):
    end = train(published, tmp_path).finish().state_dict()
    start = load(published).state_dict()
    statistics = [name for name in start if "running" in name]
    assert statistics
    assert all(torch.equal(end[name], start[name]) for name in statistics)


@pytest.mark.parametrize(
    "option", [{"gradient_checkpointing": "true"}, {"gradient_cache_batch_size": 2}]
)
def test_a_step_with_less_memory_is_the_same(option, published, tmp_path):
    trainers = [train(published, tmp_path, 0, **one) for one in ({}, option)]
    values = [trainer.train_step(make_batch()) for trainer in trainers]
    for name in ("loss", "gradient_norm"):
        assert_close(values[0][name], values[1][name])


def test_the_average_of_an_adapter_is_what_is_merged(published, tmp_path):
    trainer = train(published, tmp_path, ema_decay=0.5)
    means = trainer.average.tensors()
    assert all("lora_" in name for name in means)
    plain = copy.deepcopy(trainer.unwrapped())
    plain.load_state_dict(means, strict=False)
    assert_close(logits_of(trainer.finish()), logits_of(plain), atol=1e-5, rtol=1e-5)


def test_a_saved_adapter_goes_on(published, tmp_path):
    trainer = train(published, tmp_path, modules_to_save="[text_projection]")
    trainer.finish()
    trainer.finetuning.adapter.save(tmp_path / "adapter")
    options = {"model_name_or_path": published, "adapter_name_or_path": tmp_path / "adapter"}
    again = build(tmp_path, load(published), **options)
    assert torch.equal(logits_of(again.unwrapped()), logits_of(trainer.unwrapped()))
    learning = {n for n, p in again.unwrapped().named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name or "text_projection" in name for name in learning)


def test_an_adapter_for_another_model_is_rejected(published, tmp_path):
    other = tmp_path / "other"
    small_model(vision={"hidden_size": 16}).save_pretrained(other)
    adapter, _ = adapt(str(other))
    adapter.save(tmp_path / "adapter")
    options = {"model_name_or_path": published, "adapter_name_or_path": tmp_path / "adapter"}
    with pytest.raises(UserError, match=r"is an adapter for another model .* differs in"):
        build(tmp_path, load(published), **options)


REJECTED = {
    "targets without a match": (
        {"adapter_targets": "[q_proj]"},
        r"q_proj matches no layer of the model; its linear layers end in .*qkv_proj",
    ),
    "a pattern without a match": ({"adapter_targets": "decoder.*"}, "matches no layer"),
    "a broken pattern": ({"adapter_targets": "("}, "it is no regular expression"),
    "a module that is not there": ({"modules_to_save": "[head]"}, "the model has no module head"),
    "an unknown field": ({"peft_fields.rank": 4}, "peft_fields=.* is not allowed .*'rank'"),
    "a field with an option": ({"peft_fields.r": 4}, "r follows from peft_type"),
    "weights that would change": (
        {"peft_fields.init_lora_weights": "pissa"},
        "it begins by changing the weights beneath it",
    ),
    "an unknown kind": ({"peft_type": "LORE"}, "peft_type='LORE' is not allowed: it must be one"),
    "a kind that needs more": ({"peft_type": "ADALORA"}, "it must be one of LORA, "),
    "a rank of another kind": ({"peft_type": "LOHA"}, r"lora_rank=4 is not allowed .*peft_fields"),
    "quantisation": ({"quantization_mode": "dynamic"}, "is not allowed with an adapter"),
    "a penalty": ({"l2_sp_weight": 0.1}, "is not allowed with an adapter"),
    "frozen blocks": ({"frozen_text_layers": 1}, "set lora_vision_rank or lora_text_rank to 0"),
    "no model beneath": ({"model_name_or_path": "null"}, "peft_type=LORA needs model_name_or_path"),
    "no adapter": ({"peft_type": "null"}, "lora_rank=4 is not allowed without peft_type"),
}


@pytest.mark.parametrize("name", REJECTED)
def test_what_cannot_be_adapted_is_rejected(name, published):
    options, message = REJECTED[name]
    with pytest.raises(UserError, match=message):
        adapt(published, **options)


def test_the_model_beneath_is_not_overwritten(published):
    with pytest.raises(UserError, match="it is the model beneath the adapter"):
        adapt(published, output_dir=published)
