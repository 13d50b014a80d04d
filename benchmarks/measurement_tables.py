"""Write the tables of README and of some pages of docs, and of their Chinese twins.

    python benchmarks/measurement_tables.py [--check]

The figures are those of docs/measurements: default_run.json (what the model card is made of),
cpu-epyc.json and gpu-h200.json (of benchmarks/cpu.py and gpu.py), and padding_texts.json and
padding_images.json (of benchmarks/text_packing.py). A table stands between `<!-- table: NAME -->`
and `<!-- end -->`, and only what is between them is written. A section that was not measured leaves
a sentence that says so. With --check nothing is written, and the exit status is 1 where a page
differs.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measurement_words import Language, Row

ROOT = Path(__file__).parent.parent
MEASUREMENTS = ROOT / "docs" / "measurements"
#: Pages with tables; their Chinese twins end in .zh-CN.md.
PAGES = (
    *("README.md", "docs/deployment.md", "docs/gpu.md", "docs/measurements.md"),
    "docs/training.md",
)
CPU, GPU = "cpu-epyc", "gpu-h200"
PRECISIONS, PARTS = ("float32", "bfloat16"), ("image", "text")
#: Row of benchmarks/inference.py -> its name in a table.
INFERENCE_ROWS = {
    "hf-fp32": "Transformers' CLIP, fp32",
    "hf-bf16": "Transformers' CLIP, bf16",
    "hf-openvino-fp32": "Transformers' CLIP, its OpenVINO export, fp32",
    "open_clip-fp32": "open_clip, fp32",
    "open_clip-bf16": "open_clip, bf16",
    "ours-fp32": "ours, fp32",
    "ours-bf16": "ours, bf16",
    "ours-torchao-int8": "ours, torchao int8, compiled",
    "ours-onnx-fp32": "ours, ONNX fp32",
    "ours-onnx-int8": "ours, ONNX int8",
    "ours-openvino-fp32": "ours, OpenVINO fp32",
    "ours-openvino-bf16": "ours, OpenVINO bf16",
    "ours-openvino-int8": "ours, OpenVINO int8",
}


def gigabytes(size: float | None) -> str:
    """Bytes for a table."""
    return "–" if size is None else f"{size / 1e9:.1f} GB"


def operations(rate: float) -> str:
    """Operations per second for a table."""
    return f"{rate / 1e12:,.0f} TFLOP/s" if rate > 2e12 else f"{rate / 1e9:.0f} GFLOP/s"


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Name -> the median of its times."""
    return {name: statistics.median(values) for name, values in times.items()}


def tests_table(say: Language, figures: dict) -> str:
    """Outcomes of tests/gpu."""
    header = ["passed", "skipped", "failed"]
    row = [str(figures["passed"]), str(figures["skipped"]), str(len(figures["failed"]))]
    return say.table(header, [row])


def attention_table(say: Language, figures: dict) -> str:
    """Time and error of each kernel."""
    rows = []
    for case, kernels in figures["cases"].items():
        eager = statistics.median(kernels["eager"]["milliseconds"])
        for kernel, found in kernels.items():
            if "error" not in found:
                rows.append([say(case), kernel, "–", "–", "–"])
                continue
            middle = statistics.median(found["milliseconds"])
            cells = [f"{middle:.2f}", f"{eager / middle:.1f}", f"{found['error']:.1e}"]
            rows.append([say(case), kernel, *cells])
    return say.table(["attention", "kernel", "ms", "times eager", "error"], rows)


def gpu_loss_table(say: Language, figures: dict) -> str:
    """Time, memory and error of each loss on a GPU."""
    rows = []
    for name, error in figures["gradient_errors"].items():
        cells = [say("does not fit"), "–"]
        if name in figures["seconds"]:
            middle = statistics.median(figures["seconds"][name])
            cells = [f"{1000 * middle:,.0f}", gigabytes(figures["bytes"][name])]
        rows.append([say(name), *cells, f"{error:.0e}"])
    return say.table(["loss", "ms", "memory", "gradient error"], rows)


def cpu_loss_table(say: Language, figures: dict) -> str:
    """Time of each loss on a CPU."""
    middle = medians(figures["seconds"])
    rows = []
    for name, values in figures["seconds"].items():
        times = (f"{value:.2f} s" for value in (min(values), middle[name], max(values)))
        rows.append([say(name), *times, f"{middle['ours, tiled'] / middle[name]:.2f}"])
    return say.table(["loss", "min", "median", "max", "ours / this one"], rows)


