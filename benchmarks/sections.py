"""Several measurements in one command, whose figures go into one file, section by section.

A section is a program of this folder or of the tests. Its figures are written as soon as it ends,
so that a run that is cut short keeps what it has. A section that is run again replaces its former
figures, and keeps them if it fails.
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

from devices import describe_device, multiply_rates

from modeling_clip_vit.utils.versions import package_versions

ROOT = Path(__file__).parent.parent


@dataclass
class Section:
    """A program and what it measures.

    Args:
        command: what Python runs; `{file}` is where it writes its figures.
        small: the same on a few inputs, on any device; empty if there is no such form.
        seconds: the command is stopped after this time.
        read: the figures in the file that the program wrote.
    """

    command: str
    small: str
    seconds: int
    read: Callable[[Path], dict] = lambda path: json.loads(path.read_text())


def run_section(section: Section, is_small: bool, seconds: float) -> dict:
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


def describe_run(device: str, packages: tuple[str, ...]) -> dict:
    """The device, how fast it multiplies, the date, and the versions of what is measured."""
    return {
        "device": describe_device(device),
        "product_rates": multiply_rates(device),
        "versions": package_versions(*packages),
        "date": datetime.now(UTC).date().isoformat(),
    }


def add_section_options(parser: argparse.ArgumentParser, sections: dict[str, Section]):
    """The options of a program that runs sections."""
    parser.add_argument("--name", required=True, help="of the device, for the file's name")
    parser.add_argument("--only", nargs="+", choices=sections, help="by default all sections")
    parser.add_argument("--missing", action="store_true", help="sections without figures so far")
    parser.add_argument("--small", action="store_true", help="a few inputs each")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "measurements")


def run_sections(
    sections: dict[str, Section], options: argparse.Namespace, path: Path, here: dict
) -> int:
    """Run those that are asked for and write their figures; returns how many failed.

    Args:
        sections: by name.
        options: those of `add_section_options`, and `minutes`, after which sections are left out.
        path: the file of the figures.
        here: where and with what they were measured, of `describe_run`.
    """
    end = time.perf_counter() + 60 * options.minutes
    path.parent.mkdir(parents=True, exist_ok=True)
    result: dict = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    former = result["sections"]
    names = options.only or list(sections)
    if options.missing:
        names = [name for name in names if "figures" not in former.get(name, {})]
    failures = 0
    for name in names:
        section, left = sections[name], end - time.perf_counter()
        if options.small and not section.small:
            continue
        if left < 1:
            print(f"{name}: left out, the time is over", flush=True)
            continue
        found = run_section(section, options.small, left)
        print(f"{name}: {found['seconds']:.0f} s {found.get('failed', '')}", flush=True)
        failures += "failed" in found
        if "figures" in found or "figures" not in former.get(name, {}):
            former[name] = {**found, "on": here}
        path.write_text(json.dumps(result, indent=2) + "\n")
    print(path)
    return failures
