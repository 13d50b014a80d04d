"""Launched in several processes by DeepSpeed: train by recipes, one after the other.

check_zero.py STAGE RECIPE [ARGUMENT ...] -- STAGE RECIPE [ARGUMENT ...] ...
"""

import itertools
import os
import sys

from accelerate.state import AcceleratorState

from modeling_clip_vit.cli import main

if __name__ == "__main__":
    # Each run would end the group of processes, and DeepSpeed cannot take up another.
    os.environ["FORK_LAUNCHED"] = "1"
    for is_end, words in itertools.groupby(sys.argv[1:], "--".__eq__):
        if not is_end:
            stage, recipe, *arguments = words
            os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = stage
            AcceleratorState._reset_state(reset_partial_state=True)
            assert main(["train", "--config", recipe, *arguments]) == 0, recipe