def loss_memory_table(say: Language, figures: dict) -> str:
    """MB that each loss adds, by the pairs of a batch."""
    batches = list(figures["ours, tiled"])
    rows = [
        [
            f"**{say(name)}**" if name == "ours, tiled" else say(name),
            *(f"{row[size]:,.0f} MB" if size in row else say("does not fit") for size in batches),
        ]
        for name, row in figures.items()
    ]
    return say.table(["pairs", *(f"{int(size):,}" for size in batches)], rows)


def training_rows(say: Language, engines: dict) -> list[Row]:
    """Engine, times of a step, pairs a second, and the ratio to open_clip."""
    middle = medians({name: found["seconds"] for name, found in engines.items()})
    best = min(middle, key=middle.__getitem__)
    rows = []
    for name, found in engines.items():
        times = (min(found["seconds"]), middle[name], max(found["seconds"]))
        rows.append(
            [
                f"**{say(name)}**" if name == best else say(name),
                *(f"{value:.3f} s" for value in times),
                f"{found['pairs_per_second']:,.{0 if found['pairs_per_second'] > 100 else 1}f}",
                f"{middle['open_clip'] / middle[name]:.2f}" if "open_clip" in middle else "–",
            ]
        )
    return rows


TRAINING_HEADER = ["engine", "min", "median", "max", "pairs/s", "times open_clip"]


def gpu_training_table(say: Language, figures: dict) -> str:
    """Steps of each engine on a GPU."""
    rows = training_rows(say, figures["bf16"])
    for row, found in zip(rows, figures["bf16"].values(), strict=True):
        share = found["share_of_the_peak"]
        row += [gigabytes(found["peak_bytes"]), "–" if share is None else f"{100 * share:.0f} %"]
    return say.table([*TRAINING_HEADER, "memory", "MFU"], rows)


def cpu_training_table(say: Language, figures: dict) -> str:
    """Steps of each engine on a CPU, in each precision."""
    rows = [
        [precision, *row]
        for precision in ("fp32", "bf16")
        for row in training_rows(say, figures[precision])
    ]
    return say.table(["precision", *TRAINING_HEADER], rows)


def pipeline_table(say: Language, figures: dict) -> str:
    """Rates of loading and training."""
    rows = [
        [
            f"{found['width']} × {found['width'] * 3 // 4}",
            say("yes" if found["augmented"] else "no"),
            *(f"{found[part]:,.0f}" for part in ("loader", "updates", "both")),
            f"{100 * found['waited']:.0f} %",
        ]
        for found in figures["rows"]
    ]
    header = ["JPEGs", "augmented", "loader", "updates", "both", "share of time spent waiting"]
    return say.table(header, rows)


def default_job_table(say: Language, figures: dict) -> str:
    """Parts of an update of the default recipe."""
    parts = figures["milliseconds_of_an_update"]
    return say.table(["part", *parts], [[say("ms"), *(f"{value:.1f}" for value in parts.values())]])


def gpu_inference_table(say: Language, figures: dict) -> str:
    """Latency of each way to embed on a GPU."""
    (rows_of_model,) = figures["models"].values()
    kinds = list(rows_of_model[0]["speed"])
    header = ["row"]
    for kind in kinds:
        part, batch = kind.split("-")
        header.append(f"{say(part)} × {batch}, {say('ms')}")
    rows = []
    for found in rows_of_model:
        times = [f"{found['speed'][kind]['p50_ms']:.2f}" for kind in kinds]
        cosines = [f"{found['cosine'][part]:.4f}" for part in ("image", "text")]
        rows.append([found["row"], *times, " / ".join(cosines)])
    return say.table([*header, "cosine"], rows)


