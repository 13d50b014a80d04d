"""What int8 costs in retrieval: naive, best after training, and trained for it.

    python benchmarks/quantization_accuracy.py CHECKPOINT [--config configuration/train/emoji.yaml]
        [--steps 200] [--factor 150] [--num_samples 0] [--json FILE]

Two models: the checkpoint, and the same function with outliers in it: 4 channels of each norm are
`factor` times as large, and the weights behind them as much smaller. In float nothing changes.
Naive is one range for a whole tensor, symmetric, the largest value seen. Both models are then
trained for a few steps with rounding, the float one as teacher; one seed.
"""

import argparse
import json
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from torchao.quantization import Int8StaticActivationInt8WeightConfig, PerTensor, quantize_

from modeling_clip_vit.cli import main as clip_vit
from modeling_clip_vit.evaluation.evaluator import Evaluator
from modeling_clip_vit.inference.loading import load_clip
from modeling_clip_vit.quantization.calibration import DataPlace, calibration_batches, read_samples
from modeling_clip_vit.quantization.eight_bits import quantize
from modeling_clip_vit.quantization.layers import choose_layers
from modeling_clip_vit.quantization.static import quantize_static
from modeling_clip_vit.training.command import parse_arguments

OUTLIERS = 4  # channels of a norm


@torch.no_grad()
def add_outliers(model, factor: float):
    """A copy that computes the same with some channels of the blocks' norms far larger."""
    spoiled = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for tower in (spoiled.vision_model, spoiled.text_model):
        for block in tower.encoder.layers:
            for norm, linear in (
                (block.norm1, block.attention.qkv_proj),
                (block.norm2, block.feed_forward.fc1),
            ):
                channels = torch.randperm(len(norm.weight), generator=generator)[:OUTLIERS]
                norm.weight[channels] *= factor
                norm.bias[channels] *= factor
                linear.weight[:, channels] /= factor
    return spoiled


@torch.no_grad()
def quantize_naively(model, layers: list[str], batches):
    """A copy with a fixed symmetric range for each whole tensor: the largest value seen."""
    naive, largest = deepcopy(model), {}

    def watch(name):
        def note(module, inputs):
            largest[name] = max(largest.get(name, 0.0), inputs[0].abs().max().item())

        return naive.get_submodule(name).register_forward_pre_hook(note)

    handles = [watch(name) for name in layers]
    for batch in batches["vision_model"]:
        naive.get_image_features(**batch)
    for batch in batches["text_model"]:
        naive.get_text_features(**batch)
    for handle in handles:
        handle.remove()
    for name in layers:
        config = Int8StaticActivationInt8WeightConfig(
            act_quant_scale=torch.tensor(largest[name] / 127.5).reshape(1, 1, 1),
            granularity=PerTensor(),
            set_inductor_config=False,
        )
        quantize_(naive.get_submodule(name), config, filter_fn=lambda module, name: True)
    return naive


def train_quantized(options, start: Path, folder: Path, mode: str, bits: int) -> dict:
    """Metrics of the integer model after a few steps of training with rounding."""
    fields = {
        "model_name_or_path": start,
        "teacher_name_or_path": options.checkpoint,
        "quantization_mode": mode,
        "quantization_weight_bits": bits,
        "optim": "adamw",
        "learning_rate": options.learning_rate,
        "max_steps": options.steps,
        "eval_steps": 0,
        "save_steps": 0,
        "report_to": "none",
        "output_dir": folder,
    }
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    assert clip_vit(["train", "--config", str(options.config), *words]) == 0
    return json.loads((folder / "int8" / "quantization.json").read_text())["metrics"]


def recalls(metrics: dict[str, float]) -> dict[str, float]:
    """R@1, R@5 and R@10, text to image, the mean over caption columns."""
    found = {}
    for key in ("R@1", "R@5", "R@10"):
        values = [
            value
            for name, value in metrics.items()
            if name.startswith("validation/") and name.endswith(f"text_to_image/{key}")
        ]
        found[key] = sum(values) / len(values)
    return found


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--config", type=Path, default=Path("configuration/train/emoji.yaml"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--factor", type=float, default=150)
    parser.add_argument("--num_samples", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = parse_arguments(["--config", str(options.config)])
    data, captions = recipe.data, recipe.captions.caption_columns

    def read(split: str, count: int):
        place = DataPlace(
            data.dataset, split, data.image_column, captions, data.concept_column, count
        )
        return read_samples(place, model.config.vision_config.image_size)

    model, processor = load_clip(options.checkpoint)
    measure = Evaluator(read(data.eval_split, options.num_samples))
    batches = calibration_batches(read(data.train_split, 128), processor)
    rows = []

    def add(kind: str, how: str, metrics: dict[str, float]):
        rows.append({"model": kind, "how": how, **recalls(metrics)})
        cells = " | ".join(f"{100 * rows[-1][key]:.1f}" for key in ("R@1", "R@5", "R@10"))
        print(f"| {kind} | {how} | {cells} |", flush=True)

    print("| model | how | R@1 | R@5 | R@10 |\n" + "| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as place:
        for kind, factor in (
            ("as trained", 1.0),
            (f"outliers × {options.factor:g}", options.factor),
        ):
            spoiled, folder = add_outliers(model, factor), Path(place) / f"{factor:g}"
            spoiled.save_pretrained(folder / "start")
            processor.save_pretrained(folder / "start")
            layers = choose_layers(spoiled)
            add(kind, "float", measure(spoiled, processor))
            naive = quantize_naively(spoiled, layers, batches)
            add(kind, "naive static int8", measure(naive, processor))
            for mode, bits in (("dynamic", 8), ("dynamic", 4)):
                quantized = quantize(spoiled, layers, mode, bits)
                add(kind, f"{mode} int{bits}", measure(quantized, processor))
            smooth = quantize_static(spoiled, batches, ["*.patch_embedding*"], 0.5)
            add(kind, "smoothquant int8 (OpenVINO)", measure(smooth, processor))
            for mode, bits in (("dynamic", 8), ("dynamic", 4), ("static", 8)):
                metrics = train_quantized(
                    options, folder / "start", folder / f"{mode}{bits}", mode, bits
                )
                add(kind, f"{mode} int{bits}, trained {options.steps} steps", metrics)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
