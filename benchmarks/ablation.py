"""Train every row of benchmarks/ablation.yaml with several seeds, and keep what it reached.

    python benchmarks/ablation.py [--groups attention norm] [--hours 4] [--results FILE]
    python benchmarks/ablation.py --list            # each row with the command that reproduces it

Each run gives two figures: the metric after the same number of steps as the other rows, and after
the same training time. Runs that are already in the results file are skipped, so repeating the
command resumes where it stopped. Nothing else should run on the machine: runs execute in parallel
with one core each (`--jobs`), which uses the cores better than one run on all of them.
`ablation_report.py` turns the file into tables and plots.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
ROWS = ROOT / "benchmarks" / "ablation.yaml"
RESULTS = ROOT / "docs" / "experiments.json"


@dataclass(frozen=True)
class Row:
    """One configuration to try.

    Args:
        group: the group of rows that it is compared with.
        name: its name within the group.
        recipe: the recipe that it starts from.
        metrics: the metrics whose mean is its figure.
        fields: the fields of the recipe that it overrides.
    """

    group: str
    name: str
    recipe: str
    metrics: tuple[str, ...]
    fields: dict

    def key(self, seed: int) -> str:
        """Identifier of a run; rows of different groups that describe the same run share it."""
        return f"{self.recipe} {json.dumps(self.fields, sort_keys=True)} seed {seed}"

    def arguments(self, seed: int) -> list[str]:
        """The arguments of train.py."""
        fields = {**self.fields, "seed": seed}
        pairs = [
            (f"--{name}", value if isinstance(value, str) else json.dumps(value))
            for name, value in fields.items()
        ]
        return ["--config", f"configuration/train/{self.recipe}.yaml", *sum(pairs, ())]


def read_rows(path: Path = ROWS) -> list[Row]:
    """Every row of the file, group by group."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipes = table["recipes"]
    return [
        Row(
            group,
            name,
            entry["recipe"],
            tuple(recipes[entry["recipe"]]["metrics"]),
            {**recipes[entry["recipe"]]["fields"], **fields},
        )
        for group, entry in table["groups"].items()
        for name, fields in entry["rows"].items()
    ]


def run(row: Row, seed: int) -> dict:
    """Train a row in a process of its own.

    Returns:
        `curve`, pairs of step and figure; `step_seconds`, the median; `figures`, the last of each
        metric; `images_per_second`.

    Raises:
        CalledProcessError: training failed; its message has been printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *row.arguments(seed), "--output_dir", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
            done.check_returncode()
        log = (Path(folder) / "training_log.jsonl").read_text().splitlines()
        finished = json.loads((Path(folder) / "metrics.json").read_text())
    lines = [json.loads(line) for line in log]
    curve = {line["step"]: mean(line, row.metrics) for line in lines if row.metrics[0] in line}
    speed = statistics.median(
        line["images_per_second"] for line in lines if "images_per_second" in line
    )
    images = finished["images_per_second"] * finished["train_seconds"] / finished["steps"]
    return {
        "curve": sorted(curve.items()),
        "step_seconds": images / speed,
        "images_per_second": speed,
        "figures": finished["metrics"],
        "code": finished["code"],
    }


def mean(line: dict, metrics: tuple[str, ...]) -> float:
    """The mean of some metrics of a logged line."""
    return statistics.mean(line[name] for name in metrics)


def read_results(path: Path) -> dict[str, dict]:
    """What was measured so far, by run."""
    return json.loads(path.read_text()) if path.is_file() else {}


def write_results(path: Path, results: dict[str, dict]):
    """Replace the file atomically, so that a kill loses only the runs in progress."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(partial, path)


def wanted_runs(rows: list[Row], seeds: int, results: dict) -> Iterator[tuple[Row, int]]:
    """Runs that are still to be made: all rows with the first seed, then with the next."""
    seen = set(results)
    for seed in range(seeds):
        for row in rows:
            if row.key(seed) not in seen:
                seen.add(row.key(seed))
                yield row, seed


def main():
    """Make the runs that are missing, until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=4.0, help="start no run after this time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="print the command of every row")
    options = parser.parse_args()
    rows = [row for row in read_rows() if not options.groups or row.group in options.groups]
    if options.list:
        for row in rows:
            print(f"# {row.group}: {row.name}")
            print("python train.py", shlex.join(row.arguments(0)), "--output_dir outputs/row\n")
        return
    results = read_results(options.results)
    ends = time.time() + 3600 * options.hours

    def run_until_the_end(wanted: tuple[Row, int]) -> tuple[Row, int, dict] | None:
        try:
            return (*wanted, run(*wanted)) if time.time() < ends else None
        except subprocess.CalledProcessError:
            return None  # Its message has been printed; the other runs go on.

    missing = list(wanted_runs(rows, options.seeds, results))
    pool = ThreadPoolExecutor(options.jobs)
    try:
        for finished in as_completed([pool.submit(run_until_the_end, each) for each in missing]):
            if finished.result() is None:
                continue
            row, seed, result = finished.result()
            results[row.key(seed)] = result
            write_results(options.results, results)
            print(
                f"{row.group}: {row.name}, seed {seed}: {100 * result['curve'][-1][1]:.1f} % after "
                f"{result['curve'][-1][0]} steps, {result['images_per_second']:.0f} images/s",
                flush=True,
            )
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the queued runs
    if any(wanted_runs(rows, options.seeds, results)):
        print("runs are missing: the same command goes on")


if __name__ == "__main__":
    main()
