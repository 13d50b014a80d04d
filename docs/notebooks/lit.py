# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A locked image tower and a pretrained text tower
#
# LiT (Zhai et al., 2022): the image tower stays as it is, and a text encoder learns to read for it. The image tower's embeddings are
# computed once and stored, so that a step costs a forward and backward pass of the text tower alone.

# %% tags=["parameters"]
IMAGE_MODEL = "outputs/emoji"
TEXT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PAIRS = "my_photos"  # pictures with captions
STEPS = 200

# %%
import json
from pathlib import Path

from modeling_clip_vit.cli import main

options = {
    "vision_model_name_or_path": IMAGE_MODEL,
    "text_model_name_or_path": TEXT_MODEL,
    "text_fields": json.dumps({"pooling": "mean", "projection_type": "mlp"}),
    "frozen_towers": "vision",
    "stored_views": 1,
    "dataset": PAIRS,
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "output_dir": "outputs/lit",
    "overwrite_output_dir": "true",  # so that this cell can run again
    "report_to": "none",
}
assert (
    main(
        ["train", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    )
    == 0
)

# %% [markdown]
# ## How well it finds pictures by text

# %%
metrics = json.loads(Path("outputs/lit/metrics.json").read_text())["metrics"]
for name, value in metrics.items():
    print(f"{name:60} {value:.3f}")

# %% [markdown]
# ## The image tower is the one it started from
# Not one of its weights has changed.

# %%
import torch
from transformers import AutoModel

before, after = (AutoModel.from_pretrained(path) for path in (IMAGE_MODEL, "outputs/lit"))
for name, weight in before.vision_model.state_dict().items():
    assert torch.equal(weight, after.vision_model.state_dict()[name]), name
