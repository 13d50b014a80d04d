"""What the log says of operations and tokens per second."""

import pytest
import torch
from accelerate import Accelerator
from torch.utils.flop_counter import FlopCounterMode

from modeling_clip_vit.training.precision import FLOAT32
from modeling_clip_vit.training.throughput import OperationCounter, Throughput, peak_speed
from tests.support.trainers import LENGTHS, build, make_batch

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_operations_of_a_layer_are_those_of_its_formula():
    layer = torch.nn.Linear(5, 7)
    tokens = torch.randn(3, 5)
    with OperationCounter() as counter:
        layer(tokens).sum().backward()
    assert counter.total == 2 * (2 * 3 * 5 * 7)  # the product, and the gradient of the weight


def test_an_update_has_the_operations_that_torch_counts(tmp_path):
    trainer = build(tmp_path, gradient_accumulation_steps=2)
    trainer.train_step(make_batch())
    with FlopCounterMode(display=False) as counter:
        trainer.backward(make_batch())
    assert trainer.throughput.operations == 2 * counter.get_total_flops() > 0


def test_operations_are_counted_once(tmp_path):
    trainer = build(tmp_path)
    trainer.train_step(make_batch())
    before = trainer.throughput.operations
    half = {name: value[:2] for name, value in make_batch().items() if name != "skipped"}
    trainer.train_step({**half, "skipped": []})
    assert trainer.throughput.operations == before


def test_rates_are_per_second_and_per_device(tmp_path):
    trainer = build(tmp_path)
    trainer.train_step(make_batch())
    trainer.throughput.add_tokens(make_batch())
    trainer.throughput.add_tokens(make_batch())
    operations, device = trainer.throughput.operations, trainer.accelerator.device
    numbers = trainer.throughput.describe(seconds=4, updates=2, num_processes=3)
    assert numbers == pytest.approx(
        {
            "tokens_per_second": 3 * 2 * sum(LENGTHS) / 4,
            "tflops_per_device": operations / 2 / 1e12,
            "mfu": operations / 2 / peak_speed(device, "no"),
        }
    )


def test_tokens_are_counted_from_one_log_to_the_next(tmp_path):
    throughput = build(tmp_path).throughput
    throughput.add_tokens(make_batch())
    throughput.describe(seconds=1, updates=1, num_processes=1)
    throughput.add_tokens(make_batch())
    numbers = throughput.describe(seconds=1, updates=1, num_processes=1)
    assert numbers["tokens_per_second"] == sum(LENGTHS)


def test_nothing_is_counted_in_compiled_blocks():
    throughput = Throughput(Accelerator(cpu=True), FLOAT32, steps_per_update=1, is_compiled=True)
    with throughput.counted():
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert throughput.describe(seconds=1, updates=1, num_processes=1) == {}
