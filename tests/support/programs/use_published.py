"""Every command, one after the other, on a published model.

Usage: use_published.py SOURCE DATASET FOLDER PEER
"""

import sys
from pathlib import Path

import tests.support.peers  # noqa: F401 - a tower of timm that open_clip builds by its name
from modeling_clip_vit.cli import main

source, dataset, folder, peer = sys.argv[1:]
out = Path(folder)
training = ["--max_steps", "2", "--per_device_train_batch_size", "8", "--report_to", "none"]
commands = {
    "search": [source, "a red square", "--images", dataset],
    "evaluate": [source, "--dataset", dataset, "--tasks", "retrieval"],
    "export": [source, str(out / "onnx"), "--format", "onnx"],
    "quantize": [source, str(out / "int8")],
    "merge": [source, source, str(out / "merged")],
    "train": ["--model_name_or_path", source, "--dataset", dataset, *training, "--save_as", peer],
}
outputs = {"evaluate": out / "evaluation", "train": out / "run"}
for name, arguments in commands.items():
    if name in outputs:
        arguments += ["--output_dir", str(outputs[name])]
    if code := main([name, *arguments]):
        sys.exit(f"{name} ended with {code}")
