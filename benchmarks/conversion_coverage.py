"""Which models of the peers can be converted, and how exactly.

    python benchmarks/conversion_coverage.py [--peer open_clip] [--json conversion_coverage.json] \
        [--only NAME ...]

Each model is built with random weights, its depth and width cut, converted, compared with the
peer's own on random images and texts, converted back, and saved and loaded. Differences are the
largest of L2-normalised embeddings in float32. A model that is left out has its reason.
"""

import argparse
import gc
import importlib
import json
import time
from pathlib import Path

#: Peer -> the module next to this one with `list_models()` and `check(name)`, which returns the
#: fields of a row: `difference`, or the `reason` why the model is not converted.
PEERS = {
    "open_clip": "coverage_open_clip",
    "timm": "coverage_timm",
    "transformers": "coverage_transformers",
}


def measure(peer: str, only: list[str]) -> list[dict]:
    """The rows of a peer's models, one after the other."""
    module = importlib.import_module(PEERS[peer])
    rows = []
    for name in only or module.list_models():
        started = time.perf_counter()
        row = {"peer": peer, "name": name, **module.check(name)}
        row["seconds"] = round(time.perf_counter() - started, 1)
        rows.append(row)
        print(json.dumps(row), flush=True)
        gc.collect()
    return rows


def summarize(rows: list[dict]) -> str:
    """A table of peers, and one of what is left out."""
    lines = ["| peer | covered | back | largest difference |", "| --- | --- | --- | --- |"]
    for peer in dict.fromkeys(row["peer"] for row in rows):
        all_rows = [row for row in rows if row["peer"] == peer]
        covered = [row for row in all_rows if "difference" in row]
        largest = max((row["difference"] for row in covered), default=0.0)
        back = sum("back" in row for row in covered)
        lines.append(f"| {peer} | {len(covered)} of {len(all_rows)} | {back} | {largest:.1e} |")
    lines += ["", "| left out | reason |", "| --- | --- |"]
    lines += [f"| {row['name']} | {row['reason']} |" for row in rows if "reason" in row]
    return "\n".join(lines)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=[*PEERS, "all"], default="all")
    parser.add_argument("--only", nargs="+", default=[], help="names of models of one peer")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peers = list(PEERS) if options.peer == "all" else [options.peer]
    rows = [row for peer in peers for row in measure(peer, options.only)]
    print(summarize(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
