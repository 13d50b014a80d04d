"""What 8 and fewer bits cost in accuracy: naive, best after training, and trained for it.

    python benchmarks/quantization_accuracy.py CHECKPOINT [--config configuration/train/emoji.yaml]
        [--steps 200] [--seeds 3] [--trained "dynamic int8" ...] [--factors 1 150] [--json FILE]

Each factor gives one model, which computes the checkpoint's function but has outliers: 4 channels
of each norm are multiplied by the factor, and the weights that read them are divided by it, so that
nothing changes in float. Naive quantisation uses one symmetric range per tensor, up to the largest
value seen; fewer bits are rounded to nearest with one scale per row. Models are then trained for a
few steps with rounding and the float model as teacher, with several seeds. What is measured is the
resulting checkpoint or OpenVINO export.
"""

import argparse
import json
import statistics
import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from torchao.quantization import Int8StaticActivationInt8WeightConfig, PerTensor, quantize_

from modeling_clip_vit.cli import main as clip_vit
from modeling_clip_vit.data.transforms import AMOUNTS, SHARES
from modeling_clip_vit.evaluation.evaluate import evaluate_run
from modeling_clip_vit.evaluation.metrics import Metric
from modeling_clip_vit.export.folder import NUM_CHECKS, export_clip
from modeling_clip_vit.inference.exported import ExportError
from modeling_clip_vit.inference.loading import TorchEncoder, load_encoder
from modeling_clip_vit.quantization.eight_bits import quantize
from modeling_clip_vit.quantization.layers import choose_layers
from modeling_clip_vit.quantization.smoothing import find_pairs
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.tasks import Preparation
from modeling_clip_vit.training.tasks.contrastive import prepare

OUTLIERS = 4  # channels of a norm
NUM_CALIBRATION = 128
#: How a model is trained -> the mode, the bits of its weights, and the smoothing before it.
TRAINED = {
    "dynamic int8": ("dynamic", 8, 0.0),
    "static int8": ("static", 8, 0.0),
    "static int8, smoothed": ("static", 8, 0.5),
    "dynamic int2": ("dynamic", 2, 0.0),
}
#: What varies the pictures of a recipe.
VARIED = (*AMOUNTS, *SHARES)
METRICS = ("text_to_image/R@1", "text_to_image/R@5", "text_to_image/R@10", "zero-shot")


@torch.no_grad()
def add_outliers(model, factor: float):
    """A copy that computes the same function but has outlier channels in the blocks' norms."""
    spoiled = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for tower in (spoiled.vision_model, spoiled.text_model):
        for norm, linear in find_pairs(tower):
            channels = torch.randperm(len(norm.weight), generator=generator)[:OUTLIERS]
            norm.weight[channels] *= factor
            norm.bias[channels] *= factor
            linear.weight[:, channels] /= factor
    return spoiled


@torch.no_grad()
def quantize_naively(model, layers: list[str], samples: list[dict[str, torch.Tensor]]):
    """A copy with a fixed symmetric range for each whole tensor: the largest value seen."""
    naive, largest = deepcopy(model), {}

    def watch(name):
        def note(module, inputs):
            largest[name] = max(largest.get(name, 0.0), inputs[0].abs().max().item())

        return naive.get_submodule(name).register_forward_pre_hook(note)

    handles = [watch(name) for name in layers]
    for sample in samples:
        naive(**sample)
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


def prepare_plainly(config: Path, checkpoint: str) -> Preparation:
    """A checkpoint and a recipe's data without augmentation, to calibrate the ranges with."""
    words = ["--config", str(config), "--model_name_or_path", checkpoint]
    return prepare(parse_arguments([*words, *(w for name in VARIED for w in (f"--{name}", "0"))]))


def read_samples(loader) -> list[dict[str, torch.Tensor]]:
    """The first images and texts that the model would be trained with, one of each an entry."""
    samples: list[dict[str, torch.Tensor]] = []
    for batch in loader:
        for pixels, ids, mask in zip(
            batch["pixel_values"], batch["input_ids"], batch["attention_mask"], strict=False
        ):
            # Padding is no text: ranges are not to be found from it.
            inputs = {"pixel_values": pixels, "input_ids": ids[mask > 0]}
            inputs["attention_mask"] = mask[mask > 0]
            samples.append({name: value[None] for name, value in inputs.items()})
        if len(samples) >= NUM_CALIBRATION + NUM_CHECKS:
            break
    return samples[: NUM_CALIBRATION + NUM_CHECKS]


