"""Tip-Adapter-F: a Tip-Adapter whose keys are trained.

Shape legend: `N` examples, `P` projection.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.nn import functional as F  # noqa: N812

from .classifiers import Examples, ZeroShot, can_be_held_out
from .tip_adapter import BETAS, HeldOut, TipAdapter, choose, count_votes, fit_tip_adapter

#: How the keys are trained (section 4.1 of the paper; epsilon as in its code).
LEARNING_RATE, ADAM_EPSILON, BATCH_SIZE, NUM_EPOCHS = 1e-3, 1e-4, 256, 20
#: Numbers of epochs that are tried.
EPOCHS_TRIED = (0, 10, 20)
#: Parts of the examples, of which one is held out while keys are trained on the others.
NUM_FOLDS = 5
#: So many held-out examples are enough: no more parts are held out.
ENOUGH_HELD_OUT = 1000


def fit_tip_adapter_f(zero_shot: ZeroShot, examples: Examples, seed: int = 0) -> TipAdapter:
    """A Tip-Adapter with trained keys (Zhang et al., 2022, section 3.2), on embeddings.

    The keys start as the examples and are trained to classify them, with the alpha and beta of the
    Tip-Adapter. The number of epochs, and the alpha and beta of the trained keys, are those that
    make parts of the examples likeliest that are held out in turn. With one example a class none
    can be held out: the keys are trained for all epochs.

    Args:
        zero_shot: classifies by the names.
        examples: the examples.
        seed: of the order of the examples in an epoch.
    """
    start = fit_tip_adapter(zero_shot, examples)
    if start.alpha == 0:
        return start  # without votes, keys have no gradient
    choices = {
        num_epochs: choose(held_out)
        for num_epochs, held_out in hold_out(start, examples, seed).items()
    }
    num_epochs, fitted = NUM_EPOCHS, start
    if choices:
        num_epochs = min(choices, key=lambda tried: choices[tried].loss)
        best = choices[num_epochs]
        fitted = replace(start, alpha=best.alpha, beta=best.beta, temperature=best.temperature)
    keys = dict(enumerate(train_keys(start, examples, seed)))[num_epochs]
    return replace(fitted, keys=keys, num_epochs=num_epochs)


def hold_out(start: TipAdapter, examples: Examples, seed: int) -> dict[int, HeldOut]:
    """Number of epochs -> held-out examples, and the votes of keys that were trained on the others.

    Empty if no example can be held out.
    """
    parts: dict[int, list[HeldOut]] = {}
    count = 0
    for fold in split_folds(examples.labels):
        if count >= ENOUGH_HELD_OUT:
            break
        count += int(fold.sum())
        others, held_out = examples.take(~fold), examples.take(fold)
        for num_epochs, keys in enumerate(train_keys(start, others, seed)):
            if num_epochs in EPOCHS_TRIED:
                votes = ask(start, keys, others.labels, held_out, examples)
                parts.setdefault(num_epochs, []).append(votes)
    return {num_epochs: join(held_out) for num_epochs, held_out in parts.items()}


def split_folds(labels: torch.Tensor) -> Iterator[torch.Tensor]:
    """Masks (N,) of up to `NUM_FOLDS` parts that hold no class's only example."""
    places = torch.zeros_like(labels)
    for name in labels.unique():
        rows = (labels == name).nonzero().flatten()
        places[rows] = torch.arange(len(rows))
    folds = torch.where(can_be_held_out(labels), places % NUM_FOLDS, -1)
    for fold in range(NUM_FOLDS):
        if (folds == fold).any():
            yield folds == fold


def ask(
    start: TipAdapter,
    keys: torch.Tensor,
    labels: torch.Tensor,
    held_out: Examples,
    examples: Examples,
) -> HeldOut:
    """The votes of trained keys for held-out examples, as if no key were missing."""
    num_classes = len(start.zero_shot.class_embeds)
    cosines, shots = held_out.embeds @ keys.t(), len(examples.labels) / num_classes
    votes = {beta: count_votes(cosines, labels, num_classes, beta, shots) for beta in BETAS}
    return HeldOut(start.zero_shot.logits(held_out.embeds), votes, held_out.labels)


def join(parts: list[HeldOut]) -> HeldOut:
    """Several parts as one."""
    return HeldOut(
        torch.cat([part.zero_shot for part in parts]),
        {beta: torch.cat([part.votes[beta] for part in parts]) for beta in BETAS},
        torch.cat([part.labels for part in parts]),
    )


def train_keys(start: TipAdapter, examples: Examples, seed: int) -> Iterator[torch.Tensor]:
    """The keys (N, P) before training and after each epoch.

    AdamW with a learning rate that falls to 0 along a cosine, on the cross entropy of the logits at
    the temperature of the Tip-Adapter: without it, a key's own example leaves nothing to learn.
    """
    embeds, labels = examples
    generator = torch.Generator().manual_seed(seed)
    keys = embeds.clone().requires_grad_()
    optimizer = torch.optim.AdamW([keys], lr=LEARNING_RATE, eps=ADAM_EPSILON)
    steps = NUM_EPOCHS * -(-len(labels) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    zero_shot = start.zero_shot.logits(embeds)
    yield embeds
    for _ in range(NUM_EPOCHS):
        for rows in torch.randperm(len(labels), generator=generator).split(BATCH_SIZE):
            cosines = embeds[rows] @ keys.t()
            votes = count_votes(cosines, labels, zero_shot.shape[1], start.beta)
            logits = zero_shot[rows] + start.alpha * votes
            optimizer.zero_grad()
            F.cross_entropy(logits / start.temperature, labels[rows]).backward()
            optimizer.step()
            schedule.step()
        yield keys.detach().clone()
