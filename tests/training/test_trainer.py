"""Single steps of a trainer that is built from objects, compared with the same step by hand.

Each option is compared with a step without it, so that an option that is ignored fails.
"""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch.nn.utils import clip_grad_norm_
from torch.testing import assert_close
from transformers.optimization import Adafactor

from modeling_clip_vit.data.mixing import mix_batch
from modeling_clip_vit.losses import (
    ClipLoss,
    DistillationLoss,
    HardNegativeLoss,
    MatryoshkaLoss,
    MultiPositiveLoss,
    SigLipLoss,
)
from modeling_clip_vit.training.guard import DeviceGuard
from modeling_clip_vit.utils.errors import UserError
from tests.support.models import make_texts, small_model
from tests.support.trainers import IDS, assert_same_weights, build, make_batch, weights_of
from tests.support.waits import Waits

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def embed(model, batch: dict) -> tuple[torch.Tensor, ...]:
    """What a loss gets of a batch."""
    inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    outputs = model(**inputs)
    scale, bias = model.get_logit_scale(), model.get_logit_bias()
    return outputs.image_embeds, outputs.text_embeds, scale, bias


def gradients_by_hand(model, batch: dict) -> torch.Tensor:
    """Fill in the gradients of the default loss; returns the loss."""
    loss = MultiPositiveLoss()(*embed(model, batch), targets=(IDS, IDS))
    loss.backward()
    return loss.detach()


def groups_of(model) -> list[dict]:
    """Parameter groups with the default options: matrices decay, and nothing else does."""
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    matrices = {id(layer.weight) for layer in layers}
    return [
        {"params": [p for p in model.parameters() if id(p) in matrices], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if id(p) not in matrices], "weight_decay": 0.0},
    ]


def adamw_by_hand(model) -> torch.optim.AdamW:
    """The optimizer with the default options."""
    return torch.optim.AdamW(groups_of(model), lr=1e-3, betas=(0.9, 0.95))


def test_a_step_is_the_gradient_and_adamw(tmp_path):
    model = small_model(logit_bias_init_value=-3.0).train()
    trainer = build(tmp_path, copy.deepcopy(model))
    values = trainer.train_step(make_batch())
    optimizer = adamw_by_hand(model)
    assert_close(values["loss"], gradients_by_hand(model, make_batch()))
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert float(values["gradient_norm"]) == pytest.approx(float(norm), rel=1e-5)
    optimizer.step()
    assert_same_weights(trainer.unwrapped(), model)


def test_adafactor_steps_with_the_clipped_gradient(tmp_path):
    model = small_model(logit_bias_init_value=-3.0).train()
    trainer = build(tmp_path, copy.deepcopy(model), max_grad_norm=0.01, optim="adafactor")
    trainer.train_step(make_batch())
    gradients_by_hand(model, make_batch())
    clip_grad_norm_(model.parameters(), 0.01)
    fixed = {"relative_step": False, "scale_parameter": False, "warmup_init": False}
    optimizer = Adafactor(groups_of(model), lr=1e-3, **fixed)
    optimizer.step()
    assert_same_weights(trainer.unwrapped(), model)