def cpu_inference_table(say: Language, figures: dict) -> str:
    """Size, closeness and speed of each way to embed on a CPU."""
    ((_, found),) = figures["models"].items()
    first = found[0]
    kinds = list(first["speed"])
    ours = [row for row in found if row["row"].startswith("ours-")]
    best = min(ours, key=lambda row: row["speed"][kinds[1]]["p50_ms"])
    header = ["", "size, image / text", "lowest cosine"]
    for kind in kinds:
        part, batch = kind.split("-")
        header.append(f"{say(part)} × {batch}")
    rows = []
    for row in found:
        name = say(INFERENCE_ROWS[row["row"]])
        sizes = (f"{row['disk_mb'][part] / first['disk_mb'][part]:.3f}" for part in PARTS)
        cells = [" / ".join(sizes), f"{min(row['cosine'].values()):.4f}"]
        for kind in kinds:
            p50, p99 = (row["speed"][kind][name] for name in ("p50_ms", "p99_ms"))
            ratio = first["speed"][kind]["p50_ms"] / p50
            cells.append(f"{p50:,.1f} / {p99:,.0f} ms, {ratio:.1f} ×")
        peak = f"{row['peak_mb'] / 1000:.1f} GB"
        rows.append([f"**{name}**" if row is best else name, *cells, peak])
    return say.table([*header, "peak memory"], rows)


def duration(say: Language, seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} 分 {rest} 秒" if say.is_chinese else f"{minutes} min {rest} s"


def default_time_table(say: Language, sections: dict) -> str:
    """How long the default job takes in each precision, beside the speed of products."""
    rows = []
    for name in ("default_job", "default_job_float32"):
        figures = sections[name]["figures"]
        kind = "bfloat16" if figures["precision"] == "bf16" else "float32"
        times = (figures["seconds_of_training"], figures["seconds_in_all"])
        device = ", ".join(figures["device"].split(", ")[:2])
        cells = [f"{figures['gflops'][kind]} GFLOP/s", *(duration(say, time) for time in times)]
        option = "" if kind == "bfloat16" else " (`--bf16 false`)"
        rows.append([say(device), kind + option, *cells])
    header = ["processor", "precision", "the processor's matrix product"]
    header += ["training, 1,050 updates", "with preparation, evaluation and pictures"]
    return say.table(header, rows)


#: Of the comparison in README: engines of a training step, and losses.
PEERS = ("ours", "open_clip", "transformers")
PEER_LOSSES = ("ours, tiled", "open_clip", "transformers")


def steps_row(say: Language, precisions: list[dict]) -> Row:
    """How many steps of each engine fit into one of open_clip, in each precision."""
    middle = [medians({n: engines[n]["seconds"] for n in PEERS}) for engines in precisions]
    words = "training step, ViT-B/32, float32 / bfloat16"
    return [
        say(words),
        *(" / ".join(f"{m['open_clip'] / m[name]:.2f} ×" for m in middle) for name in PEERS),
    ]


def card_steps_row(say: Language, engines: dict) -> Row:
    """The same on a GPU, eager and compiled."""
    middle = medians({name: found["seconds"] for name, found in engines.items()})
    row = [say("training step on an H200, ViT-B/32, bfloat16, eager / compiled")]
    for name in PEERS:
        ratios = (
            f"{middle['open_clip'] / middle[engine]:.2f} ×"
            if engine in middle
            else say("not measured")
            for engine in (name, f"{name}, compiled")
        )
        row.append(" / ".join(ratios))
    return row


def memory_row(say: Language, figures: dict) -> Row:
    """Memory that each loss adds at two sizes of a batch."""
    row = [say("memory that the loss adds at 16,384 / 65,536 pairs")]
    for name in PEER_LOSSES:
        sizes = (
            f"{figures[name][size] / 1000:.2f} GB"
            if size in figures[name]
            else say("does not fit in 23 GB")
            for size in ("16384", "65536")
        )
        row.append(" / ".join(sizes))
    return row


def encoding_row(say: Language, found: list[dict], part: str) -> Row:
    """How fast the fastest form of each embeds batches of 16, against Transformers' in fp32."""
    kind = f"{part}-16"
    middle = {row["row"]: row["speed"][kind]["p50_ms"] for row in found}
    cells = []
    for engine in ("ours-", "open_clip-", "hf-"):
        best = min((row for row in middle if row.startswith(engine)), key=middle.__getitem__)
        form = INFERENCE_ROWS[best].split(", ", 1)[1]
        cells.append(f"{middle['hf-fp32'] / middle[best]:.1f} × ({form})")
    return [say(f"encoding {part}s, ViT-B/32, batch of 16, fastest form"), *cells]


