"""Smaller images and dropped patches in the first part of a run."""

import copy
import json
import shutil

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoConfig

from modeling_clip_vit.losses import MultiPositiveLoss
from modeling_clip_vit.training.image_schedule import resize
from modeling_clip_vit.utils.errors import UserError
from tests.support.models import make_images, small_model
from tests.support.runs import assert_same_weights, train, write_recipe
from tests.support.trainers import IDS, build, make_batch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SMALL = {"small_image_size": 16, "small_images_until": 0.5}


def loss_of(model, **changes) -> torch.Tensor:
    """The default loss of the batch that trainers take."""
    batch = make_batch()
    names = ("pixel_values", "input_ids", "attention_mask")
    outputs = model(**{name: batch[name] for name in names} | changes)
    loss = MultiPositiveLoss()
    scale, bias = model.get_logit_scale(), model.get_logit_bias()
    return loss(outputs.image_embeds, outputs.text_embeds, scale, bias, (IDS, IDS)).detach()


def step_at(trainer, step: int) -> torch.Tensor:
    """The loss of a step of this number, of 100."""
    trainer.progress.step = step
    return trainer.train_step(make_batch())["loss"]


def mean_pixels() -> torch.Tensor:
    """The images of the batch at a quarter of their size."""
    return resize(make_batch()["pixel_values"], 16)


@pytest.mark.parametrize("positions", ["learned", "sincos", "rope"])
@pytest.mark.parametrize(("step", "is_small"), [(0, True), (49, True), (50, False), (99, False)])
def test_images_are_small_until_their_share_of_the_updates(tmp_path, positions, step, is_small):
    model = small_model({"position_embedding_type": positions}, logit_bias_init_value=-3.0).train()
    plain = copy.deepcopy(model)
    loss = step_at(build(tmp_path, model, **SMALL), step)
    small = loss_of(plain, pixel_values=mean_pixels(), interpolate_pos_encoding=True)
    whole = loss_of(plain)
    assert abs(float(small - whole)) > 1e-3
    assert_close(loss, small if is_small else whole)


def test_the_gradient_cache_sees_small_images(tmp_path):
    model = small_model(logit_bias_init_value=-3.0).train()
    plain = copy.deepcopy(model)
    loss = step_at(build(tmp_path, model, **SMALL, gradient_cache_batch_size=2), 0)
    assert_close(loss, loss_of(plain, pixel_values=mean_pixels(), interpolate_pos_encoding=True))


def test_a_smaller_pixel_is_near_the_mean_of_those_that_it_covers():
    """Exactly where they are alike; a checkerboard becomes grey instead of one of its colours."""
    pixels = torch.ones(1, 3, 32, 32)
    assert_close(resize(pixels, 16), torch.ones(1, 3, 16, 16))
    pixels[..., ::2, ::2] = pixels[..., 1::2, 1::2] = -1
    assert resize(pixels, 16)[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_evaluation_sees_images_of_the_model_s_size(tmp_path):
    trainer = build(tmp_path, small_model(logit_bias_init_value=-3.0), **SMALL)
    step_at(trainer, 0)
    model = trainer.unwrapped().eval()
    images = make_images(2)
    expected = copy.deepcopy(model)
    expected.vision_model.embeddings._forward_pre_hooks.clear()
    assert torch.equal(
        model.get_image_features(images).pooler_output,
        expected.get_image_features(images).pooler_output,
    )


@pytest.mark.parametrize(("step", "tokens"), [(0, 9), (89, 9), (90, 17), (99, 17)])
def test_patches_are_dropped_until_their_share_of_the_updates(tmp_path, step, tokens):
    """16 patches, or half of them, and a class token."""
    model = small_model({"patch_dropout": 0.5}, logit_bias_init_value=-3.0)
    trainer = build(tmp_path, model, patch_dropout_until=0.9)
    lengths = []
    handle = model.vision_model.encoder.register_forward_pre_hook(
        lambda module, inputs: lengths.append(inputs[0].shape[1])
    )
    step_at(trainer, step)
    handle.remove()
    assert lengths == [tokens]
    assert model.config.vision_config.patch_dropout == 0.5


def test_operations_are_counted_anew_when_images_grow(tmp_path):
    trainer = build(tmp_path, small_model(logit_bias_init_value=-3.0), **SMALL)
    counts = []
    for step in (0, 49, 50, 99):
        step_at(trainer, step)
        counts.append(trainer.throughput.operations)
    assert counts[0] == counts[1] < counts[2] == counts[3]


FLATTENED = {"pooling": "flatten", "use_cls_token": False}


@pytest.mark.parametrize(
    ("options", "vision", "sentence"),
    [
        ({"small_image_size": 20}, {}, "a multiple of patch_size=8 below image_size=32"),
        ({"small_image_size": 32}, {}, "a multiple of patch_size=8 below image_size=32"),
        ({"small_image_size": 0}, {}, "a multiple of patch_size=8 below image_size=32"),
        ({"small_image_size": 16}, FLATTENED, "with pooling='flatten', which fixes"),
        ({"small_image_size": 16, "frozen_vision_layers": 1}, {}, "frozen embeddings"),
        ({"small_image_size": 16, "frozen_towers": '["vision"]'}, {}, "frozen embeddings"),
        ({"patch_dropout_until": 0.9}, {}, "not allowed without patch dropout"),
    ],
)
def test_what_a_tower_does_not_take_is_rejected_before_the_first_step(
    tmp_path, options, vision, sentence
):
    model = small_model(vision, logit_bias_init_value=-3.0)
    with pytest.raises(UserError, match=sentence):
        build(tmp_path, model, **options)


#: Rows of a table that are kept decoded, or read anew by a worker; and a stream.
DATA = {
    "kept": {},
    "read": {"cache_images": False, "dataloader_num_workers": 1},
    "stream": {"images_per_concept": 1, "view_loss_weight": 0, "concept_column": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_a_run_resumes_over_the_change_to_the_same_weights(
    tmp_path, color_dataset, model_config_folder, name
):
    """The change is at update 12 of 24; the run goes on from its checkpoint at update 8."""
    fields = {
        **SMALL,
        **DATA[name],
        "vision_fields": {"pooling": "mean", "patch_embedding": "linear", "patch_dropout": 0.25},
        "patch_dropout_until": 0.75,
        "max_steps": 24,
        "save_steps": 8,
        "save_total_limit": 3,
        "eval_steps": 0,
        "optim": "adamw",
    }
    if name == "stream":
        fields["stream_sources"] = [str(color_dataset)]
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder, **fields)
    train(recipe)
    whole = tmp_path / "whole"
    shutil.move(tmp_path / "out", whole)
    place = f"--resume_from_checkpoint={whole / 'checkpoints' / 'step-00000008'}"
    train(recipe, place)
    assert_same_weights(tmp_path / "out", whole)
    vision = AutoConfig.from_pretrained(whole).vision_config
    assert (vision.image_size, vision.patch_dropout) == (32, 0.25)
    processor = json.loads((whole / "processor_config.json").read_text())["image_processor"]
    assert processor["size"]["shortest_edge"] == 32
