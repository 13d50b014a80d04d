"""Losses against plain formulas, against each other, and tiled against whole."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from modeling_clip_vit.losses import (
    ClipLoss,
    ContrastiveLoss,
    DistillationLoss,
    HardNegativeLoss,
    MatryoshkaLoss,
    MixedIds,
    MultiPositiveLoss,
    SigLipLoss,
)
from modeling_clip_vit.losses.tiles import choose_tile_size


def embeds(rows: int, seed: int, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return normalize(values, dim=-1).requires_grad_()


SCALE = torch.tensor(7.0, dtype=torch.float64)


def test_clip_loss_equals_transformers():
    images, texts = embeds(6, 0), embeds(6, 1)
    expected = image_text_contrastive_loss(SCALE * texts @ images.t())
    assert_close(ClipLoss()(images, texts, SCALE), expected)


def test_multi_positive_loss_equals_loops():
    images, texts = embeds(6, 0), embeds(4, 1)
    image_ids, text_ids = torch.tensor([0, 1, 2, 0, 1, 9]), torch.tensor([0, 1, 2, 1])
    logits = (SCALE * images @ texts.t()).tolist()

    def one_way(scores, own, others):
        losses = []
        for row, identity in zip(scores, own, strict=True):
            total = math.log(sum(math.exp(score) for score in row))
            right = [s for s, other in zip(row, others, strict=True) if other == identity]
            if right:
                losses.append(sum(total - score for score in right) / len(right))
        return sum(losses) / len(losses)

    columns = [list(column) for column in zip(*logits, strict=True)]
    ids = image_ids.tolist(), text_ids.tolist()
    expected = (one_way(logits, *ids) + one_way(columns, *reversed(ids))) / 2
    loss = MultiPositiveLoss()(images, texts, SCALE, targets=(image_ids, text_ids))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    matrix = (image_ids[:, None] == text_ids[None, :]).float()
    assert_close(MultiPositiveLoss()(images, texts, SCALE, targets=matrix), loss)


def test_with_one_positive_each_multi_positive_is_clip():
    images, texts = embeds(6, 0), embeds(6, 1)
    expected = ClipLoss()(images, texts, SCALE)
    ids = torch.arange(6)
    assert_close(MultiPositiveLoss()(images, texts, SCALE), expected)
    assert_close(MultiPositiveLoss()(images, texts, SCALE, targets=(ids, ids)), expected)


def test_siglip_loss_equals_loops():
    images, texts, bias = embeds(3, 0), embeds(4, 1), torch.tensor(-2.0, dtype=torch.float64)
    ids = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1, 1])
    expected = 0.0
    for image, image_id in zip(images, ids[0], strict=True):
        for text, text_id in zip(texts, ids[1], strict=True):
            sign = 1 if image_id == text_id else -1
            logit = (SCALE * image @ text + bias).item()
            expected += math.log(1 + math.exp(-sign * logit)) / 3
    loss = SigLipLoss()(images, texts, SCALE, bias, targets=ids)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


IDS = torch.tensor([0, 1, 2, 0, 9]), torch.tensor([0, 1, 2, 2, 1, 7, 0])
MATRIX = torch.tensor(
    [[0.7, 0.3, 0, 0, 0, 0, 0], [0, 0, 1, 0.5, 0, 0, 0], [0] * 7, [1] * 7, [0] * 7]
)
#: Five images, of which three are mixed; the second concept of the fourth has no text.
MIXED = MixedIds(
    IDS[0], torch.tensor([1, 0, 0, 5, 2]), torch.tensor([0.7, 1, 0.25, 0.5, 0.4]).double()
)
MIXED_VIEWS = MixedIds(
    torch.tensor([2, 1, 0, 9]), torch.tensor([2, 0, 9, 1]), torch.tensor([0.3, 0.9, 0.6, 1])
)
#: Name -> loss for a size of tile, targets for 5 images and 7 texts (or None: 5 pairs).
CASES = {
    "clip": (lambda tile: ClipLoss(tile_size=tile), None),
    "smooth": (lambda tile: MultiPositiveLoss(0.2, tile), None),
    "ids": (lambda tile: MultiPositiveLoss(0.1, tile), IDS),
    "matrix": (lambda tile: MultiPositiveLoss(0.1, tile), MATRIX),
    "mixed ids": (lambda tile: MultiPositiveLoss(0.1, tile), (MIXED, IDS[1])),
    "mixed views": (lambda tile: MultiPositiveLoss(0, tile), (MIXED, MIXED_VIEWS)),
    "siglip": (lambda tile: SigLipLoss(tile), None),
    "siglip, ids": (lambda tile: SigLipLoss(tile), IDS),
    "siglip, matrix": (lambda tile: SigLipLoss(tile), MATRIX),
    "siglip, mixed ids": (lambda tile: SigLipLoss(tile), (MIXED, IDS[1])),
    "hard": (lambda tile: HardNegativeLoss(0.3, tile), None),
    "hard, ids": (lambda tile: HardNegativeLoss(0.3, tile), (IDS[0], IDS[0])),
    "matryoshka": (lambda tile: MatryoshkaLoss(ClipLoss(tile_size=tile), [3, 8], [1, 2]), None),
}


def case(name: str, tile_size: int | None):
    """A loss as a function of its differentiable inputs, and those."""
    make, targets = CASES[name]
    loss, num_texts = make(tile_size), 5
    if targets is not None:
        num_texts = targets.shape[1] if isinstance(targets, torch.Tensor) else targets[1].shape[0]
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    inputs = embeds(5, 0), embeds(num_texts, 1), SCALE.clone().requires_grad_(), bias
    return lambda *values: loss(*values, targets=targets), inputs


@pytest.mark.parametrize("tile_size", [None, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name, tile_size):
    loss, inputs = case(name, tile_size)
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("name", CASES)
def test_tiles_of_any_size_give_what_the_whole_matrix_gives(name):
    whole, inputs = case(name, None)
    whole(*inputs).backward()
    expected = [value.grad for value in inputs if value.grad is not None]
    for tile_size in (1, 2, 4, 1024):
        tiled, again = case(name, tile_size)
        value = tiled(*again)
        assert_close(value, whole(*inputs))
        value.backward()
        gradients = [value.grad for value in again if value.grad is not None]
        for mine, other in zip(gradients, expected, strict=True):
            assert_close(mine, other, rtol=1e-10, atol=1e-12)


def dense_weights(images: MixedIds, others: MixedIds) -> torch.Tensor:
    """By loops: how much each image has in common with each other row."""
    shares = [
        [{a: 0.0, b: 0.0} | {b: 1 - w} | {a: w + (1 - w) * (a == b)} for a, b, w in rows]
        for rows in (
            zip(ids.first.tolist(), ids.second.tolist(), ids.weight.tolist(), strict=True)
            for ids in (images, others)
        )
    ]
    return torch.tensor(
        [[sum(p * q.get(i, 0) for i, p in one.items()) for q in shares[1]] for one in shares[0]],
        dtype=torch.float64,
    )


def plain(ids: torch.Tensor) -> MixedIds:
    return MixedIds(ids, ids, torch.ones(len(ids)))


@pytest.mark.parametrize("others", [IDS[1], MIXED_VIEWS])
def test_mixed_ids_are_soft_targets(others):
    weights = dense_weights(MIXED, plain(others) if isinstance(others, torch.Tensor) else others)
    images, texts = embeds(5, 0), embeds(weights.shape[1], 1)
    logits = SCALE * images @ texts.t()

    def one_way(logits, weights):
        kept = weights.sum(dim=1) > 0
        aims = weights[kept] / weights[kept].sum(dim=1, keepdim=True)
        return -(aims * logits[kept].log_softmax(dim=1)).sum(dim=1).mean()

    expected = (one_way(logits, weights) + one_way(logits.t(), weights.t())) / 2
    targets = (MIXED, others)
    assert_close(MultiPositiveLoss()(images, texts, SCALE, targets=targets), expected)
    bias = torch.tensor(-2.0, dtype=torch.float64)
    logits = logits + bias
    pairs = torch.nn.functional.binary_cross_entropy_with_logits(logits, weights, reduction="sum")
    assert_close(SigLipLoss()(images, texts, SCALE, bias, targets=targets), pairs / 5)


def test_ids_mixed_with_nothing_are_plain_ids():
    images, texts = embeds(5, 0), embeds(7, 1)
    mixed = MixedIds(IDS[0], IDS[0].roll(1), torch.ones(5))
    for loss in (MultiPositiveLoss(0.1), SigLipLoss()):
        expected = loss(images, texts, SCALE, targets=IDS)
        assert_close(loss(images, texts, SCALE, targets=(mixed, IDS[1])), expected)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_in_float32_a_large_batch_keeps_five_digits(name):
    make, _ = CASES[name]
    bias = torch.tensor(-10.0, dtype=torch.float64)
    scale = torch.tensor(60.0, dtype=torch.float64)
    exact = [embeds(700, 0, 64), embeds(700, 1, 64), scale, bias]
    make(None)(*exact).backward()
    rough = [value.detach().float().requires_grad_() for value in exact]
    make(256)(*rough).backward()
    for mine, other in zip(rough[:2], exact[:2], strict=True):
        assert (mine.grad - other.grad).norm() <= 1e-5 * other.grad.norm()


def test_soft_targets_equal_torch():
    """Rows of weights are what `cross_entropy` takes as class probabilities, smoothing included."""
    images, texts = embeds(6, 0), embeds(6, 1)
    weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logits = SCALE * images @ texts.t()
    cross_entropy = torch.nn.functional.cross_entropy
    expected = sum(
        cross_entropy(scores, target / target.sum(dim=1, keepdim=True), label_smoothing=0.1)
        for scores, target in ((logits, weights), (logits.t(), weights.t()))
    )
    loss = MultiPositiveLoss(label_smoothing=0.1)(images, texts, SCALE, targets=weights)
    assert_close(loss, expected / 2)


def test_hard_negatives_equal_loops():
    images, texts, beta = embeds(6, 0), embeds(6, 1), 0.4
    ids = torch.tensor([0, 1, 2, 0, 4, 5])
    logits = SCALE * images @ texts.t()
    total = 0.0
    for scores in (logits.tolist(), logits.t().tolist()):
        for i, row in enumerate(scores):
            negatives = [score for j, score in enumerate(row) if ids[j] != ids[i]]
            weights = [math.exp(beta * score) for score in negatives]
            mean = sum(weights) / len(weights)
            wrong = sum(w / mean * math.exp(s) for w, s in zip(weights, negatives, strict=True))
            total -= math.log(math.exp(row[i]) / (math.exp(row[i]) + wrong)) / 12
    loss = HardNegativeLoss(beta)(images, texts, SCALE, targets=(ids, ids))
    assert loss.item() == pytest.approx(total, rel=1e-9)
    plain = HardNegativeLoss(0)(images, texts, SCALE)
    assert_close(plain, ClipLoss()(images, texts, SCALE))


def test_a_row_without_negatives_has_no_loss():
    images, texts = embeds(3, 0), embeds(3, 1)
    ids = torch.tensor([4, 4, 4])
    loss = HardNegativeLoss()(images, texts, SCALE, targets=(ids, ids))
    loss.backward()
    assert loss == 0
    assert images.grad.abs().max() == 0


@pytest.mark.parametrize("tile_size", [None, 2, 1024])
def test_distillation_equals_torch(tile_size):
    images, texts = embeds(5, 0), embeds(7, 1)
    teacher = embeds(5, 2, 12), embeds(7, 3, 12), torch.tensor(11.0, dtype=torch.float64)
    scale = SCALE.clone().requires_grad_()
    base = MultiPositiveLoss()
    criterion = DistillationLoss(base, weight=0.3, tile_size=tile_size)

    def loss(images, texts, scale):
        return criterion(images, texts, scale, targets=IDS, teacher=teacher)

    kl_div = torch.nn.functional.kl_div
    mine, theirs = scale * images @ texts.t(), teacher[2] * teacher[0] @ teacher[1].t()
    distance = sum(
        kl_div(a.log_softmax(1), b.log_softmax(1), reduction="batchmean", log_target=True)
        for a, b in ((mine, theirs), (mine.t(), theirs.t()))
    )
    expected = 0.7 * base(images, texts, scale, targets=IDS) + 0.3 * distance / 2
    assert_close(loss(images, texts, scale), expected)
    assert torch.autograd.gradcheck(loss, (images, texts, scale))
    assert all(part.grad is None for part in teacher[:2])
    with pytest.raises(ValueError, match="the same 5 images and 7 texts"):
        criterion(images, texts, scale, targets=IDS)


def test_matryoshka_is_the_mean_over_widths():
    images, texts = embeds(6, 0), embeds(6, 1)
    narrow = [normalize(value[:, :3], dim=-1) for value in (images, texts)]
    expected = (ClipLoss()(*narrow, SCALE) + 3 * ClipLoss()(images, texts, SCALE)) / 4
    assert_close(MatryoshkaLoss(ClipLoss(), [3, 8], [1, 3])(images, texts, SCALE), expected)
    with pytest.raises(ValueError, match=r"dims=\[16\].*have 8 numbers"):
        MatryoshkaLoss(ClipLoss(), [16])(images, texts, SCALE)


def test_half_precision_embeddings_are_compared_in_float32():
    images, texts = embeds(6, 0).float(), embeds(6, 1).float()
    halves = [value.detach().bfloat16() for value in (images, texts)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = ClipLoss()(*halves, SCALE.float())
    assert loss.dtype == torch.float32
    assert_close(loss, ClipLoss()(*(value.float() for value in halves), SCALE.float()))


def test_what_does_not_go_together_is_refused():
    images, texts = embeds(6, 0), embeds(4, 1)
    for targets, message in {
        (torch.zeros(6), torch.zeros(5)): "one for each of the 6 images and 4 texts",
        torch.zeros(4, 6): r"targets of shape \(4, 6\) must be .* \(6, 4\)",
    }.items():
        with pytest.raises(ValueError, match=message):
            MultiPositiveLoss()(images, texts, SCALE, targets=targets)
    with pytest.raises(ValueError, match="of one size"):
        ClipLoss()(images, embeds(6, 1, 5), SCALE)
    with pytest.raises(ValueError, match="takes no targets"):
        ClipLoss()(images, embeds(6, 1), SCALE, targets=(torch.arange(6), torch.arange(6)))
    with pytest.raises(ValueError, match="it takes ids as targets"):
        HardNegativeLoss()(images, texts, SCALE)
    with pytest.raises(ValueError, match="it takes ids as targets"):
        HardNegativeLoss()(embeds(5, 0), embeds(5, 1), SCALE, targets=(MIXED, IDS[0]))
    with pytest.raises(ValueError, match=r"label_smoothing=1\.5"):
        MultiPositiveLoss(label_smoothing=1.5)


@pytest.mark.parametrize("loss", [ClipLoss(), MultiPositiveLoss(), SigLipLoss()])
def test_the_order_of_pairs_does_not_matter_and_a_perfect_match_is_best(loss):
    images, texts = embeds(6, 0), embeds(6, 1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    expected = loss(images, texts, SCALE)
    assert_close(loss(images[order], texts[order], SCALE), expected)
    eye = torch.eye(6, 8, dtype=torch.float64)
    assert loss(eye, eye, SCALE) < expected < loss(eye, eye.roll(1, 0), SCALE)


def test_clip_loss_refuses_what_it_cannot_pair():
    with pytest.raises(ValueError, match="6 images and 4 texts cannot be paired"):
        ClipLoss()(embeds(6, 0), embeds(4, 1), SCALE)


@pytest.mark.parametrize("tile_size", [None, 1024])
def test_nothing_to_compare_with_is_no_loss(tile_size):
    images, nothing = embeds(4, 0), torch.zeros(0, 8, dtype=torch.float64)
    targets = torch.arange(4), torch.arange(0)
    loss = MultiPositiveLoss(0.1, tile_size)(images, nothing, SCALE, targets=targets)
    loss.backward()
    assert loss == 0
    assert images.grad.abs().max() == 0


def test_tiles_are_larger_where_starting_an_operation_costs_more():
    sizes = {device: choose_tile_size("auto", torch.device(device)) for device in ("cpu", "cuda")}
    assert sizes["cpu"] < sizes["cuda"]
    assert choose_tile_size(7, torch.device("cuda")) == 7
    assert choose_tile_size(None, torch.device("cpu")) is None


@pytest.mark.parametrize("name", ["ids", "siglip, mixed ids", "hard, ids", "matryoshka"])
def test_alone_a_process_has_no_ring(name):
    make, targets = CASES[name]
    results = []
    for exchange in ("gather", "ring"):
        loss, (_, inputs) = make(2), case(name, 2)
        for module in loss.modules():
            module.exchange = exchange
        value = loss(*inputs, targets=targets)
        value.backward()
        results.append([value.detach(), *(one.grad for one in inputs if one.grad is not None)])
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)


def test_a_loss_without_a_ring_rejects_it():
    class Other(ContrastiveLoss):
        def local_loss(self, contrast, targets, **kwargs):
            return contrast.all_texts.sum()

    with pytest.raises(ValueError, match="exchange='ring' is not allowed with Other"):
        Other(exchange="ring")
    with pytest.raises(ValueError, match="exchange='star'"):
        ClipLoss(exchange="star")