def why_table(say: Language, measurements: dict) -> str:
    """The comparison with open_clip and Transformers at the top of README."""
    cpu, gpu = (
        {name: section["figures"] for name, section in measurements[file]["sections"].items()}
        for file in (CPU, GPU)
    )
    (models,) = cpu["inference"]["models"].values()
    rows = [
        steps_row(say, [cpu["steps"]["fp32"], cpu["steps"]["bf16"]]),
        card_steps_row(say, gpu["b32"]["bf16"]),
        memory_row(say, cpu["loss_memory"]),
        *(encoding_row(say, models, part) for part in PARTS),
    ]
    for row in rows:
        row[1] = f"**{row[1]}**"
    words = ("loads in plain Transformers", "from 5.5 on", "never", "always")
    rows.append([say(cell) for cell in words])
    header = ["measured on two CPU cores, unless it says otherwise"]
    return say.table([*header, "clip-vit", "open_clip", "Transformers' CLIP"], rows)


def find_metric(run: dict, **fields: str) -> float:
    """The value of the one metric with these fields."""
    (value,) = [
        metric["value"]
        for metric in run["metrics"]
        if all(metric.get(name) == expected for name, expected in fields.items())
    ]
    return value


def default_retrieval_table(say: Language, run: dict) -> str:
    """Retrieval by text of the default model."""
    queries = {
        "English names → the third artist's drawings (1,439)": ("caption_en", "validation"),
        "Chinese names → the same drawings": ("caption_zh", "validation"),
        "English names of concepts that were not in training (160) → 1,599 drawings": (
            "caption_en",
            "new_concepts",
        ),
    }
    names = ("R@1", "R@5", "R@10")
    rows = []
    for text, (column, evaluation) in queries.items():
        fields = {"column": column, "evaluation": evaluation, "direction": "text_to_image"}
        values = [find_metric(run, name=name, **fields) for name in names]
        rows.append([say(text), *(f"{100 * value:.1f} %" for value in values)])
    return say.table(["queries", *names], rows)


def default_run_table(say: Language, run: dict) -> str:
    """Where and how the default model was trained, and what else was measured."""
    machine = run["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    rows = [
        ["processor", machine["processor"]],
        ["precision", run["precision"]],
        ["date", machine["date"]],
        ["code", machine["code"].removeprefix("commit ")],
        ["versions", versions],
        ["updates", f"{run['steps']:,}"],
        ["training time", f"{run['seconds']:.0f} s"],
        ["images per second", f"{run['images_per_second']:.0f}"],
        ["parameters, image tower", f"{run['num_vision_parameters']:,}"],
        ["parameters, text tower", f"{run['num_text_parameters']:,}"],
    ]
    for column in ("group", "subgroup"):
        accuracy, majority = (
            find_metric(run, task="zero_shot", column=column, name=name)
            for name in ("accuracy", "majority")
        )
        words = f"{100 * accuracy:.1f} % ({say('majority')} {100 * majority:.1f} %)"
        rows.append([f"zero-shot accuracy, {column}", words])
    return say.table(["measurement", "value"], [[say(name), value] for name, value in rows])


def sections_table(say: Language, sections: dict) -> str:
    """Each section with its machine and command."""
    rows = []
    for name, section in sections.items():
        machine = section["on"]
        rates = (operations(machine["product_rates"][kind]) for kind in PRECISIONS)
        cells = [machine["device"], *rates, machine["date"]]
        rows.append([f"`{name}`", *cells, f"`{section['command']}`"])
    return say.table(["section", "device", *PRECISIONS, "date", "command"], rows)


def padding_texts_table(say: Language, figures: dict) -> str:
    """What each arrangement of texts gains, in the text tower alone and in whole steps."""
    seconds = figures["seconds"]
    middle = {part: medians(names) for part, names in seconds.items()}
    rows = []
    for name in middle["text tower"]:
        row = [say(name)]
        for times in middle.values():
            rate = figures["batch"] / times[name]
            row += [f"{rate:.1f}", f"{times['open_clip'] / times[name]:.2f}"]
        difference = figures["differences"][name]
        rows.append([*row, f"{difference:.0e}" if difference else "0"])
    header = ["texts", "text tower, pairs/s", "times open_clip", "whole step, pairs/s"]
    return say.table([*header, "times open_clip", "largest difference"], rows)