def train_quantized(options, start: Path, folder: Path, way: tuple[str, int, float], seed: int):
    """Train a few steps with rounding; the quantised model is then in `int8` of the folder."""
    mode, bits, smoothing = way
    fields = {
        "model_name_or_path": start,
        "teacher_name_or_path": options.checkpoint,
        "quantization_mode": mode,
        "quantization_weight_bits": bits,
        "quantization_smoothing": smoothing,
        "optim": "adamw",
        "learning_rate": options.learning_rate,
        "max_steps": options.steps,
        "seed": seed,
        "eval_steps": 0,
        "save_steps": 0,
        "report_to": "none",
        "output_dir": folder,
    }
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    assert clip_vit(["train", "--config", str(options.config), *words]) == 0


def figures(metrics: list[Metric]) -> dict[str, float]:
    """R@1, R@5 and R@10, the mean over caption columns, and zero-shot accuracy over labels."""
    of_validation = [metric for metric in metrics if metric.evaluation == "validation"]
    values: dict[str, list[float]] = {name: [] for name in METRICS}
    for metric in of_validation:
        name = f"{metric.direction}/{metric.name}"
        if metric.task == "zero_shot" and metric.name == "accuracy":
            name = "zero-shot"
        if name in values:
            values[name].append(metric.value)
    return {name: statistics.mean(v) if v else float("nan") for name, v in values.items()}


def describe(values: list[float]) -> str:
    """Percent, with the standard deviation over seeds where there are several."""
    percent = [100 * value for value in values]
    told = f"{statistics.mean(percent):.1f}"
    return f"{told} ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else told


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--config", type=Path, default=Path("configuration/train/emoji.yaml"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3, help="0: nothing is trained")
    parser.add_argument("--trained", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--factors", type=float, nargs="+", default=[1, 150])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ready = prepare_plainly(options.config, options.checkpoint)
    model, processor = ready.model.eval(), ready.processor
    samples = read_samples(ready.data.loader)
    rows = []

    def add(kind: str, how: str, *measured: list[Metric]):
        seeds = [figures(metrics) for metrics in measured]
        rows.append({"model": kind, "how": how, "seeds": seeds})
        cells = " | ".join(describe([seed[name] for seed in seeds]) for name in METRICS)
        print(f"| {kind} | {how} | {cells} |", flush=True)

    def measure(some) -> list[Metric]:
        return evaluate_run(ready.evaluations, TorchEncoder(some, processor))

    print(f"| model | how | {' | '.join(METRICS)} |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as place:
        for factor in options.factors:
            kind = "as trained" if factor == 1 else f"outliers × {factor:g}"
            spoiled, folder = add_outliers(model, factor), Path(place) / f"{factor:g}"
            spoiled.save_pretrained(folder / "start")
            processor.save_pretrained(folder / "start")
            layers = choose_layers(spoiled)
            add(kind, "float", measure(spoiled))
            add(kind, "naive static int8", measure(quantize_naively(spoiled, layers, samples)))
            for bits in (8, 4, 3, 2):
                small = quantize(spoiled, layers, "dynamic", bits)
                add(kind, f"dynamic int{bits}", measure(small))
            try:
                export_clip(
                    deepcopy(spoiled),
                    processor,
                    folder / "openvino",
                    "openvino",
                    "int8",
                    samples=samples,
                    num_calibration=NUM_CALIBRATION,
                )
            except ExportError as error:
                print(f"no row of SmoothQuant int8: {error}")
            else:
                exported = load_encoder(str(folder / "openvino"))
                found = evaluate_run(ready.evaluations, exported)
                add(kind, "SmoothQuant int8 (OpenVINO)", found)
            for how in options.trained if options.seeds else ():
                measured = []
                for seed in range(options.seeds):
                    target = folder / f"{how}-{seed}"
                    train_quantized(options, folder / "start", target, TRAINED[how], seed)
                    encoder = load_encoder(str(target / "int8"))
                    measured.append(evaluate_run(ready.evaluations, encoder))
                add(kind, f"{how}, trained {options.steps} steps", *measured)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
