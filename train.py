"""Train a CLIP: `python train.py`, or `accelerate launch train.py`, with `--help` for the fields.

Without `--config` it trains the default model on the embedded dataset, data/emoji.
"""

import sys
from pathlib import Path

from clip_vit import main

if __name__ == "__main__":
    recipe = Path(__file__).parent / "configuration" / "train" / "emoji.yaml"
    sys.exit(main(["train", *sys.argv[1:]], default_config=recipe))
