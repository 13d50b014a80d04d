"""Launched in several processes by DeepSpeed: train by recipes, one after the other.

    accelerate launch --module tests.support.programs.check_zero -- STAGE RECIPE [ARGUMENT ...]
        -- STAGE RECIPE [ARGUMENT ...] ...

The last one ends at the largest scale of the logits, and what DeepSpeed updates must be held there
too: if it grew on, behind the weights that the model shows, it could not come down again.
"""

import itertools
import math
import os
import sys

from accelerate.state import AcceleratorState
from deepspeed.utils import safe_get_full_fp32_param

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.trainer import build_trainer


def choose_stage(stage: str):
    os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = stage
    AcceleratorState._reset_state(reset_partial_state=True)


def check_scale(arguments: list[str]):
    training = build_trainer(parse_arguments(arguments))
    training.fit()
    model = training.unwrapped()
    updated = float(safe_get_full_fp32_param(model.similarity.logit_scale))
    beyond = updated - math.log(model.config.logit_scale_max)
    # Of one update, which the next one would not build on.
    assert 0 < beyond < 1.5 * training.args.optimizer.learning_rate, beyond


if __name__ == "__main__":
    # Each run would end the group of processes, and DeepSpeed cannot take up another.
    os.environ["FORK_LAUNCHED"] = "1"
    for is_end, words in itertools.groupby(sys.argv[1:], "--".__eq__):
        if not is_end:
            stage, recipe, *arguments = words
            choose_stage(stage)
            assert main(["train", "--config", recipe, *arguments]) == 0, recipe
    choose_stage(stage)
    anew = ["--resume_from_checkpoint", "null", "--overwrite_output_dir", "true"]
    check_scale(["--config", recipe, *arguments, *anew])
