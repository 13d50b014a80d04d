# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Train for int8
#
# A model that was trained with rounding in its forward pass loses less when it is quantised. It goes on from a finished model, with
# that model as teacher, for a short while.

# %% tags=["parameters"]
MODEL = "outputs/emoji"
DATASET = "data/emoji"
STEPS = 200

# %%
import json
from pathlib import Path

from modeling_clip_vit.cli import main

options = {
    "config": "emoji",
    "model_name_or_path": MODEL,
    "teacher_name_or_path": MODEL,
    "quantization_mode": "dynamic",
    "quantization_weight_bits": 4,
    "optim": "adamw",
    "learning_rate": 1e-4,
    "dataset": DATASET,
    "max_steps": STEPS,
    "output_dir": "outputs/emoji-4bit",
    "overwrite_output_dir": "true",  # so that this cell can run again
    "report_to": "none",
}
arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
assert main(["train", *arguments]) == 0

# %% [markdown]
# ## What it loses
# The same four bits a weight for the model that was not trained for them.

# %%
columns = ["--caption_columns", "[caption_en, caption_zh]", "--concept_column", "hexcode"]
for source, target in ((MODEL, "outputs/after"), ("outputs/emoji-4bit", "outputs/during")):
    quantize = ["quantize", source, target, "--weight_bits", "4", "--dataset", DATASET, *columns]
    assert main(quantize) == 0
    facts = json.loads(Path(target, "quantization.json").read_text())
    print(f"{source}: {facts['float_bytes'] / 1e6:.1f} MB, then {facts['bytes'] / 1e6:.1f} MB")