TARGETS = (IDS, IDS)
#: Options -> the loss that they ask for, and its targets.
LOSSES = {
    "clip": ({"loss": "clip"}, ClipLoss(), None),
    "label smoothing": (
        {"loss": "multi_positive", "label_smoothing": 0.1},
        MultiPositiveLoss(label_smoothing=0.1),
        TARGETS,
    ),
    "siglip": ({"loss": "siglip"}, SigLipLoss(), TARGETS),
    "hard negatives": (
        {"loss": "hard_negative", "hard_negative_beta": 0.5},
        HardNegativeLoss(0.5),
        None,
    ),
    "matryoshka": (
        {"matryoshka_dims": "[4,16]"},
        MatryoshkaLoss(MultiPositiveLoss(), [4, 16]),
        TARGETS,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_recipe_s_loss_is_what_a_step_minimises(name, tmp_path):
    options, loss, targets = LOSSES[name]
    trainer = build(tmp_path, **options)
    model = copy.deepcopy(trainer.unwrapped())
    expected = loss(*embed(model, make_batch()), targets=targets)
    value = trainer.train_step(make_batch())["loss"]
    assert_close(value, expected.detach())
    default = gradients_by_hand(model, make_batch())
    assert abs(float(value - default)) > 1e-3


def test_the_contrast_of_views_is_added_with_its_weight(tmp_path):
    trainer = build(tmp_path, view_loss_weight=0.5, images_per_concept=2)
    model = copy.deepcopy(trainer.unwrapped())
    images, _, scale, _ = embed(model, make_batch())
    views = MultiPositiveLoss()(images[::2], images[1::2], scale, targets=(IDS[::2], IDS[1::2]))
    expected = gradients_by_hand(model, make_batch()) + 0.5 * views.detach()
    assert_close(trainer.train_step(make_batch())["loss"], expected)


def save_teacher(folder, tokenizer, **vision) -> str:
    """A checkpoint of a model that is larger than its student."""
    text = {"vocab_size": len(tokenizer), "num_hidden_layers": 3}
    small_model(vision={"num_hidden_layers": 3, **vision}, text=text).save_pretrained(folder)
    return str(folder)


def test_a_student_learns_from_its_teacher(tmp_path, processor):
    path = save_teacher(tmp_path / "teacher", processor.tokenizer)
    options = {"teacher_name_or_path": path, "distillation_weight": 0.75}
    trainer = build(tmp_path, processor=processor, **options)
    images, texts, teacher_scale, _ = embed(trainer.task.objective.teacher, make_batch())
    model = copy.deepcopy(trainer.unwrapped())
    expected = DistillationLoss(MultiPositiveLoss(), 0.75)(
        *embed(model, make_batch()), targets=TARGETS, teacher=(images, texts, teacher_scale)
    )
    value = trainer.train_step(make_batch())["loss"]
    assert_close(value, expected.detach())
    assert abs(float(value - gradients_by_hand(model, make_batch()))) > 1e-3


def record_teacher(trainer) -> list[tuple[int, torch.dtype]]:
    """A list of how many images the teacher embeds at a time, and the dtype of its products."""
    calls: list[tuple[int, torch.dtype]] = []
    projection = trainer.task.objective.teacher.visual_projection
    projection.register_forward_hook(
        lambda *hooked: calls.append((len(hooked[2]), hooked[2].dtype))
    )
    return calls


@pytest.mark.parametrize(("part_size", "parts"), [(0, [6]), (2, [2, 2, 2])])
def test_a_teacher_takes_the_parts_that_its_student_takes(tmp_path, processor, part_size, parts):
    path = save_teacher(tmp_path / "teacher", processor.tokenizer)
    options = {"teacher_name_or_path": path, "gradient_cache_batch_size": part_size}
    trainer = build(tmp_path, processor=processor, **options)
    calls = record_teacher(trainer)
    trainer.train_step(make_batch())
    assert [size for size, _ in calls] == parts


def test_parts_do_not_change_what_a_teacher_says(tmp_path, processor):
    path = save_teacher(tmp_path / "teacher", processor.tokenizer)
    options = {"teacher_name_or_path": path, "gradient_cache_batch_size": 4}
    objective = build(tmp_path, processor=processor, **options).task.objective
    images, texts, scale = objective.embed_with_teacher(make_batch())
    assert_close((images, texts, scale), embed(objective.teacher, make_batch())[:3])


def test_a_teacher_computes_in_the_precision_of_its_student(tmp_path, processor):
    path = save_teacher(tmp_path / "teacher", processor.tokenizer)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    trainer = build(
        tmp_path, processor=processor, accelerator=accelerator, teacher_name_or_path=path
    )
    calls = record_teacher(trainer)
    trainer.train_step(make_batch())
    assert [dtype for _, dtype in calls] == [torch.bfloat16]


def test_a_teacher_of_other_images_is_rejected(tmp_path, processor):
    path = save_teacher(tmp_path / "teacher", processor.tokenizer, image_size=16)
    with pytest.raises(UserError, match="made for images of 16 pixels"):
        build(tmp_path, processor=processor, teacher_name_or_path=path)


def count_calls(module: torch.nn.Module) -> list:
    """A list that grows by one with each forward pass of a module."""
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_gradients_accumulate_over_two_steps(tmp_path):
    model = small_model(logit_bias_init_value=-3.0).train()
    trainer = build(tmp_path, copy.deepcopy(model), gradient_accumulation_steps=2)
    trainer.train_step(make_batch(0))
    assert_same_weights(trainer.unwrapped(), model, atol=0, rtol=0)
    trainer.train_step(make_batch(1))
    optimizer = adamw_by_hand(model)
    for seed in (0, 1):
        gradients_by_hand(model, make_batch(seed))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= 2
    optimizer.step()
    assert_same_weights(trainer.unwrapped(), model)


def test_the_gradient_cache_embeds_in_parts_with_the_same_loss_and_gradient(tmp_path):
    plain, cached = build(tmp_path), build(tmp_path, gradient_cache_batch_size=2)
    calls = count_calls(cached.unwrapped())
    expected, values = (trainer.train_step(make_batch()) for trainer in (plain, cached))
    assert len(calls) == 2 * 3  # three parts, twice each
    # Not the weights: AdamW scales up the rounding of gradients that are 0, such as of key biases.
    for name in ("loss", "gradient_norm"):
        assert_close(values[name], expected[name])


def test_gradient_checkpointing_runs_blocks_twice_and_makes_the_same_step(tmp_path):
    plain, checkpointed = build(tmp_path), build(tmp_path, gradient_checkpointing="true")
    counts = []
    for trainer in (plain, checkpointed):
        attention = trainer.unwrapped().vision_model.encoder.layers[0].attention
        calls = count_calls(attention)
        trainer.train_step(make_batch())
        counts.append(len(calls))
    assert counts == [1, 2]
    assert_same_weights(checkpointed.unwrapped(), plain.unwrapped())


def test_every_nth_block_alone_is_recomputed(tmp_path):
    plain = build(tmp_path)
    every_second = build(tmp_path, gradient_checkpointing="true", gradient_checkpointing_every=2)
    model = every_second.unwrapped()
    blocks = [*model.vision_model.encoder.layers, *model.text_model.encoder.layers]
    assert len(blocks) > 2
    calls = [count_calls(block.attention) for block in blocks]
    for trainer in (plain, every_second):
        trainer.train_step(make_batch())
    assert [len(one) for one in calls] == [2 - place % 2 for place in range(len(blocks))]
    assert_same_weights(model, plain.unwrapped())


def test_recomputing_from_the_memory_of_the_host_makes_the_same_step(tmp_path):
    options = {"gradient_checkpointing": "true", "gradient_checkpointing_offload": "true"}
    plain, offloaded = build(tmp_path), build(tmp_path, **options)
    for trainer in (plain, offloaded):
        trainer.train_step(make_batch())
    assert_same_weights(offloaded.unwrapped(), plain.unwrapped())


def test_the_finished_model_is_the_average_of_its_weights(tmp_path):
    plain, averaged = build(tmp_path), build(tmp_path, ema_decay=0.5)
    expected = weights_of(plain.unwrapped())
    for step in range(1, 4):
        for trainer in (plain, averaged):
            trainer.train_step(make_batch(step))
        decay = min(0.5, step / (step + 9))
        for name, weight in weights_of(plain.unwrapped()).items():
            expected[name] = decay * expected[name] + (1 - decay) * weight
    last = weights_of(averaged.unwrapped())
    finished = weights_of(averaged.finish())
    for name, weight in expected.items():
        assert_close(finished[name], weight, atol=1e-6, rtol=0)
    assert any(not torch.allclose(last[name], finished[name], atol=1e-5) for name in last)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path):
    trainer = build(tmp_path)
    before = copy.deepcopy(trainer.unwrapped())
    batch = make_batch()
    batch["pixel_values"] = batch["pixel_values"].clone()
    batch["pixel_values"][0, 0, 0, 0] = torch.nan
    trainer.train_step(batch)
    assert trainer.guard.skipped == 1
    assert_same_weights(trainer.unwrapped(), before, atol=0, rtol=0)


def test_an_update_that_the_device_refuses_changes_nothing(tmp_path):
    """Not even the optimiser's: the next update is what it would have been."""
    plain, guarded = (build(tmp_path, optim="adamw") for _ in range(2))
    guarded.device_guard = DeviceGuard(guarded.guard, torch.device("cpu"))
    broken = make_batch()
    broken["pixel_values"] = broken["pixel_values"] * torch.nan
    for number, batch in enumerate((make_batch(1), broken, make_batch(2))):
        guarded.train_step(batch)
        if number != 1:
            plain.train_step(batch)
    guarded.settle()
    assert guarded.guard.skipped == 1
    assert_same_weights(guarded.unwrapped(), plain.unwrapped(), atol=0, rtol=0)


#: What only a CPU does: it compares token ids with the vocabulary, the scale is one of its tensors,
#: and Accelerate's own device is given by name.
OF_A_CPU = ("aminmax", "projection.py", "as_tensor at losses/")


@pytest.mark.parametrize(("is_on_device", "expected"), [(True, 0), (False, 2)])
@pytest.mark.parametrize(
    "options",
    [
        {"loss": "clip"},
        {"loss": "hard_negative"},
        {"loss": "siglip"},
        {"loss": "multi_positive", "view_loss_weight": 0.5, "images_per_concept": 2},
        {"loss": "multi_positive", "matryoshka_dims": "[8]"},
        {"loss": "multi_positive", "mixup_probability": 0.5, "cutmix_probability": 0.5},
        {"loss": "clip", "gradient_cache_batch_size": 2},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_an_update_reads_the_loss_and_the_norm_or_nothing(
    is_on_device, expected, options, tmp_path
):
    trainer = build(tmp_path, optim="adamw", logging_steps=50, **options)
    if is_on_device:
        trainer.device_guard = DeviceGuard(trainer.guard, torch.device("cpu"))
    batch = {**make_batch(), **make_texts([8] * 6), "has_padding": False, "mix_seed": 3}
    trainer.train_step(mix_batch(batch, trainer.args.mix, 0))
    with Waits() as waits:
        trainer.throughput.add_tokens(batch)
        trainer.train_step(mix_batch(batch, trainer.args.mix, 0))
    found = {what: n for what, n in waits.found.items() if not any(one in what for one in OF_A_CPU)}
    assert sum(found.values()) == expected, found


@pytest.mark.parametrize(("longest", "is_changed"), [(0, False), (0.01, True)])
def test_gradients_are_written_only_where_they_are_clipped(tmp_path, longest, is_changed):
    trainer = build(tmp_path, max_grad_norm=longest)
    trainer.backward(make_batch())
    gradients = [one.grad for one in trainer.model.parameters() if one.grad is not None]
    expected = torch.stack([one.norm() for one in gradients]).norm()
    versions = [one._version for one in gradients]
    assert_close(trainer.clip_gradients(), expected)
    assert ([one._version for one in gradients] != versions) == is_changed


@pytest.mark.parametrize("is_compiled", [True, False])
def test_blocks_are_compiled_if_the_recipe_says_so(tmp_path, is_compiled):
    trainer = build(tmp_path, torch_compile=str(is_compiled).lower())
    for tower in (trainer.unwrapped().vision_model, trainer.unwrapped().text_model):
        for block in tower.encoder.layers:
            assert (block._compiled_call_impl is not None) == is_compiled
