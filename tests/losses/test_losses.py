"""Losses against plain formulas, and against themselves over processes."""

import math
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from modeling_clip_vit.losses import ClipLoss, MultiPositiveLoss, SigLipLoss


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


@pytest.mark.parametrize("loss", [ClipLoss(), MultiPositiveLoss(), SigLipLoss()])
def test_gradients_are_those_of_finite_differences(loss):
    images, texts = embeds(5, 0), embeds(5, 1)
    scale = SCALE.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: loss(*x), (images, texts, scale))


@pytest.mark.parametrize("loss", [ClipLoss(), MultiPositiveLoss(), SigLipLoss()])
def test_the_order_of_pairs_does_not_matter_and_a_perfect_match_is_best(loss):
    images, texts = embeds(6, 0), embeds(6, 1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    expected = loss(images, texts, SCALE)
    assert_close(loss(images[order], texts[order], SCALE), expected)
    eye = torch.eye(6, 8, dtype=torch.float64)
    assert loss(eye, eye, SCALE) < expected < loss(eye, eye.roll(1, 0), SCALE)


def test_clip_loss_refuses_what_it_cannot_pair():
    with pytest.raises(ValueError, match=r"6 images and 4 texts.*MultiPositiveLoss"):
        ClipLoss()(embeds(6, 0), embeds(4, 1), SCALE)


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one_with_the_whole_batch(tmp_path):
    worker = """
        import sys, torch, torch.distributed as dist
        from torch.nn.functional import normalize
        from torch.nn.parallel import DistributedDataParallel
        from modeling_clip_vit.losses import ClipLoss, MultiPositiveLoss, SigLipLoss

        def gradients(rank, size):
            torch.manual_seed(0)
            layer = torch.nn.Linear(6, 4).double()
            data = torch.randn(8, 2, 6, dtype=torch.float64).chunk(size)[rank]
            ids = (torch.arange(8) // 2).chunk(size)[rank]
            model = DistributedDataParallel(layer) if size > 1 else layer
            result = []
            for loss in (ClipLoss(), MultiPositiveLoss(), SigLipLoss()):
                layer.zero_grad()
                embeds = normalize(model(data), dim=-1)
                targets = None if isinstance(loss, ClipLoss) else (ids, ids)
                scale = torch.tensor(5.0, dtype=torch.float64)
                value = loss(embeds[:, 0], embeds[:, 1], scale, targets=targets)
                value.backward()
                result += [value.detach(), layer.weight.grad.clone(), layer.bias.grad.clone()]
            return result

        whole = gradients(0, 1)
        dist.init_process_group("gloo")
        for ours, one in zip(gradients(dist.get_rank(), 2), whole, strict=True):
            assert (ours - one).abs().max() < 1e-10, (ours, one)
        dist.destroy_process_group()
        print("equal")
    """
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(worker))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == 2
