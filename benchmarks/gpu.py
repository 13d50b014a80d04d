"""Everything that needs a GPU, in one command: tests, kernels, losses, steps, batches, inference.

    python benchmarks/gpu.py --name h200 [--only tests loss ...] [--output docs/measurements]
    python benchmarks/gpu.py --name h200 --missing
    python benchmarks/gpu.py --name try --small

Each section is a program of its own, of this folder or of the tests; what they measured goes into
`gpu-NAME.json`, section by section, and --missing goes on with the rest. The run ends after
--minutes; all sections together may take twice the default of ten. `python
benchmarks/measurement_tables.py` writes the tables of docs/gpu.md from that file.

--small runs each section on a few inputs, to see that it works; on a CPU it is always small. Fused
losses and adapters are measured where their packages are installed: `pip install memeff inf-cl
peft`.
"""

import argparse
from pathlib import Path
from xml.etree import ElementTree

from devices import add_device_option
from sections import Section, add_section_options, describe_run, run_sections

PACKAGES = (
    *("torch", "transformers", "accelerate", "timm", "torchao", "peft", "triton"),
    *("open_clip_torch", "memeff", "inf-cl"),
)
TRAIN = "benchmarks/training_throughput.py --loss_steps 0"
ON_CARD = f"{TRAIN} --precision bf16 --rounds 3 --steps 5 --engines"


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


def main():
    """Run the sections and write what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device_option(parser)
    add_section_options(parser, SECTIONS)
    parser.add_argument("--minutes", type=float, default=10, help="later sections are left out")
    options = parser.parse_args()
    options.small |= options.device != "cuda"
    path = options.output / f"gpu-{options.name}.json"
    here = {**describe_run(options.device, PACKAGES), "is_small": options.small}
    raise SystemExit(1 if run_sections(SECTIONS, options, path, here) else 0)


if __name__ == "__main__":
    main()
