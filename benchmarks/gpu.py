"""Everything that needs a GPU, in one command: tests, kernels, losses, steps, batches, inference.

    python benchmarks/gpu.py --name h200 [--only tests loss ...] [--output docs/measurements]
    python benchmarks/gpu.py --name h200 --missing
    python benchmarks/gpu.py --name try --small

Each section is a program of its own, of this folder or of the tests; what they measured goes into
`gpu-NAME.json`, section by section, so that a run that is cut short keeps what it has, and
--missing goes on with the rest. A section that is run again replaces its former figures. The run
ends after --minutes; all sections together may take twice the default of ten. `python
benchmarks/measurement_tables.py` writes the tables of docs/gpu.md from that file.

--small runs each section on a few inputs, to see that it works; on a CPU it is always small. Fused
losses and adapters are measured where their packages are installed: `pip install memeff inf-cl
peft`.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from devices import add_device_option, describe_device, multiply_rates

from modeling_clip_vit.utils.versions import package_versions

ROOT = Path(__file__).parent.parent
PACKAGES = (
    *("torch", "transformers", "accelerate", "timm", "torchao", "peft", "triton"),
    *("open_clip_torch", "memeff", "inf-cl"),
)
TRAIN = "benchmarks/training_throughput.py --loss_steps 0"
ON_CARD = f"{TRAIN} --precision bf16 --rounds 3 --steps 5 --engines"


@dataclass
class Section:
    """A program and what it measures.

    Args:
        command: what Python runs on a GPU.
        small: the same on a few inputs, on any device.
        seconds: it is stopped after this time.
        read: the figures in the file that the program wrote.
    """

    command: str
    small: str
    seconds: int
    read: Callable[[Path], dict] = lambda path: json.loads(path.read_text())


def read_tests(path: Path) -> dict:
    """How many tests had which outcome, and which failed."""
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed, skipped = {}, 0
    for case in cases:
        outcomes = {child.tag: child for child in case}
        skipped += "skipped" in outcomes
        for kind in outcomes.keys() & {"failure", "error"}:
            failed[case.get("name")] = (outcomes[kind].text or "")[-1500:]
    return {"passed": len(cases) - skipped - len(failed), "skipped": skipped, "failed": failed}


SECTIONS = {
    "tests": Section(
        "-m pytest -q -n 12 -p no:cacheprovider tests/gpu --junitxml {file}",
        "",
        300,
        read_tests,
    ),
    "attention": Section(
        "benchmarks/attention_kernels.py --json {file}",
        "benchmarks/attention_kernels.py --batch 1 --rounds 1 --calls 1 --json {file}",
        60,
    ),
    "loss": Section(
        "benchmarks/contrastive_loss.py --batch 32768 --rounds 3 --json {file}",
        "benchmarks/contrastive_loss.py --batch 64 --rounds 1 --accuracy 64 --json {file}",
        40,
    ),
    "large_loss": Section(
        "benchmarks/contrastive_loss.py --batch 262144 --rounds 1 --json {file}",
        "",
        120,
    ),
    "b32": Section(
        f"{ON_CARD} ours 'ours, compiled' 'ours, LoRA' open_clip "
        "'open_clip, compiled' transformers 'transformers, LoRA' "
        "--tokens 77 --batch 1024 --json {file}",
        f"{TRAIN} --model clip-vit-tiny-patch16 --precision fp32 --rounds 1 --batch 2 --tokens 16 "
        "--engines ours open_clip transformers --json {file}",
        150,
    ),
    "b32_short": Section(
        f"{ON_CARD} ours 'ours, padded' open_clip transformers "
        "--tokens 16 --batch 1024 --json {file}",
        "",
        60,
    ),
    "b16": Section(
        f"{ON_CARD} ours 'ours, compiled' open_clip transformers "
        "--model clip-vit-base-patch16 --tokens 77 --batch 512 --json {file}",
        "",
        90,
    ),
    "l14": Section(
        f"{ON_CARD} ours 'ours, compiled' open_clip transformers "
        "--model clip-vit-large-patch14 --tokens 77 --batch 128 --json {file}",
        "",
        100,
    ),
    "pipeline": Section(
        "benchmarks/input_pipeline.py --steps 30 --json {file}",
        "benchmarks/input_pipeline.py --model clip-vit-tiny-patch16 --batch 2 --steps 2 "
        "--workers 1 --widths 64 --shards 2 --samples 8 --json {file}",
        150,
    ),
    "default_job": Section(
        "benchmarks/default_job.py --dataloader_num_workers 8 --steps 100 --json {file}",
        "benchmarks/default_job.py --per_device_train_batch_size 8 --steps 6 --evaluations [] "
        "--json {file}",
        60,
    ),
    "inference": Section(
        "benchmarks/inference.py --models base-patch32 --batches 1 256 --rounds 5 --calls 10 "
        "--only hf-fp32 hf-bf16 open_clip-bf16 ours-fp32 ours-bf16 ours-bf16-graphs "
        "ours-int8-graphs ours-fp8-graphs --json {file}",
        "benchmarks/inference.py --models base-patch32 --batches 1 --rounds 1 --calls 1 --device "
        "cpu --only ours-fp32 --json {file}",
        240,
    ),
}


def run(section: Section, is_small: bool, seconds: float) -> dict:
    """The figures of a section, or the end of what it said when it failed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures"
        command = section.small if is_small else section.command
        arguments = shlex.split(command.format(file=file))
        started = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=ROOT,
                timeout=min(seconds, section.seconds if not is_small else seconds),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            failure = "" if file.exists() else done.stdout[-2000:]
        except subprocess.TimeoutExpired as expired:
            said = expired.stdout or b""
            failure = f"stopped after {expired.timeout:.0f} s\n{said[-1500:].decode()}"
        result = {
            "command": f"python {command.replace(' --json {file}', '')}",
            "seconds": round(time.perf_counter() - started, 1),
        }
        # Tests that fail have figures too.
        return result | ({"failed": failure} if failure else {"figures": section.read(file)})


def describe_run(device: str) -> dict:
    """The device, its speed, the date, and the versions of what was measured."""
    return {
        "device": describe_device(device),
        "product_rates": multiply_rates(device) if device == "cuda" else {},
        "versions": package_versions(*PACKAGES),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main():
    """Run the sections and write what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device_option(parser)
    parser.add_argument("--name", required=True, help="of the card, for the file's name")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="by default all sections")
    parser.add_argument("--missing", action="store_true", help="sections without figures so far")
    parser.add_argument("--small", action="store_true", help="a few inputs each")
    parser.add_argument("--minutes", type=float, default=10, help="later sections are left out")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "measurements")
    options = parser.parse_args()
    is_small = options.small or options.device != "cuda"
    end = time.perf_counter() + 60 * options.minutes
    path = options.output / f"gpu-{options.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    former = json.loads(path.read_text())["sections"] if path.exists() else {}
    result: dict = {"sections": former}
    here = {**describe_run(options.device), "is_small": is_small}
    names = options.only or list(SECTIONS)
    if options.missing:
        names = [name for name in names if "figures" not in former.get(name, {})]
    failures = 0
    for name in names:
        section, left = SECTIONS[name], end - time.perf_counter()
        if is_small and not section.small:
            continue
        if left < 1:
            print(f"{name}: left out, the time is over", flush=True)
            continue
        found = result["sections"][name] = {**run(section, is_small, left), "on": here}
        failures += "failed" in found
        print(f"{name}: {found['seconds']:.0f} s {found.get('failed', '')}", flush=True)
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
