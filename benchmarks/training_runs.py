"""Train in a process of its own, as `train.py` does, and read what it measured."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def train(recipe: str, options: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a run.

    Args:
        recipe: name of a recipe.
        options: what to change of it; `output_dir` among them.

    Raises:
        SystemExit: the run failed; with the end of what it printed.
    """
    command = [sys.executable, str(ROOT / "train.py"), "--config", recipe]
    command += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    metrics = Path(options["output_dir"], "metrics.json")
    return json.loads(metrics.read_text(encoding="utf-8"))["metrics"]
