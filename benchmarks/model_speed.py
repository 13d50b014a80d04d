"""Forward and backward against Transformers' CLIP and open_clip, with the same weights and threads.

    python benchmarks/model_speed.py [--model clip-vit-base-patch32] [--rounds 6] [--json FILE]

Prints for each task the median time of ours and, as ratios, how many times as long the peers take:
above 1 ours is faster. The three take turns within every round, so that a busy machine slows all.
Captions: 10 tokens, once padded to the longest in the batch, once to the 77 that CLIP pads to.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoConfig

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.conversion import to_hf_clip, to_open_clip

FOLDER = Path(__file__).parent.parent / "configuration" / "model"
CAPTION, BATCH = 10, 16


def build(name: str):
    """Three models with the same weights."""
    torch.manual_seed(0)
    ours = ClipVitModel(AutoConfig.from_pretrained(FOLDER / name)).eval()
    return ours, to_hf_clip(ours), to_open_clip(ours)


def tasks(models, images: torch.Tensor, short: torch.Tensor, long: torch.Tensor):
    """Task -> one callable for each implementation, giving embeddings."""
    ours, hf, oc = models
    mask = (torch.arange(77) < CAPTION).long().expand_as(long)
    return {
        "images": {
            "ours": lambda: ours.get_image_features(images).pooler_output,
            "transformers": lambda: hf.get_image_features(images).pooler_output,
            "open_clip": lambda: oc.encode_image(images),
        },
        "texts of 77 tokens": {
            "ours": lambda: ours.get_text_features(long).pooler_output,
            "transformers": lambda: hf.get_text_features(long).pooler_output,
            "open_clip": lambda: oc.encode_text(long),
        },
        "captions of 10 tokens": {
            "ours": lambda: ours.get_text_features(short).pooler_output,
            # Padded to 77, as their processors and tokenizers do.
            "transformers": lambda: hf.get_text_features(long, attention_mask=mask).pooler_output,
            "open_clip": lambda: oc.encode_text(long),
        },
    }


def run(function, backward: bool, dtype: torch.dtype) -> float:
    """Seconds of one call."""
    context = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    started = time.perf_counter()
    with torch.set_grad_enabled(backward), context:
        embeds = function()
    if backward:
        embeds.float().square().sum().backward()
    return time.perf_counter() - started


def main():
    """Measure all tasks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="clip-vit-base-patch32")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    models = build(options.model)
    config = models[0].config
    size = config.vision_config.image_size
    images = torch.randn(BATCH, 3, size, size)
    end = config.text_config.eos_token_id
    short = torch.randint(1, 49000, (BATCH, CAPTION))
    short[:, -1] = end
    long = torch.nn.functional.pad(short, (0, 77 - CAPTION))
    rows = []
    print(f"{options.model}, batch {BATCH}, {torch.get_num_threads()} threads")
    print("| task | precision | pass | ours | transformers | open_clip |\n" + "| --- " * 6 + "|")
    for task, functions in tasks(models, images, short, long).items():
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                times: dict[str, list[float]] = {name: [] for name in functions}
                for turn in range(options.rounds + 1):
                    names = list(functions)
                    # The first of a round finds other caches, so the order rotates.
                    for name in names[turn % 3 :] + names[: turn % 3]:
                        seconds = run(functions[name], backward, dtype)
                        if turn:  # the first warms up
                            times[name].append(seconds)
                middle = {name: statistics.median(values) for name, values in times.items()}
                ratios = {name: value / middle["ours"] for name, value in middle.items()}
                what = "forward + backward" if backward else "forward"
                precision = str(dtype).removeprefix("torch.")
                rows.append({"task": task, "precision": precision, "pass": what, **middle})
                print(
                    f"| {task} | {precision} | {what} | {1000 * middle['ours']:.0f} ms "
                    f"| {ratios['transformers']:.2f} × | {ratios['open_clip']:.2f} × |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
