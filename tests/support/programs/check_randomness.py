"""Launched in two processes: they have the same weights, and each drops what it will.

accelerate launch --multi_gpu --module tests.support.programs.check_randomness RECIPE
"""

import sys

import torch
from accelerate.utils import gather

from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.trainer import build_trainer

if __name__ == "__main__":
    training = build_trainer(parse_arguments(["--config", sys.argv[1]]))
    weights = torch.cat([weight.flatten() for weight in training.unwrapped().parameters()])
    mask = torch.nn.functional.dropout(torch.ones(256), 0.5)
    own, other = gather(weights[None].detach())
    assert torch.equal(own, other), "the processes begin with other weights"
    own, other = gather(mask[None])
    assert not torch.equal(own, other), "the processes drop the same"