def padding_images_table(say: Language, figures: dict) -> str:
    """Tokens a second of squares and of native shapes."""
    rows = []
    for name, seconds in figures["seconds"].items():
        tokens = figures["tokens"][name]
        padding = figures["padding"] if name == "native shapes" else 0.0
        rate = tokens / statistics.median(seconds)
        rows.append([say(name), f"{rate:,.0f}", f"{100 * padding:.1f} %"])
    return say.table(["images", "patches/s, without padding", "padding"], rows)


@dataclass
class Table:
    """Where the figures of a table are, and what writes it.

    Args:
        file: of docs/measurements, without its suffix; empty for all of them.
        write: makes the table of the figures.
        section: of the file; empty for the whole file.
    """

    file: str
    write: Callable[[Language, Any], str]
    section: str = ""

    def figures(self, measurements: dict[str, dict]) -> dict | None:
        """What to write; None if it was not measured."""
        if not self.file:
            return measurements
        found = measurements.get(self.file)
        if found is None or not self.section:
            return found
        return found["sections"].get(self.section, {}).get("figures")


TABLES = {
    "why": Table("", why_table),
    "default_retrieval": Table("default_run", default_retrieval_table),
    "default_run": Table("default_run", default_run_table),
    "default_time": Table(CPU, lambda say, found: default_time_table(say, found["sections"])),
    "cpu_sections": Table(CPU, lambda say, found: sections_table(say, found["sections"])),
    "cpu_steps": Table(CPU, cpu_training_table, "steps"),
    "cpu_steps_from_files": Table(CPU, cpu_training_table, "steps_from_files"),
    "cpu_loss": Table(CPU, cpu_loss_table, "loss"),
    "cpu_loss_memory": Table(CPU, loss_memory_table, "loss_memory"),
    "cpu_inference": Table(CPU, cpu_inference_table, "inference"),
    "gpu_sections": Table(GPU, lambda say, found: sections_table(say, found["sections"])),
    "gpu_tests": Table(GPU, tests_table, "tests"),
    "gpu_attention": Table(GPU, attention_table, "attention"),
    "gpu_loss": Table(GPU, gpu_loss_table, "loss"),
    "gpu_large_loss": Table(GPU, gpu_loss_table, "large_loss"),
    "gpu_b32": Table(GPU, gpu_training_table, "b32"),
    "gpu_b32_short": Table(GPU, gpu_training_table, "b32_short"),
    # Of the version before, kept by hand.
    "gpu_b32_short_before": Table(GPU, gpu_training_table, "b32_short_before"),
    "gpu_b16": Table(GPU, gpu_training_table, "b16"),
    "gpu_l14": Table(GPU, gpu_training_table, "l14"),
    "gpu_pipeline": Table(GPU, pipeline_table, "pipeline"),
    "gpu_default_job": Table(GPU, default_job_table, "default_job"),
    "gpu_inference": Table(GPU, gpu_inference_table, "inference"),
    "padding_texts": Table("padding_texts", padding_texts_table),
    "padding_images": Table("padding_images", padding_images_table),
}


def read_measurements() -> dict[str, dict]:
    """Name of a file -> what is in it."""
    return {path.stem: json.loads(path.read_text()) for path in MEASUREMENTS.glob("*.json")}


def write_table(name: str, measurements: dict[str, dict], say: Language) -> str:
    """One table; a sentence where there are no figures."""
    table = TABLES[name]
    figures = table.figures(measurements)
    return say("not measured") if figures is None else table.write(say, figures)


def fill(page: str, measurements: dict[str, dict], language: str) -> str:
    """A page with its tables written."""
    say = Language(language)

    def write(match: re.Match) -> str:
        return (
            f"<!-- table: {match[1]} -->\n{write_table(match[1], measurements, say)}\n<!-- end -->"
        )

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", write, page, flags=re.DOTALL)


def main():
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    measurements = read_measurements()
    differ = []
    for name in PAGES:
        for language, path in (
            ("en", ROOT / name),
            ("zh", (ROOT / name).with_suffix(".zh-CN.md")),
        ):
            page = path.read_text(encoding="utf-8")
            filled = fill(page, measurements, language)
            if filled == page:
                continue
            differ.append(path.name)
            if not options.check:
                path.write_text(filled, encoding="utf-8")
    print("differ:" if options.check else "written:", ", ".join(differ) or "none")
    sys.exit(1 if options.check and differ else 0)


if __name__ == "__main__":
    main()
