"""Accuracy against speed: one trained checkpoint in every form that it can be deployed in.

    python benchmarks/accuracy_and_speed.py CHECKPOINT [--config configuration/train/emoji.yaml]
        [--trained NAME=FOLDER ...] [--json FILE] [--plot FILE]

Accuracy is what the recipe evaluates. Speed is measured on decoded images in batches of 16: the
models take turns, and the median call counts. `--trained` adds quantised models that were saved by
runs with `quantization_mode`.
"""

import argparse
import json
import statistics
import tempfile
import time
from copy import deepcopy
from pathlib import Path

import torch
from quantization_accuracy import METRICS, NUM_CALIBRATION, figures, prepare_plainly, read_samples

from modeling_clip_vit.evaluation.evaluate import evaluate_run
from modeling_clip_vit.export.folder import export_clip
from modeling_clip_vit.inference.loading import TorchEncoder, load_encoder
from modeling_clip_vit.quantization.eight_bits import quantize
from modeling_clip_vit.quantization.layers import choose_layers

BATCH = 16
EXPORTS = (
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
COLORS = {"torch": "#0969da", "onnx": "#1a7f37", "openvino": "#bf3989"}
SHAPES = {"fp32": "o", "bf16": "s", "int8": "^"}


def make_encoders(model, processor, samples, folder: Path, trained: dict[str, str]) -> dict:
    """Every form of a checkpoint, by name; the first is the float one."""
    compiled = quantize(model, choose_layers(model), "dynamic", 8)
    compiled.get_image_features = torch.compile(compiled.get_image_features, dynamic=False)
    encoders = {
        "torch fp32": TorchEncoder(model, processor),
        "torch bf16": TorchEncoder(deepcopy(model).bfloat16(), processor),
        "torch int8, compiled": TorchEncoder(compiled, processor),
    }
    for format, precision in EXPORTS:
        target = folder / f"{format}-{precision}"
        fit = samples if precision == "int8" else None
        export_clip(
            deepcopy(model),
            processor,
            target,
            format,
            precision,
            samples=fit,
            num_calibration=NUM_CALIBRATION,
        )
        encoders[f"{format} {precision}"] = load_encoder(str(target))
    return encoders | {name: load_encoder(path) for name, path in trained.items()}


def measure_speed(encoders: dict, pixels: torch.Tensor, rounds: int, calls: int) -> dict:
    """Images a second of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for turn in range(rounds + 1):
        for name, encoder in encoders.items():
            time.sleep(0.1)  # threads of the runtime before it go on spinning for a while
            for _ in range(calls):
                start = time.perf_counter()
                encoder.encode_pixels(pixels, BATCH)
                if turn:  # the first compiles and warms up
                    seconds[name].append(time.perf_counter() - start)
    return {name: len(pixels) / statistics.median(values) for name, values in seconds.items()}


def draw(path: Path, rows: list[dict], metric: str):
    """One point a form: the colour is its runtime, the shape its precision."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=110)
    axis = figure.subplots()
    for row in rows:
        color = COLORS.get(row["name"].split()[0], "#57606a")
        shape = next((shape for word, shape in SHAPES.items() if word in row["name"]), "D")
        place = (row["images_per_second"], 100 * row["metrics"][metric])
        axis.plot(*place, shape, color=color, markersize=9, alpha=0.7, label=row["name"])
    axis.set_xlabel(f"images a second, batches of {BATCH}")
    axis.set_ylabel(f"{metric}, %")
    axis.grid(alpha=0.3)
    axis.margins(0.1)
    # A gap that is smaller than one between two trainings should not look like a cliff.
    best = max(100 * row["metrics"][metric] for row in rows)
    axis.set_ylim(min(axis.get_ylim()[0], best - 2), best + 1)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--config", type=Path, default=Path("configuration/train/emoji.yaml"))
    parser.add_argument("--trained", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    ready = prepare_plainly(options.config, options.checkpoint)
    samples = read_samples(ready.data.loader)
    with tempfile.TemporaryDirectory() as folder:
        encoders = make_encoders(
            ready.model.eval(),
            ready.processor,
            samples,
            Path(folder),
            dict(word.split("=", 1) for word in options.trained),
        )
        measured = {
            name: evaluate_run(ready.evaluations, encoder) for name, encoder in encoders.items()
        }
        pixels = ready.evaluations[0].images.pixels[:BATCH]
        speed = measure_speed(encoders, pixels, options.rounds, options.calls)
    rows = [
        {"name": name, "metrics": figures(measured[name]), "images_per_second": speed[name]}
        for name in encoders
    ]
    metric = next(name for name in METRICS if rows[0]["metrics"][name] == rows[0]["metrics"][name])
    print(f"| form | {' | '.join(METRICS)} | images/s | ratio |\n" + "| --- " * 7 + "|")
    for row in rows:
        cells = [f"{100 * row['metrics'][name]:.1f}" for name in METRICS]
        cells += [f"{row['images_per_second']:.0f}"]
        cells += [f"{row['images_per_second'] / rows[0]['images_per_second']:.2f}"]
        print(f"| {row['name']} | {' | '.join(cells)} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.plot:
        draw(options.plot, rows, metric)


if __name__ == "__main__":
    main()
