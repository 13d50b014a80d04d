"""Timing what a device multiplies."""

import torch

from modeling_clip_vit.utils import devices


def test_a_device_that_does_not_multiply_bfloat16_gains_nothing_from_it():
    # torch has no such device on this machine, and its products fail.
    assert devices.bfloat16_gain("fpga") == 0


def test_products_are_timed():
    """Of a matrix half as large, an eighth of the operations takes less time."""
    devices.product_speeds.cache_clear()
    shortest = []
    for side in (256, 512):
        [speed] = devices.product_speeds("cpu", torch.float32, side=side)
        shortest.append(2 * side**3 / speed)
    assert shortest[0] < shortest[1]


def test_timing_leaves_the_random_numbers_of_the_process_as_they_were():
    devices.product_speeds.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    devices.bfloat16_gain("cpu")
    assert torch.equal(torch.rand(4), expected)
