# ---
# jupyter:
#   jupytext: {text_representation: {extension: .py, format_name: percent}}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Fine-tune on a folder of pictures
#
# A folder with one folder of pictures per class is all that it takes. The model is fine-tuned on captions made of the class names
# (FLYP: Goyal et al., 2023), so that it still searches afterwards, and what it knew before is measured beside what it learns.
#
# Make a notebook of this file with `jupytext --to ipynb finetune_on_a_folder.py`.

# %% tags=["parameters"]
MODEL = "outputs/emoji"  # any published model: openai/clip-vit-base-patch32, hf-hub:laion/…
PICTURES = "sorted_photos"  # one folder per class
STEPS = 100

# %% [markdown]
# ## Look at the pictures first
# The classes are the names of the folders.

# %%
from pathlib import Path

from modeling_clip_vit.cli import main

classes = sorted(path.name for path in Path(PICTURES).iterdir() if path.is_dir())
print(len(classes), "classes:", ", ".join(classes))

# %% [markdown]
# ## What the model knows already
# `classify` names pictures by the class names alone: zero-shot.

# %%
main(["classify", MODEL, PICTURES, "--classes", ",".join(classes), "--top_k", "1"])

# %% [markdown]
# ## Train
# The recipe has the start as teacher, and measures models between the start and the end (WiSE-FT: Wortsman et al., 2022). An adapter
# (`--peft_type LORA`) needs less memory.

# %%
options = {
    "config": "finetune_classes",
    "model_name_or_path": MODEL,
    "dataset": PICTURES,
    "label_templates": "[en]",
    "label_names": "{}",
    "max_steps": STEPS,
    "per_device_train_batch_size": 8,
    "evaluations": "[]",
    "wise_ft": "[]",
    "output_dir": "outputs/my_classes",
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
# ## What it knows now

# %%
main(["classify", "outputs/my_classes", PICTURES, "--classes", ",".join(classes), "--top_k", "1"])

# %% [markdown]
# `outputs/my_classes` loads with `AutoModel` and Sentence Transformers; `clip-vit export` makes it small and fast, and `clip-vit push`
# shares it.
