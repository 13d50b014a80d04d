"""Mixup and CutMix: what is mixed, how much, and what it is called."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.mixing import MixOptions, mix_batch, mix_class_targets, mix_seed
from modeling_clip_vit.training.arguments import LossOptions
from modeling_clip_vit.training.command import parse_arguments
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
    partner = mixed["mixed_ids"].double()
    assert (mixed["mixed_ids"] != mixed["image_ids"]).all()
    assert sorted(mixed["mixed_ids"].tolist()) == list(range(COUNT))
    seen = shares(batch, mixed, partner)
    assert_close(seen, mixed["mix_weight"].double(), atol=1e-4, rtol=0)
    assert mixed["mix_weight"].min() >= 0
    assert mixed["mix_weight"].max() <= 1


def test_each_way_comes_as_often_as_asked():
    mixed = mix_batch(make_batch(), BOTH, progress=0)
    kinds = {"alone": 0, "blended": 0, "cut": 0}
    for own, partner, image in zip(
        range(COUNT), mixed["mixed_ids"].tolist(), mixed["pixel_values"], strict=True
    ):
        values = set(image.unique().tolist())
        assert image.var(dim=0).max() == 0  # all channels alike
        kind = "alone" if values == {own} else "cut" if values <= {own, partner} else "blended"
        kinds[kind] += 1
    assert 0.32 < kinds["blended"] / COUNT < 0.48
    assert 0.2 < kinds["cut"] / COUNT < 0.38  # a few rectangles have no pixel


def test_what_cutmix_pastes_is_a_rectangle():
    mixed = mix_batch(make_batch(), MixOptions(cutmix_probability=1), progress=0)
    areas = []
    for own, image in enumerate(mixed["pixel_values"][:, 0]):
        pasted = image != own
        box = pasted.any(dim=1)[:, None] & pasted.any(dim=0)[None]
        assert torch.equal(pasted, box)
        areas.append(float(pasted.float().mean()))
    assert np.mean(np.array(areas) > 0.5) > 0.1
    assert np.mean(np.array(areas) < 0.2) > 0.2


def test_alpha_says_how_even_the_weights_are():
    def spread(alpha: float) -> float:
        options = MixOptions(mixup_probability=1, mixup_alpha=alpha)
        return float(mix_batch(make_batch(), options, 0)["mix_weight"].std())

    # The standard deviation of Beta(a, a) is 1 / (2 sqrt(2 a + 1)).
    for alpha in (0.2, 1.0, 8.0):
        assert spread(alpha) == pytest.approx(0.5 / np.sqrt(2 * alpha + 1), rel=0.12)


def test_mixing_depends_on_the_samples_alone_and_draws_nothing_else():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, again = (mix_batch(make_batch(3), BOTH, 0) for _ in range(2))
    other = mix_batch(make_batch(4), BOTH, 0)
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert torch.equal(first["mixed_ids"], again["mixed_ids"])
    assert not torch.equal(first["mixed_ids"], other["mixed_ids"])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_it_ends_where_asked_and_the_batch_keeps_its_form():
    options = MixOptions(mixup_probability=1, mix_until=0.75)
    batch = make_batch()
    assert (mix_batch(batch, options, 0.74)["mix_weight"] < 1).any()
    late = mix_batch(batch, options, 0.75)
    assert torch.equal(late["pixel_values"], batch["pixel_values"])
    assert (late["mix_weight"] == 1).all()
    assert late.keys() == mix_batch(batch, options, 0).keys()
    assert mix_batch(batch, MixOptions(), 0) is batch


def test_partners_of_the_same_concept():
    ids = torch.arange(COUNT) // 3 + 2**62  # as large as hashes; the last one stands alone
    options = MixOptions(mixup_probability=1, mix_partners="concept")
    batch = make_batch(ids=ids)
    mixed = mix_batch(batch, options, 0)
    assert torch.equal(mixed["mixed_ids"], ids)
    own = torch.arange(COUNT).float()
    values = mixed["pixel_values"][:, 0, 0, 0]
    assert (values != own).float().mean() > 0.95
    assert (torch.div(values, 3, rounding_mode="floor") == own // 3).all()
    assert values[-1] == own[-1]


def test_classes_are_mixed_by_weight():
    batch = {**make_batch(), "labels": torch.arange(COUNT) % 5}
    mixed = mix_batch(batch, BOTH, 0)
    assert torch.equal(mixed["mixed_labels"], mixed["mixed_ids"] % 5)
    labels, others, weight = mixed["labels"], mixed["mixed_labels"], mixed["mix_weight"]
    targets = mix_class_targets(labels, others, weight, 5)
    one_hot = torch.nn.functional.one_hot
    expected = weight[:, None] * one_hot(labels, 5) + (1 - weight[:, None]) * one_hot(others, 5)
    assert_close(targets, expected)
    assert_close(targets.sum(dim=1), torch.ones(COUNT))


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
        "is_first_view": torch.tensor([True, True, False, False]),
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
def test_a_mixed_run_learns_and_resumes_exactly(tmp_path, color_dataset, linear_config):
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
    assert train(recipe)["accuracy"] > 0.3  # guessing finds one in eight
    (kept,) = (tmp_path / "out" / "checkpoints").glob("step-*")
    again = tmp_path / "again"
    more = ["--output_dir", str(again), "--resume_from_checkpoint", str(kept)]
    assert main(["train", "--config", str(recipe), "--report_to", "none", *more]) == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    resumed = load_file(again / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())
