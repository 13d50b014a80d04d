"""The figures of README, docs/training and docs/deployment that a CPU gives, in one command.

    python benchmarks/cpu.py --name epyc [--only loss steps ...] [--output docs/measurements]
    python benchmarks/cpu.py --name epyc --missing
    python benchmarks/cpu.py --name try --small

Run it on a machine that does nothing else: half an hour to an hour on two cores. Each section is a
program of its own; what they measured goes into `cpu-NAME.json`, section by section, and --missing
goes on with the rest. `python benchmarks/measurement_tables.py` writes the tables from it.
"""

import argparse

from sections import Section, add_section_options, describe_run, run_sections

PACKAGES = (
    *("torch", "transformers", "accelerate", "timm", "torchao"),
    *("open_clip_torch", "onnxruntime", "openvino", "nncf"),
)
STEPS = "benchmarks/training_throughput.py --device cpu"
LOSS = "benchmarks/contrastive_loss.py --device cpu"

SECTIONS = {
    "steps": Section(
        f"{STEPS} --engines ours open_clip transformers --tokens 13 --batch 32 --rounds 5 "
        "--json {file}",
        f"{STEPS} --engines ours open_clip transformers --tokens 13 --batch 2 --rounds 1 "
        "--model clip-vit-tiny-patch16 --precision fp32 --json {file}",
        900,
    ),
    "steps_from_files": Section(
        f"{STEPS} --batch 32 --rounds 5 --json {{file}}",
        f"{STEPS} --model clip-vit-tiny-patch16 --batch 2 --rounds 1 --precision fp32 "
        "--loss_steps 1 --loss_batch 2 --json {file}",
        900,
    ),
    "loss": Section(
        f"{LOSS} --json {{file}}", f"{LOSS} --batch 64 --rounds 1 --json {{file}}", 300
    ),
    "loss_memory": Section(
        f"{LOSS} --memory 1024 4096 16384 65536 131072 --plot docs/loss_memory.png --json {{file}}",
        f"{LOSS} --memory 64 --json {{file}}",
        1500,
    ),
    "inference": Section(
        "benchmarks/inference.py --device cpu --models base-patch32 --json {file}", "", 1800
    ),
    "default_job": Section("benchmarks/default_job.py --steps 0 --json {file}", "", 1200),
    "default_job_float32": Section(
        "benchmarks/default_job.py --steps 0 --bf16 false --json {file}",
        "benchmarks/default_job.py --bf16 false --per_device_train_batch_size 8 --steps 6 "
        "--evaluations [] --json {file}",
        1200,
    ),
}


def main():
    """Run the sections and write what they measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_section_options(parser, SECTIONS)
    parser.add_argument("--minutes", type=float, default=60, help="later sections are left out")
    options = parser.parse_args()
    path = options.output / f"cpu-{options.name}.json"
    here = {**describe_run("cpu", PACKAGES), "is_small": options.small}
    raise SystemExit(1 if run_sections(SECTIONS, options, path, here) else 0)


if __name__ == "__main__":
    main()
