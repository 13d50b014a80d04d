"""The few-shot methods against their formulas, the paper's own layer, and plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from modeling_clip_vit.inference.few_shot import METHODS, Examples, ZeroShot, draw_shots
from modeling_clip_vit.inference.few_shot import prototypes as prototypes_module
from modeling_clip_vit.inference.few_shot.classifiers import can_be_held_out
from modeling_clip_vit.inference.few_shot.prototypes import fit_prototypes, mix
from modeling_clip_vit.inference.few_shot.tip_adapter import (
    BETAS,
    TipAdapter,
    count_votes,
    leave_one_out,
)
from modeling_clip_vit.inference.few_shot.tip_adapter_f import split_folds, train_keys

NUM_CLASSES, SCALE = 5, 20.0
#: Examples of each class: one has a single example.
UNEVEN = torch.tensor([0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4])


def unit(rows: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)), dim=1)


def around_classes(labels: torch.Tensor, seed: int, noise: float = 1.0) -> torch.Tensor:
    """Images that lie around a place of their class."""
    return normalize(unit(NUM_CLASSES, 99)[labels] + noise * unit(len(labels), seed), dim=1)


def even(shots: int, seed: int = 0, noise: float = 1.0) -> Examples:
    labels = torch.arange(NUM_CLASSES).repeat(shots)
    return Examples(around_classes(labels, seed, noise), labels)


@pytest.fixture
def zero_shot() -> ZeroShot:
    """Names that have nothing to do with the images."""
    return ZeroShot(unit(NUM_CLASSES, 7), SCALE)


@pytest.fixture
def knowing() -> ZeroShot:
    """Names that lie where the images of their class do."""
    return ZeroShot(unit(NUM_CLASSES, 99), SCALE)


def accuracy(classifier, images: Examples) -> float:
    predicted = classifier.logits(images.embeds).argmax(dim=1)
    return (predicted == images.labels).float().mean().item()


def test_tip_adapter_is_the_papers_formula(zero_shot):
    examples, images = even(4), unit(30, 3)
    adapter = TipAdapter(zero_shot, *examples, alpha=1.7, beta=5.5, temperature=1.0)
    features, keys = images.double().numpy(), examples.embeds.double().numpy()
    values = np.eye(NUM_CLASSES)[examples.labels]
    cache = np.exp(-5.5 * (1 - features @ keys.T)) @ values
    names = SCALE * features @ zero_shot.class_embeds.double().numpy().T
    np.testing.assert_allclose(adapter.logits(images), 1.7 * cache + names, rtol=1e-4, atol=1e-5)


def test_a_class_with_more_examples_weighs_no_more():
    """Twice the same examples of one class: the votes for the others are as large in comparison."""
    examples, images = even(2), unit(10, 3)
    twice = examples.labels == 1
    cosines = images @ examples.embeds.t()
    once = count_votes(cosines, examples.labels, NUM_CLASSES, 4.0)
    more = count_votes(
        torch.cat((cosines, cosines[:, twice]), dim=1),
        torch.cat((examples.labels, examples.labels[twice])),
        NUM_CLASSES,
        4.0,
    )
    torch.testing.assert_close(more / more.sum(1, True), once / once.sum(1, True))


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_prototypes_are_the_nearest_mean_with_some_of_the_name(weight, zero_shot):
    examples, images = even(6), unit(30, 3)
    means = [examples.embeds[examples.labels == name].mean(dim=0) for name in range(NUM_CLASSES)]
    found = mix(6 * torch.stack(means), zero_shot.class_embeds, weight)
    fitted = replace(fit_prototypes(zero_shot, examples), prototypes=found)
    for name, mean in enumerate(means):
        mixed = (1 - weight) * mean / mean.norm() + weight * zero_shot.class_embeds[name]
        expected = SCALE * images @ (mixed / mixed.norm())
        torch.testing.assert_close(fitted.logits(images)[:, name], expected, rtol=1e-4, atol=1e-5)


def test_a_left_out_example_has_no_part_in_its_prototype(zero_shot):
    embeds, texts = around_classes(UNEVEN, 1), zero_shot.class_embeds
    held_out = Examples(embeds, UNEVEN).take(can_be_held_out(UNEVEN))
    sums = torch.stack([embeds[name == UNEVEN].sum(dim=0) for name in range(NUM_CLASSES)])
    cosines = prototypes_module.leave_one_out(sums, texts, 0.3, held_out)
    rows = can_be_held_out(UNEVEN).nonzero().flatten().tolist()
    assert 0 not in rows
    for row, found in zip(rows, cosines, strict=True):
        others = torch.arange(len(UNEVEN)) != row
        kept, labels = embeds[others], UNEVEN[others]
        sums = torch.stack([kept[labels == name].sum(dim=0) for name in range(NUM_CLASSES)])
        torch.testing.assert_close(found, mix(sums, texts, 0.3) @ embeds[row])


def test_a_left_out_example_has_no_vote(zero_shot):
    """Its class is asked as if it had as many examples as before."""
    embeds = around_classes(UNEVEN, 1)
    held_out = leave_one_out(zero_shot, Examples(embeds, UNEVEN))
    mean_count = len(UNEVEN) / NUM_CLASSES
    for place, row in enumerate(can_be_held_out(UNEVEN).nonzero().flatten().tolist()):
        others = torch.arange(len(UNEVEN)) != row
        for beta in BETAS:
            votes = (beta * (embeds @ embeds[row] - 1)).exp()
            means = [votes[others & (name == UNEVEN)].mean() for name in range(NUM_CLASSES)]
            expected = mean_count * torch.stack(means)
            torch.testing.assert_close(held_out.votes[beta][place], expected, rtol=1e-4, atol=1e-6)


def test_keys_are_trained_as_by_the_layer_of_the_paper(zero_shot):
    """Its code: a linear layer whose weights are the keys, AdamW, a cosine over all steps."""
    examples = even(3)
    start = TipAdapter(zero_shot, *examples, alpha=2.0, beta=5.5, temperature=1.0)
    adapter = torch.nn.Linear(16, len(examples.labels), bias=False)
    adapter.weight = torch.nn.Parameter(examples.embeds.clone())
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.001, eps=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    values = torch.eye(NUM_CLASSES)[examples.labels]
    for _ in range(20):
        affinity = adapter(examples.embeds)
        cache_logits = ((-1) * (5.5 - 5.5 * affinity)).exp() @ values
        logits = zero_shot.logits(examples.embeds) + cache_logits * 2.0
        optimizer.zero_grad()
        cross_entropy(logits, examples.labels).backward()
        optimizer.step()
        scheduler.step()
    *_, keys = train_keys(start, examples, seed=0)
    assert (keys - examples.embeds).abs().max() > 1e-3
    torch.testing.assert_close(keys, adapter.weight.detach(), rtol=1e-3, atol=1e-5)


def test_folds_hold_out_every_example_once_but_a_classs_only_one():
    folds = torch.stack(list(split_folds(UNEVEN)))
    assert folds.sum(dim=0).tolist() == can_be_held_out(UNEVEN).long().tolist()
    for fold in folds:
        assert set(UNEVEN[~fold].tolist()) == set(range(NUM_CLASSES))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shots", [1, 4])
def test_the_order_of_the_classes_changes_nothing(method, shots, zero_shot):
    examples, images = even(shots), unit(20, 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    renamed = Examples(examples.embeds, order.argsort()[examples.labels])
    other = replace(zero_shot, class_embeds=zero_shot.class_embeds[order])
    found = METHODS[method](other, renamed, 0).probabilities(images)
    expected = METHODS[method](zero_shot, examples, 0).probabilities(images)
    torch.testing.assert_close(found, expected[:, order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["prototypes", "tip_adapter", "tip_adapter_f"])
@pytest.mark.parametrize("shots", [1, 2, 8])
def test_names_that_know_nothing_do_not_drown_the_examples(method, shots, zero_shot):
    images = even(40, seed=5)
    assert accuracy(zero_shot, images) < 0.4
    assert accuracy(METHODS[method](zero_shot, even(shots), 0), images) > 0.6


@pytest.mark.parametrize("method", ["prototypes", "tip_adapter", "tip_adapter_f"])
def test_examples_that_know_nothing_do_not_drown_the_names(method, knowing):
    images = even(40, seed=5, noise=0.5)
    labels = torch.arange(NUM_CLASSES).repeat(8)
    anything = Examples(unit(len(labels), 8), labels)
    loss = accuracy(knowing, images) - accuracy(METHODS[method](knowing, anything, 0), images)
    assert loss < 0.05


def test_probabilities_are_a_softmax_or_with_a_bias_a_sigmoid_each(zero_shot):
    images = unit(6, 3)
    logits = SCALE * images @ zero_shot.class_embeds.t()
    torch.testing.assert_close(zero_shot.probabilities(images), logits.softmax(dim=1))
    sigmoid = replace(zero_shot, bias=-3.0)
    torch.testing.assert_close(sigmoid.probabilities(images), (logits - 3).sigmoid())


def test_a_draw_has_as_many_of_each_class_and_is_the_seeds():
    labels = torch.arange(NUM_CLASSES).repeat(9)
    drawn = draw_shots(labels, NUM_CLASSES, 3, seed=1)
    assert labels[drawn].tolist() == [name for name in range(NUM_CLASSES) for _ in range(3)]
    assert len(set(drawn.tolist())) == 15
    assert drawn.equal(draw_shots(labels, NUM_CLASSES, 3, seed=1))
    assert not drawn.equal(draw_shots(labels, NUM_CLASSES, 3, seed=2))
