"""How fast, how large and how close each way to run a CLIP is, on this machine, in one run.

    python benchmarks/inference.py [--models base-patch32] [--only NAME ...] [--output FOLDER]
    python benchmarks/inference.py --device cuda [--batches 1 16 256]

Random weights of the published shapes, made once as HF CLIP, converted to ours and exported, so
that every row computes the same function. Each row runs in a process of its own; the processes
live side by side and take turns, a few calls each, so that noise hits all alike. A caption has 12
tokens; HF CLIP and open_clip get it padded to 77, as their own processing does. A call takes arrays
in the machine's memory and leaves embeddings there, also on a GPU.
"""

import argparse
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

MODELS = {"base-patch32": 32, "base-patch16": 16}
#: Tokens of a usual caption, and what HF CLIP pads to.
CAPTION_LENGTH, PADDED_LENGTH = 12, 77
PARTS = ("image", "text")
#: Row -> what runs it, and how: the runtime, the checkpoint or export, the precision.
ROWS = {
    "hf-fp32": ("hf", "fp32"),
    "hf-bf16": ("hf", "bf16"),
    "hf-openvino-fp32": ("export", "hf-openvino-fp32"),
    "open_clip-fp32": ("open_clip", "fp32"),
    "ours-fp32": ("ours", "fp32"),
    "ours-bf16": ("ours", "bf16"),
    "ours-torchao-int8": ("ours", "int8"),
    "hf-bf16-compiled": ("hf", "bf16-compiled"),
    "open_clip-bf16": ("open_clip", "bf16"),
    "ours-bf16-compiled": ("ours", "bf16-compiled"),
    "ours-bf16-graphs": ("ours", "bf16-compiled-graphs"),
    "ours-int8-graphs": ("ours", "bf16-int8-compiled-graphs"),
    "ours-fp8-graphs": ("ours", "bf16-fp8-compiled-graphs"),
    "ours-onnx-fp32": ("export", "onnx-fp32"),
    "ours-onnx-int8": ("export", "onnx-int8"),
    "ours-openvino-fp32": ("export", "openvino-fp32"),
    "ours-openvino-bf16": ("export", "openvino-bf16"),
    "ours-openvino-int8": ("export", "openvino-int8"),
}
#: Device -> the rows that run on it. Blocks are compiled one by one; `graphs` replays all that a
#: call starts on the GPU as one CUDA graph.
DEVICE_ROWS = {
    "cpu": [row for row in ROWS if not row.endswith(("-compiled", "-graphs"))],
    "cuda": [
        "hf-fp32",
        "hf-bf16",
        "hf-bf16-compiled",
        "open_clip-fp32",
        "open_clip-bf16",
        "ours-fp32",
        "ours-bf16",
        "ours-bf16-compiled",
        "ours-bf16-graphs",
        "ours-int8-graphs",
        "ours-fp8-graphs",
    ],
}
DEVICE_BATCHES = {"cpu": [1, 16], "cuda": [1, 16, 256]}


def is_padded(row: str) -> bool:
    """Whether every text is padded to 77, as HF's and open_clip's own processing does."""
    return row.startswith(("hf-", "open_clip-"))


# Making the models.


