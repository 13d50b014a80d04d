"""Files per second while pictures are indexed, beside two other programs with the same model.

    python benchmarks/indexing_pictures.py FOLDER        # 10,000 pictures out of packages
    python benchmarks/indexing.py FOLDER --rclip_python OTHER/bin/python

Every program takes the same files with the same model, a ViT-B/32 of 256 pixels with random weights
or the checkpoint `--model`, on the same processors: a loop over Sentence Transformers' CLIP, the
indexing of rclip, and `clip-vit index` in fp32 and int8. They take turns, and the time begins when
the model is loaded. rclip needs an environment of its own (`pip install rclip==3.3.0`). It takes no
model by an option, so the B/32's graph is put where it keeps its own; it prepares pictures for that
size alone.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

#: Side of the pictures that rclip prepares; the model is made for it.
IMAGE_SIZE = 256
#: A program -> what it runs; it prints a line of JSON.
PROGRAMS = {
    "sentence-transformers": """
import time
from pathlib import Path
from PIL import Image
import modeling_clip_vit
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(str(work / "transformers"), device="cpu")
model.encode([Image.new("RGB", (256, 256))])
files = sorted(map(str, pictures.rglob("*.*")))
started, cpu = time.perf_counter(), time.process_time()
for start in range(0, len(files), 64):
    images = [Image.open(file).convert("RGB") for file in files[start : start + 64]]
    model.encode(images, batch_size=64, convert_to_numpy=True, show_progress_bar=False)
""",
    "rclip": """
import time
os.environ["RCLIP_DATADIR"] = str(work / "rclip")
from rclip import db, main, model
files = sorted(map(str, pictures.rglob("*.*")))
loaded = model.Model()
loaded._session_visual
(work / "rclip" / "db.sqlite3").unlink(missing_ok=True)
indexer = main.RClip(loaded, db.DB(work / "rclip" / "db.sqlite3"), 8, None)
started, cpu = time.perf_counter(), time.process_time()
indexer.ensure_index(str(pictures))
""",
    "clip-vit": """
import time, shutil
import clip_vit
clip_vit.prepare_package()
from modeling_clip_vit.search.folder import plan_folder
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.update import Update, UpdateOptions
source = PictureIndex.open(work / precision)
shutil.rmtree(work / "index", ignore_errors=True)
index = PictureIndex.create(
    work / "index", source.settings.model, source.model_folder, options={"precision": precision}
)
encoder = index.image_encoder(threads)
encoder.session
files = sorted(pictures.rglob("*.*"))
started, cpu = time.perf_counter(), time.process_time()
update = Update(index, lambda: encoder, UpdateOptions(threads))
report = update.run(plan_folder(index, pictures, 1024))
assert report.new == len(files), report
""",
}
#: Around each program.
HEAD = """
import json, os, sys
from pathlib import Path
pictures, work = Path(sys.argv[1]), Path(sys.argv[2])
threads, precision = int(sys.argv[3]), sys.argv[4]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
"""
TAIL = """
seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
# Not of getrusage, which begins with the memory of the process that started this one.
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
print(json.dumps({"files": len(files), "seconds": seconds, "cpu": cpu, "peak_mb": peak}))
"""
#: Name -> the program and the precision.
CONTENDERS = {
    "sentence-transformers, loop": ("sentence-transformers", "fp32"),
    "rclip": ("rclip", "fp32"),
    "clip-vit index, fp32": ("clip-vit", "fp32"),
    "clip-vit index, int8": ("clip-vit", "int8"),
}


def make_random(folder: Path):
    """A ViT-B/32 as Transformers has it, with random weights."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from modeling_clip_vit.conversion.processors import clip_tokenizer

    config = CLIPConfig()
    config.vision_config.image_size = IMAGE_SIZE
    CLIPModel(config).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=size)
    CLIPProcessor(images, clip_tokenizer(77)).save_pretrained(folder)


def make_models(work: Path, folder: Path):
    """The model for every program."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    from modeling_clip_vit.cli import main

    SentenceTransformer(modules=[Transformer(str(folder))]).save(str(work / "transformers"))
    seed = work / "seed"
    seed.mkdir()
    shutil.copy(Path(__file__).parent.parent / "docs/search.png", seed / "one.png")
    for precision in ("fp32", "int8"):
        arguments = [str(folder), str(seed), str(work / precision), "--precision", precision]
        if main(["index", *arguments, "--runtime", "onnxruntime"]):
            raise SystemExit("the model could not be exported")


def make_rclip_model(work: Path):
    """The B/32's graph where rclip keeps its own."""
    import onnx

    place = work / "rclip" / "ViT-B-32-256-datacomp_s34b_b86k"
    place.mkdir(parents=True)
    graph = onnx.load(work / "fp32/model/image.onnx")
    rename(graph.graph, {"pixel_values": "input", "image_embeds": "output"})
    onnx.save(graph, place / "visual.onnx")


def rename(graph, names: dict[str, str]):
    """Give inputs and outputs of a graph other names."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def measure(name: str, args: argparse.Namespace, work: Path) -> dict:
    """Run a program once."""
    program, precision = CONTENDERS[name]
    python = args.rclip_python if program == "rclip" else sys.executable
    code = HEAD + PROGRAMS[program] + TAIL
    command = [python, "-c", code, args.pictures, str(work), str(args.threads), precision]
    threads = {name: str(args.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name}: {found['files'] / found['seconds']:.1f} files/s", file=sys.stderr, flush=True)
    return found


def main_benchmark():
    """Measure all in turns, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", help="folder of pictures")
    parser.add_argument("--model", help="checkpoint to take in place of a random B/32")
    parser.add_argument("--rclip_python", help="Python of an environment with rclip 3.3.0")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--output", default="indexing.json")
    args = parser.parse_args()
    names = [name for name in CONTENDERS if args.rclip_python or CONTENDERS[name][0] != "rclip"]
    results: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(args.model or f"{place}/checkpoint")
        if args.model is None:
            make_random(folder)
        make_models(Path(place), folder)
        if args.rclip_python:
            make_rclip_model(Path(place))
        for _ in range(args.rounds):
            for name in names:
                results[name].append(measure(name, args, Path(place)))
    first = speed(results[names[0]])
    print("| program | files/s | times the loop | processor ms a file | peak memory |")
    print("| --- | --- | --- | --- | --- |")
    for name, runs in results.items():
        cpu = statistics.median(run["cpu"] / run["files"] for run in runs) * 1000
        memory = max(run["peak_mb"] for run in runs)
        ratio = speed(runs) / first
        print(f"| {name} | {speed(runs):.1f} | {ratio:.2f} | {cpu:.1f} | {memory:.0f} MB |")
    Path(args.output).write_text(json.dumps(results, indent=2) + "\n")


def speed(runs: list[dict]) -> float:
    """Files per second, the median of the rounds."""
    return statistics.median(run["files"] / run["seconds"] for run in runs)


if __name__ == "__main__":
    main_benchmark()
