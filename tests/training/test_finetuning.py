"""What keeps a model close to its start: single steps of a trainer built from objects."""

import copy

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel

from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.utils.errors import UserError
from modeling_clip_vit.utils.interpolation import interpolate
from tests.support.models import small_model
from tests.support.trainers import assert_same_weights, build, make_batch, weights_of

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> str:
    """The folder of a small model with running statistics, to be fine-tuned."""
    folder = tmp_path_factory.mktemp("published")
    small_model(vision={"patch_embedding": "conv_stem"}).save_pretrained(folder)
    return str(folder)


def start_trainer(published, tmp_path, frozen: str = "", **options):
    """A trainer of the published model, before its first update."""
    model = AutoModel.from_pretrained(published)
    if frozen:
        model.get_submodule(frozen).requires_grad_(False)
    trainer = build(tmp_path, model, model_name_or_path=published, **options)
    trainer.set_training_mode()
    return trainer


def step(trainer, count: int = 1):
    """Make some updates."""
    for _ in range(count):
        trainer.train_step(make_batch(trainer.progress.step))
        trainer.progress.step += 1
    return trainer


def gradients_of(trainer) -> dict[str, torch.Tensor]:
    """The gradients of a batch with what fine-tuning adds to them."""
    trainer.model.zero_grad()
    trainer.backward(make_batch(7))
    trainer.finetuning.before_update(None, is_logged=False)
    named = trainer.unwrapped().named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_l2_sp_adds_the_distance_to_the_start_to_the_gradient(published, tmp_path):
    trainer = step(start_trainer(published, tmp_path, l2_sp_weight=0.3), 2)
    penalty = trainer.finetuning.penalty
    start = weights_of(AutoModel.from_pretrained(published))
    now = weights_of(trainer.unwrapped())
    added = gradients_of(trainer)
    trainer.finetuning.penalty = None
    plain = gradients_of(trainer)
    for name, gradient in plain.items():
        assert_close(added[name] - gradient, 0.3 * (now[name] - start[name]), atol=1e-5, rtol=1e-4)
    distance = sum((now[name] - start[name]).square().sum() for name in plain)
    assert distance > 0
    assert penalty.value() == pytest.approx(0.15 * float(distance), rel=1e-4)


def test_l2_sp_is_not_amplified_by_the_loss_scale_of_float16(published, tmp_path):
    trainer = step(start_trainer(published, tmp_path, l2_sp_weight=0.3))
    weight = trainer.unwrapped().text_projection.weight
    trainer.model.zero_grad()
    weight.grad = torch.zeros_like(weight)
    trainer.finetuning.penalty.add_gradient(1024.0)
    start = AutoModel.from_pretrained(published).text_projection.weight
    assert_close(weight.grad / 1024, 0.3 * (weight - start).detach())


def test_a_stronger_penalty_keeps_the_model_closer(published, tmp_path):
    start = weights_of(AutoModel.from_pretrained(published))

    def distance(weight: float) -> float:
        trainer = start_trainer(
            published, tmp_path, l2_sp_weight=weight, optim="adafactor", learning_rate=1e-2
        )
        now = weights_of(step(trainer, 20).unwrapped())
        return sum(float((now[name] - start[name]).square().sum()) for name in start)

    assert distance(10) < 0.8 * distance(0)


def test_the_towers_wait_while_the_head_learns(published, tmp_path):
    trainer = start_trainer(published, tmp_path, head_first_steps=3)
    start = copy.deepcopy(trainer.unwrapped().state_dict())
    now = step(trainer, 3).unwrapped().state_dict()
    towers = [name for name in start if name.startswith(("vision_model.", "text_model."))]
    assert all(torch.equal(now[name], start[name]) for name in towers)
    for name in ("visual_projection.weight", "text_projection.weight", "similarity.logit_scale"):
        assert not torch.equal(now[name], start[name])


def test_all_weights_learn_after_the_head(published, tmp_path):
    trainer = step(start_trainer(published, tmp_path, head_first_steps=2), 2)
    before = copy.deepcopy(trainer.unwrapped().state_dict())
    now = step(trainer).unwrapped().state_dict()
    names = [name for name, _ in trainer.unwrapped().named_parameters()]
    statistics = [name for name in before if "running_mean" in name]
    assert statistics
    assert all(not torch.equal(now[name], before[name]) for name in statistics)
    moved = [name for name in names if not torch.equal(now[name], before[name])]
    assert len(moved) > 0.9 * len(names)