def prepare(folder: Path, patch: int, rows: list[str]):
    """Write HF CLIP, ours, open_clip's and the exports that rows need, of the same weights."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from modeling_clip_vit.conversion.hf_clip import from_hf_clip
    from modeling_clip_vit.conversion.open_clip import save as save_open_clip
    from modeling_clip_vit.conversion.open_clip import to_open_clip

    torch.manual_seed(0)
    config = CLIPConfig(vision_config={"patch_size": patch, "image_size": 224})
    hf = CLIPModel(config).eval()
    hf.save_pretrained(folder / "hf")
    ours = from_hf_clip(hf).eval()
    ours.save_pretrained(folder / "ours")
    if any(row.startswith("open_clip-") for row in rows):
        (folder / "open_clip").mkdir()
        save_open_clip(to_open_clip(ours), folder / "open_clip", ours.config)
    for row in rows:
        kind, name = ROWS[row]
        if kind == "export":
            source = hf if name.startswith("hf-") else ours
            *_, format, precision = name.split("-")
            export(source, folder / name, format, precision)


def export(model, target: Path, format: str, precision: str):
    """Both towers; int8 is calibrated with random inputs, enough to measure speed and size."""
    from modeling_clip_vit.export.parts import PARTS as MODULES
    from modeling_clip_vit.export.parts import (
        Shapes,
        dynamic_shapes,
        example_inputs,
        make_images,
        make_texts,
    )
    from modeling_clip_vit.runtimes import GraphSource, exporting_runtimes

    runtime = exporting_runtimes()[format]
    shapes = Shapes(224, 3, PADDED_LENGTH, 49408, 49407, True)
    for part in PARTS:
        build, kinds = MODULES[part]
        samples = [
            make_images(shapes, 1, seed)
            if part == "image"
            else make_texts(shapes, 1, 6 + seed % 12, False, seed)
            for seed in range(32)
        ]
        inputs = example_inputs(shapes, kinds)
        dimensions = dynamic_shapes(shapes, inputs)
        source = GraphSource(build(model).eval(), inputs, dimensions, precision, samples)
        program = runtime.convert(source)
        runtime.save({part: program}, target / part)
        del program
        gc.collect()


def make_inputs(part: str, batch: int, length: int) -> dict[str, np.ndarray]:
    """The inputs that every row computes."""
    rng = np.random.default_rng(batch)
    if part == "image":
        return {"pixel_values": rng.standard_normal((batch, 3, 224, 224)).astype(np.float32)}
    # The same captions at either length; the end of a text also pads it.
    ids = np.full((batch, length), 49407)
    ids[:, : CAPTION_LENGTH - 1] = rng.integers(0, 49406, (batch, CAPTION_LENGTH - 1))
    mask = (np.arange(length) < CAPTION_LENGTH).astype(np.int64)
    return {"input_ids": ids, "attention_mask": np.tile(mask, (batch, 1))}


# One row, in a process of its own.


def build_runner(folder: Path, row: str, threads: int, device: str):
    """A function `run(part, inputs)` that embeds one part, and the bytes of each part on disk."""
    kind, name = ROWS[row]
    if kind == "export":
        return build_export(folder / name, threads)
    import torch

    torch.set_num_threads(threads)
    model = load_torch(folder, kind).to(device)
    traits = name.split("-")
    dtype = torch.bfloat16 if "bf16" in traits else torch.float32
    model = model.to(dtype)
    if name == "int8":
        model = quantise(model)
    if "int8" in traits[1:] or "fp8" in traits:
        quantise_blocks(model, "fp8" in traits)
    if "compiled" in traits:
        for block in blocks(model):
            block.compile(dynamic=False)

    def embed(part: str, tensors: dict) -> torch.Tensor:
        if kind == "open_clip":
            encode = model.encode_image if part == "image" else model.encode_text
            value = encode(next(iter(tensors.values())))
        else:
            encode = model.get_image_features if part == "image" else model.get_text_features
            value = encode(**tensors).pooler_output
        return torch.nn.functional.normalize(value.float(), dim=-1)

    if "graphs" in traits:
        embed = Graphs(embed)

    @torch.inference_mode()
    def run(part, inputs):
        tensors = {key: torch.from_numpy(value).to(device) for key, value in inputs.items()}
        if part == "image":
            tensors["pixel_values"] = tensors["pixel_values"].to(dtype)
        return embed(part, tensors).cpu().numpy()

    return run, size_of_weights(model, folder)


def load_torch(folder: Path, kind: str):
    """The model of HF, of open_clip or ours."""
    if kind == "open_clip":
        from modeling_clip_vit.conversion.open_clip import load

        return load(str(folder / "open_clip")).eval()
    from transformers import AutoModel

    import modeling_clip_vit  # noqa: F401  registers ours

    return AutoModel.from_pretrained(folder / kind).eval()


class Graphs:
    """A function whose work on the GPU is recorded once for each part and batch, and replayed."""

    def __init__(self, function):
        self.function, self.recorded = function, {}

    def __call__(self, part: str, tensors: dict):
        """Embed, by the recording that fits."""
        key = part, len(next(iter(tensors.values())))
        if key not in self.recorded:
            self.recorded[key] = self.record(part, tensors)
        graph, inputs, outputs = self.recorded[key]
        for name, value in tensors.items():
            inputs[name].copy_(value)
        graph.replay()
        return outputs

    def record(self, part: str, tensors: dict):
        """The graph, and the tensors that it reads and writes."""
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # compiles, and settles the memory of libraries
                self.function(part, tensors)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self.function(part, tensors)
        return graph, tensors, outputs


def blocks(model) -> list:
    """The blocks of both towers."""
    from torch import nn

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for members in lists for block in members]


def quantise_blocks(model, is_fp8: bool):
    """Linear layers of the blocks in fp8 or int8 by torchao, activations as they come, per row."""
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        PerRow,
        quantize_,
    )

    kind = Int8DynamicActivationInt8WeightConfig()
    if is_fp8:
        kind = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow())
    for block in blocks(model):
        quantize_(block, kind)


def quantise(model):
    """Linear layers in int8 by torchao, activations as they come, compiled."""
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    model.get_image_features = torch.compile(model.get_image_features, dynamic=False)
    model.get_text_features = torch.compile(model.get_text_features, dynamic=False)
    return model


def size_of_weights(model, folder: Path) -> dict[str, int]:
    """Bytes of each tower's weights as they are written to disk."""
    import torch

    sizes = dict.fromkeys(PARTS, 0)
    for name, weight in model.state_dict().items():
        part = "image" if name.startswith(("vision", "visual")) else "text"
        buffer = Path(tempfile.mkdtemp(dir=folder)) / "weight"
        torch.save(weight.detach().clone(), buffer)
        sizes[part] += buffer.stat().st_size
        shutil.rmtree(buffer.parent)
    return sizes


