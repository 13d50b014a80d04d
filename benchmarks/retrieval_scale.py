"""Time and memory of retrieval metrics over the number of items: N texts against N images.

    python benchmarks/retrieval_scale.py [--sizes 12500 25000 50000 100000] [--width 512] \
        [--captions 1] [--json retrieval_scale.json] [--save docs/retrieval_scale.png]

Each size runs in a process of its own, text to image and image to text. Prints a table with the
growth of peak resident memory, the memory of the embeddings, and the memory that the matrix of all
similarities would need; draws all three, and the time. With several captions per image, mAP is
measured as well.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from modeling_clip_vit.evaluation.tasks.retrieval import measure_retrieval


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_embeds(rows: int, width: int, seed: int) -> torch.Tensor:
    """Random embeddings of length 1, made without a copy."""
    embeds = torch.empty(rows, width).normal_(generator=torch.Generator().manual_seed(seed))
    return normalize(embeds, dim=1, out=embeds)


def measure(size: int, width: int, captions: int) -> dict:
    """Both directions once, in this process."""
    small = torch.eye(4, width)
    measure_retrieval(small, small, torch.arange(4), torch.arange(4))  # loads what torch loads late
    before = peak_bytes()
    images, texts = make_embeds(size, width, 0), make_embeds(size * captions, width, 1)
    image_ids = torch.arange(size)
    text_ids = torch.arange(size * captions) // captions
    started = time.perf_counter()
    measure_retrieval(texts, images, text_ids, image_ids)
    measure_retrieval(images, texts, image_ids, text_ids)
    return {
        "size": size,
        "seconds": time.perf_counter() - started,
        "peak_bytes": peak_bytes() - before,
        "embedding_bytes": (images.numel() + texts.numel()) * images.element_size(),
        "matrix_bytes": size * size * captions * images.element_size(),
    }


def measure_apart(size: int, options: argparse.Namespace) -> dict:
    """A size in a process of its own: the peak of memory is of the whole process."""
    command = [sys.executable, __file__, "--one", str(size)]
    command += ["--width", str(options.width), "--captions", str(options.captions)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def draw(rows: list[dict], path: Path):
    """Memory and time over the number of items, both axes logarithmic."""
    figure = Figure(figsize=(9, 3.6), dpi=110)
    memory, seconds = figure.subplots(1, 2)
    sizes = [row["size"] for row in rows]
    for key, name, style in (
        ("matrix_bytes", "the matrix of all similarities", "--"),
        ("peak_bytes", "peak", "o-"),
        ("embedding_bytes", "the embeddings alone", ":"),
    ):
        memory.plot(sizes, [row[key] / 2**20 for row in rows], style, label=name)
    memory.set_title("memory in MiB", fontsize=10)
    memory.legend(fontsize=8)
    seconds.plot(sizes, [row["seconds"] for row in rows], "o-")
    seconds.set_title("seconds, both directions", fontsize=10)
    for axis in (memory, seconds):
        axis.set(xscale="log", yscale="log", xlabel="texts and images each")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main():
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--captions", type=int, default=1, help="texts of each image")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="a picture")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.width, options.captions)))
        return
    print("| items | seconds | peak MiB | embeddings MiB | matrix MiB |\n" + "| --- " * 5 + "|")
    rows = []
    for size in options.sizes:
        row = measure_apart(size, options)
        cells = [row[f"{name}_bytes"] / 2**20 for name in ("peak", "embedding", "matrix")]
        print(f"| {size:,} | {row['seconds']:.1f} | " + " | ".join(f"{c:,.0f}" for c in cells), "|")
        rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.save:
        draw(rows, options.save)


if __name__ == "__main__":
    main()