def test_what_is_frozen_stays_frozen_after_the_head(published, tmp_path):
    trainer = start_trainer(published, tmp_path, "vision_model", head_first_steps=1)
    step(trainer, 2)
    assert not any(p.requires_grad for p in trainer.unwrapped().vision_model.parameters())
    assert all(p.requires_grad for p in trainer.unwrapped().text_model.parameters())


def test_the_line_begins_at_the_start_and_ends_at_the_end(published, tmp_path):
    trainer = step(start_trainer(published, tmp_path, wise_ft="[0,1]"), 2)
    model = trainer.finish()
    end, start = copy.deepcopy(model), AutoModel.from_pretrained(published)
    for alpha, expected in {0: start, 1: end}.items():
        trainer.finetuning.interpolation.move(model, alpha)
        for name, value in expected.state_dict().items():
            assert torch.equal(model.state_dict()[name], value) or "num_batches" in name, name


def test_models_on_the_line_are_measured_and_the_own_weights_come_back(published, tmp_path):
    trainer = step(start_trainer(published, tmp_path, wise_ft="[0,0.5,1]"), 2)
    model = trainer.finish()
    before = copy.deepcopy(model)
    seen = []
    points = trainer.finetuning.interpolation.measure(
        model, [0, 0.5, 1], lambda one: seen.append(weights_of(one)) or []
    )
    assert [point.alpha for point in points] == [0, 0.5, 1]
    for name, middle in seen[1].items():
        assert_close(middle, (seen[0][name] + seen[2][name]) / 2)
    assert_same_weights(model, before, atol=0, rtol=0)


def test_the_saved_weights_are_at_the_chosen_share(published, tmp_path):
    trainer = step(start_trainer(published, tmp_path, wise_ft_alpha=0.25), 2)
    end = weights_of(trainer.unwrapped())
    start = weights_of(AutoModel.from_pretrained(published))
    for name, value in weights_of(trainer.finish()).items():
        assert_close(value, 0.75 * start[name] + 0.25 * end[name])


def test_weights_that_are_new_have_no_start(published, tmp_path):
    options = {"wise_ft_alpha": 0.0, "l2_sp_weight": 0.1, "new_parts": ["text_projection."]}
    trainer = step(start_trainer(published, tmp_path, **options), 2)
    held = {id(parameter) for parameter, _ in trainer.finetuning.penalty.starts}
    assert id(trainer.unwrapped().text_projection.weight) not in held
    assert id(trainer.unwrapped().visual_projection.weight) in held
    end, finished = weights_of(trainer.unwrapped()), weights_of(trainer.finish())
    start = weights_of(AutoModel.from_pretrained(published))
    assert torch.equal(finished["text_projection.weight"], end["text_projection.weight"])
    assert torch.equal(finished["visual_projection.weight"], start["visual_projection.weight"])


def test_interpolation_is_exact_at_both_ends():
    first, second = ({"w": torch.randn(1000)} for _ in range(2))
    assert torch.equal(interpolate(first, second, 0)["w"], first["w"])
    assert torch.equal(interpolate(first, second, 1)["w"], second["w"])


def test_the_start_is_a_teacher(tmp_path, processor):
    text = {"vocab_size": len(processor.tokenizer)}
    small_model(text=text).save_pretrained(tmp_path / "published")
    trainer = start_trainer(
        str(tmp_path / "published"), tmp_path, teacher_name_or_path="start", processor=processor
    )
    assert_same_weights(trainer.task.objective.teacher, trainer.unwrapped(), atol=0, rtol=0)


REJECTED = {
    "a penalty without a start": ({"l2_sp_weight": 0.1}, "l2_sp_weight=0.1 needs model_name"),
    "a curve without a start": ({"wise_ft": "[0]"}, r"wise_ft=\[0.0\] needs model_name_or_path"),
    "a mean without a start": ({"wise_ft_alpha": 0.5}, "wise_ft_alpha=0.5 needs model_name"),
    "a teacher without a start": ({"teacher_name_or_path": "start"}, "'start' needs model_name"),
    "a share above 1": ({"wise_ft": "[2]"}, "must be shares from 0 to 1"),
    "quantisation": (
        {"head_first_steps": 5, "quantization_mode": "dynamic"},
        "quantization_mode='dynamic' is not allowed with head_first_steps=5",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_options_that_do_not_go_together_are_rejected(name):
    options, message = REJECTED[name]
    with pytest.raises(UserError, match=message):
        parse_arguments([f"--{option}={value}" for option, value in options.items()])