def build_export(folder: Path, threads: int):
    """A runner of exported graphs."""
    from modeling_clip_vit.runtimes import open_session

    precision = folder.name.rsplit("-", 1)[1]
    sessions, sizes = {}, {}
    for part in PARTS:
        (path,) = [file for file in (folder / part).iterdir() if file.suffix in (".onnx", ".xml")]
        runtime = "onnxruntime" if path.suffix == ".onnx" else "openvino"
        sessions[part] = open_session(path, runtime, precision, threads)
        files = [file for file in (folder / part).iterdir() if file.suffix != ".json"]
        sizes[part] = sum(file.stat().st_size for file in files)
    return lambda part, inputs: sessions[part](inputs)[f"{part}_embeds"], sizes


def serve(folder: Path, row: str, threads: int, device: str):
    """Answer lines of JSON: `{part, batch, calls}` with the seconds of each call and the memory."""
    run, sizes = build_runner(folder, row, threads, device)
    length = PADDED_LENGTH if is_padded(row) else CAPTION_LENGTH
    print(json.dumps({"sizes": sizes}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        inputs = make_inputs(ask["part"], ask["batch"], length)
        seconds = []
        for _ in range(ask["calls"]):
            start = time.perf_counter()
            embeds = run(ask["part"], inputs)
            seconds.append(time.perf_counter() - start)
        answer = {
            "seconds": seconds,
            "embeds": np.asarray(embeds).tolist() if ask["embeds"] else None,
            "peak_mb": peak_memory(device),
        }
        print(json.dumps(answer), flush=True)


def peak_memory(device: str) -> float:
    """The most memory that this process held, in MB: of the GPU, or else of the machine.

    getrusage would count its parent's as well.
    """
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


# All rows, in turns.


class Row:
    """The process of one row; `sizes` are there once it has answered for the first time."""

    def __init__(self, folder: Path, name: str, threads: int, device: str):
        self.name = name
        command = [sys.executable, __file__, "--serve", name, "--device", device]
        command += ["--folder", str(folder), "--threads", str(threads)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.seconds: dict[tuple[str, int], list[float]] = {}
        self.peak_mb = 0.0

    def ask(self, part: str, batch: int, calls: int, embeds: bool = False):
        """Let it compute; `answer` waits for the result."""
        question = {"part": part, "batch": batch, "calls": calls, "embeds": embeds}
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        """What it was asked last; first of all, the sizes of its parts."""
        # Libraries print to the same place.
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"the process of {self.name} ended with {self.process.wait()}")

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(folder: Path, names: list[str], options: argparse.Namespace) -> list[dict]:
    """Run all rows in turns: `rounds` times, `calls` calls of each part and batch."""
    rows = [Row(folder, name, options.threads, options.device) for name in names]
    kinds = [(part, batch) for part in PARTS for batch in options.batches]
    results: dict[str, dict] = {}
    try:
        for row in rows:
            sizes = to_mb(row.answer()["sizes"])
            results[row.name] = {"row": row.name, "disk_mb": sizes, "embeds": {}}
        for part, batch in kinds:
            for row in rows:  # all compile and warm up at once, and say how close they are
                row.ask(part, batch, 2, embeds=True)
            for row in rows:
                results[row.name]["embeds"][part] = np.array(row.answer()["embeds"])
                row.seconds[part, batch] = []
        for _ in range(options.rounds):
            for kind in kinds:
                for row in rows:
                    row.ask(*kind, options.calls)
                    answer = row.answer()
                    row.seconds[kind] += answer["seconds"]
                    row.peak_mb = answer["peak_mb"]
        for row in rows:
            results[row.name] |= {"peak_mb": row.peak_mb, "speed": summarise(row.seconds)}
    finally:
        for row in rows:
            row.close()
    first = results[names[0]]["embeds"]
    for result in results.values():
        embeds = result.pop("embeds")
        result["cosine"] = {
            part: float((embeds[part] * first[part]).sum(-1).min()) for part in PARTS
        }
    return list(results.values())


def to_mb(sizes: dict[str, int]) -> dict[str, float]:
    """Bytes as megabytes."""
    return {part: size / 1e6 for part, size in sizes.items()}


def summarise(seconds: dict[tuple[str, int], list[float]]) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of a call in milliseconds, and items a second at the median."""
    found = {}
    for (part, batch), values in seconds.items():
        median = float(np.median(values))
        found[f"{part}-{batch}"] = {
            "p50_ms": 1000 * median,
            "p99_ms": 1000 * float(np.percentile(values, 99)),
            "per_second": batch / median,
        }
    return found


def describe_machine(threads: int, device: str) -> dict:
    """Processor, its instructions that matter here, how fast it multiplies, and versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(fields.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    packages = (
        "torch",
        "transformers",
        "torchao",
        "onnxruntime",
        "openvino",
        "nncf",
        "open_clip_torch",
    )
    from devices import describe_device

    return {
        "device": describe_device(device),
        "processor": fields.get("model name", platform.processor()),
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "instructions": [name for name in wanted if name in flags],
        "missing_instructions": [name for name in wanted if name not in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
        "gflops": measure_rates(threads, device),
        "versions": {name: version(name) for name in packages if is_installed(name)},
    }


def measure_rates(threads: int, device: str) -> dict[str, int]:
    """The most GFLOP a second that torch's product of two square matrices reaches.

    Hypervisors hide which processor it is; this tells machines apart that have the same name.
    """
    import torch
    from devices import multiply_rates

    torch.set_num_threads(threads)
    return {name: round(rate / 1e9) for name, rate in multiply_rates(device).items()}


def is_installed(name: str) -> bool:
    """Whether a distribution is installed."""
    try:
        version(name)
    except ImportError:
        return False
    return True


def write_table(model: str, results: list[dict]) -> str:
    """A table in Markdown; ratios are to the first row."""
    kinds = list(results[0]["speed"])
    head = ["row", "MB image", "MB text", "peak MB", "cosine image", "cosine text"]
    head += [f"{kind}: p50 / p99 ms, per s (ratio)" for kind in kinds]
    lines = [f"### {model}", "", f"| {' | '.join(head)} |"]
    lines.append("|" + " --- |" * len(head))
    first = results[0]
    for result in results:
        cells = [result["row"]]
        for part in PARTS:
            size = result["disk_mb"][part]
            cells.append(f"{size:.1f} ({size / first['disk_mb'][part]:.3f})")
        cells.append(f"{result['peak_mb']:.0f}")
        cells += [f"{result['cosine'][part]:.5f}" for part in PARTS]
        for kind in kinds:
            speed = result["speed"][kind]
            ratio = speed["per_second"] / first["speed"][kind]["per_second"]
            cells.append(
                f"{speed['p50_ms']:.1f} / {speed['p99_ms']:.1f}, "
                f"{speed['per_second']:.1f} ({ratio:.2f})"
            )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=DEVICE_ROWS, help="by default a GPU if there is one")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--only", nargs="+", choices=ROWS, help="by default all of the device")
    parser.add_argument("--batches", type=int, nargs="+", help="1 and 16, and 256 on a GPU")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=5, help="of a row in a turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, help="write inference.json and .md here")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.folder, options.serve, options.threads, options.device)
        return
    from devices import default_device

    options.device = options.device or default_device().type
    options.batches = options.batches or DEVICE_BATCHES[options.device]
    # Ratios are to HF CLIP in float32, which runs always.
    wanted = options.only or DEVICE_ROWS[options.device]
    names = [name for name in ROWS if name in wanted or name == "hf-fp32"]
    machine = describe_machine(options.threads, options.device)
    report = {"machine": machine, "models": {}}
    text = f"{machine}\n\n"
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder), MODELS[model], names)
            results = measure(Path(folder), names, options)
        report["models"][model] = results
        text += write_table(model, results) + "\n"
    print(text)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "inference.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.output / "inference.md").write_text(text)


if __name__ == "__main__":
    main()
