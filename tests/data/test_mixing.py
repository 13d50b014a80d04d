"""Mixup and CutMix: what is mixed, how much, and what it is called."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.batches import split_views
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.mixing import MixOptions, mix_batch, mix_class_targets, mix_seed
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.options import LossOptions
from modeling_clip_vit.training.tasks.objective import ContrastiveObjective
from tests.support.runs import train, write_recipe

COUNT = 400
BOTH = MixOptions(mixup_probability=0.4, cutmix_probability=0.3)


def make_batch(seed: int = 0, side: int = 16, ids: torch.Tensor | None = None) -> dict:
    """Images that are each of one brightness: their own number."""
    numbers = torch.arange(COUNT, dtype=torch.float32)
    return {
        "pixel_values": numbers[:, None, None, None].expand(COUNT, 3, side, side).clone(),
        "image_ids": torch.arange(COUNT) if ids is None else ids,
        "text_ids": torch.arange(COUNT),
        "mix_seed": mix_seed([seed, 1]),
    }


def shares(batch: dict, mixed: dict, partner: torch.Tensor) -> torch.Tensor:
    """From the pixels alone: the mean weight of each first image, (B,)."""
    own = batch["pixel_values"][:, 0, 0, 0]
    mean = mixed["pixel_values"].double().mean(dim=(1, 2, 3))
    return (mean - partner) / (own - partner)


def test_weights_are_what_the_pixels_show():
    batch = make_batch()
    mixed = mix_batch(batch, BOTH, progress=0)
    seen = shares(batch, mixed, mixed["mixed_ids"].double())
    assert_close(seen, mixed["mix_weight"].double(), atol=1e-4, rtol=0)


def test_every_image_is_mixed_into_another_one():
    mixed = mix_batch(make_batch(), BOTH, progress=0)
    assert (mixed["mixed_ids"] != mixed["image_ids"]).all()
    assert sorted(mixed["mixed_ids"].tolist()) == list(range(COUNT))


def test_each_way_of_mixing_comes_as_often_as_its_probability_says():
    mixed = mix_batch(make_batch(), BOTH, progress=0)
    kinds = {"alone": 0, "blended": 0, "cut": 0}
    for number, partner, image in zip(
        range(COUNT), mixed["mixed_ids"].tolist(), mixed["pixel_values"], strict=True
    ):
        values = set(image.unique().tolist())
        pasted = "cut" if values <= {number, partner} else "blended"
        kinds["alone" if values == {number} else pasted] += 1
    assert 0.32 < kinds["blended"] / COUNT < 0.48
    assert 0.2 < kinds["cut"] / COUNT < 0.38  # a few rectangles have no pixel


def test_all_channels_are_mixed_alike():
    images = mix_batch(make_batch(), BOTH, progress=0)["pixel_values"]
    assert images.var(dim=1).max() == 0


@pytest.fixture(scope="module")
def pasted() -> torch.Tensor:
    """Which pixels of each image CutMix replaced, (B, S, S)."""
    mixed = mix_batch(make_batch(), MixOptions(cutmix_probability=1), progress=0)
    return mixed["pixel_values"][:, 0] != torch.arange(COUNT)[:, None, None]


def test_what_cutmix_pastes_is_a_rectangle(pasted):
    box = pasted.any(dim=2)[:, :, None] & pasted.any(dim=1)[:, None, :]
    assert torch.equal(pasted, box)


def test_cutmix_pastes_large_and_small_parts(pasted):
    """Their areas are uniform with an alpha of 1, less what lies outside of the image."""
    areas = pasted.float().mean(dim=(1, 2))
    assert (areas > 0.5).float().mean() > 0.1
    assert (areas < 0.2).float().mean() > 0.2


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_alpha_says_how_even_the_weights_are(alpha):
    options = MixOptions(mixup_probability=1, mixup_alpha=alpha)
    spread = float(mix_batch(make_batch(), options, 0)["mix_weight"].std())
    # The standard deviation of Beta(a, a) is 1 / (2 sqrt(2 a + 1)).
    assert spread == pytest.approx(0.5 / np.sqrt(2 * alpha + 1), rel=0.12)


def test_mixing_depends_on_the_samples_alone():
    first, again = (mix_batch(make_batch(3), BOTH, 0) for _ in range(2))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert torch.equal(first["mixed_ids"], again["mixed_ids"])


def test_other_samples_are_mixed_differently():
    one, other = (mix_batch(make_batch(seed), BOTH, 0) for seed in (3, 4))
    assert not torch.equal(one["mixed_ids"], other["mixed_ids"])


def test_mixing_leaves_the_random_numbers_of_the_process():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    mix_batch(make_batch(3), BOTH, 0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_mixing_ends_at_mix_until():
    options, batch = MixOptions(mixup_probability=1, mix_until=0.75), make_batch()
    assert (mix_batch(batch, options, 0.74)["mix_weight"] < 1).any()
    late = mix_batch(batch, options, 0.75)
    assert torch.equal(late["pixel_values"], batch["pixel_values"])
    assert (late["mix_weight"] == 1).all()


def test_a_batch_keeps_its_form_when_mixing_has_ended():
    options, batch = MixOptions(mixup_probability=1, mix_until=0.75), make_batch()
    assert mix_batch(batch, options, 1).keys() == mix_batch(batch, options, 0).keys()


def test_options_that_mix_nothing_leave_the_batch():
    batch = make_batch()
    assert mix_batch(batch, MixOptions(), 0) is batch


@pytest.fixture(scope="module")
def mixed_in_concepts() -> torch.Tensor:
    """Brightness of images mixed within their concepts, of three images each; the last is alone."""
    ids = torch.arange(COUNT) // 3 + 2**62  # as large as hashes
    options = MixOptions(mixup_probability=1, mix_partners="concept")
    mixed = mix_batch(make_batch(ids=ids), options, 0)
    assert torch.equal(mixed["mixed_ids"], ids)
    return mixed["pixel_values"][:, 0, 0, 0]


def test_partners_of_a_concept_are_of_the_same_concept(mixed_in_concepts):
    unmixed = torch.arange(COUNT).float()
    assert (mixed_in_concepts != unmixed).float().mean() > 0.95
    assert torch.equal((mixed_in_concepts / 3).floor(), (unmixed / 3).floor())


def test_an_image_alone_in_its_concept_is_not_mixed(mixed_in_concepts):
    assert mixed_in_concepts[-1] == COUNT - 1


@pytest.fixture(scope="module")
def mixed_classes() -> dict:
    """A mixed batch of five classes."""
    return mix_batch({**make_batch(), "labels": torch.arange(COUNT) % 5}, BOTH, 0)


def test_the_mixed_class_is_that_of_the_image_mixed_in(mixed_classes):
    assert torch.equal(mixed_classes["mixed_labels"], mixed_classes["mixed_ids"] % 5)


def test_classes_are_mixed_by_weight(mixed_classes):
    labels, others = mixed_classes["labels"], mixed_classes["mixed_labels"]
    weight, one_hot = mixed_classes["mix_weight"], torch.nn.functional.one_hot
    expected = weight[:, None] * one_hot(labels, 5) + (1 - weight[:, None]) * one_hot(others, 5)
    assert_close(mix_class_targets(labels, others, weight, 5), expected)


@pytest.mark.parametrize("loss", ["multi_positive", "siglip"])
def test_the_loss_pulls_a_mixed_image_to_both_of_its_texts(loss):
    """The gradient says where to: most to the first, less to the second, away from others."""
    objective = ContrastiveObjective(LossOptions(loss=loss))
    texts = torch.eye(4)
    batch = {
        "image_ids": torch.arange(4),
        "mixed_ids": torch.tensor([1, 1, 2, 3]),
        "mix_weight": torch.tensor([0.7, 1, 1, 1]),
        "text_ids": torch.arange(4),
    }
    images = torch.eye(4)
    images[0] = 0
    images.requires_grad_()
    objective(batch, images, texts, torch.tensor(2.0), torch.tensor(-1.0))[0].backward()
    first, second, third, _ = images.grad[0].tolist()
    assert first < second < 0 < third


def test_two_views_mixed_alike_are_positives_of_each_other():
    objective = ContrastiveObjective(LossOptions(view_loss_weight=1))
    batch = {
        "image_ids": torch.tensor([0, 1, 0, 1]),
        "mixed_ids": torch.tensor([2, 1, 2, 1]),
        "mix_weight": torch.tensor([0.5, 1, 0.5, 1]),
        "text_ids": torch.arange(3),
        **split_views([True, True, False, False]),
    }
    views = torch.eye(4)[:2]

    def value(first: torch.Tensor) -> float:
        images = torch.cat((first, views))
        scale = torch.tensor(3.0)
        return float(objective(batch, images, torch.eye(4)[:3], scale, None)[1]["loss/view"])

    assert value(views) < value(views.flip(0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixup_probability": 1.2}, "mixup_probability=1.2 .* from 0 to 1"),
        ({"cutmix_probability": -0.1}, "cutmix_probability=-0.1 .* from 0 to 1"),
        ({"mixup_probability": 0.6, "cutmix_probability": 0.6}, "sum must be at most 1"),
        ({"mixup_alpha": 0}, "mixup_alpha=0 .* above 0"),
        ({"cutmix_alpha": -1}, "cutmix_alpha=-1 .* above 0"),
        ({"mix_until": 1.5}, "mix_until=1.5 .* share of the run"),
        ({"mix_partners": "self"}, "mix_partners=self .* any, concept"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        MixOptions(**fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "clip", "--mixup_probability", "0.5"], "loss='clip' .* multi_positive or sig"),
        (["--loss", "hard_negative", "--cutmix_probability", "0.5"], "loss='hard_negative'"),
        (
            ["--mix_partners", "concept", "--mixup_probability", "0.5"],
            "mix_partners='concept' is not allowed with images_per_concept=1",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(arguments)


@pytest.mark.slow
def test_a_mixed_run_resumes_exactly(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(
        tmp_path,
        color_dataset,
        linear_config,
        max_steps=60,
        mixup_probability=0.3,
        cutmix_probability=0.3,
        mix_until=0.8,
        crop_scale=[0.8, 1],
        policy="trivialaugment",
        eval_steps=0,
        save_steps=40,
    )
    train(recipe)
    (kept,) = (tmp_path / "out" / "checkpoints").glob("step-*")
    again = tmp_path / "again"
    more = ["--output_dir", str(again), "--resume_from_checkpoint", str(kept)]
    assert main(["train", "--config", str(recipe), "--report_to", "none", *more]) == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    resumed = load_file(again / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())
