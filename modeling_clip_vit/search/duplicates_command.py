"""The command `clip-vit duplicates`."""

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..utils.command_line import CommandParser
from ..utils.errors import UserError
from .duplicates import REASONS, Group, find_duplicates
from .engine import MOST_EXACT, PictureSearch
from .index import PictureIndex
from .results import file_path, printable
from .snapshot import Snapshot, row_values

TITLES = {
    "bytes": "same file",
    "pixels": "same pixels, another file",
    "perceptual": "looks the same, resized or compressed again",
    "alike": "alike",
}


def run_duplicates(arguments: list[str]) -> int:
    """Print the groups of pictures that are the same or alike."""
    options = build_parser().parse(arguments, DuplicatesOptions)
    unknown = [reason for reason in options.reasons if reason not in REASONS]
    if unknown or not options.reasons:
        raise UserError(
            f"reasons={','.join(options.reasons)!r} is not allowed: choose from "
            f"{', '.join(REASONS)}"
        )
    if not 0 < options.min_cosine <= 1:
        raise UserError(f"min_cosine={options.min_cosine} is not allowed: above 0, up to 1")
    snapshot = PictureSearch(PictureIndex.open(options.index)).read_all()
    reasons = options.reasons
    if len(snapshot.vectors) > MOST_EXACT and not {"perceptual", "alike"}.isdisjoint(reasons):
        reasons = [reason for reason in reasons if reason in ("bytes", "pixels")]
        print(
            f"all pairs are only compared among up to {MOST_EXACT:,} pictures, and there are "
            f"{len(snapshot.vectors):,}: looking for equal bytes and pixels alone",
            file=sys.stderr,
        )
    groups = find_duplicates(snapshot.rows, snapshot.vectors, reasons, options.min_cosine)
    {"table": print_table, "json": print_json, "csv": print_csv}[options.format](groups, snapshot)
    return 0


def print_table(groups: Sequence[Group], snapshot: Snapshot):
    """Print groups for people: by reason, the best picture of each first."""
    for reason in REASONS:
        chosen = [group for group in groups if group.reason == reason]
        if chosen:
            print(f"{TITLES[reason]} ({len(chosen)}):")
        for group in chosen:
            for place, cosine in zip(group.places, group.cosines, strict=True):
                row = row_values(snapshot.rows, place)
                size = f"{row['width']} x {row['height']}"
                first = "  *" if place == group.places[0] else "   "
                print(f"{first} {cosine:.3f}  {size:>13}  {printable(row['id'])}")
            print()
    copies = sum(len(group.places) - 1 for group in groups if group.reason != "alike")
    print(f"{copies:,} of {len(snapshot.vectors):,} pictures are copies of another one")


def print_json(groups: Sequence[Group], snapshot: Snapshot):
    """Print groups as a list with reason and pictures."""
    content = [
        {
            "reason": group.reason,
            "pictures": [
                {"path": file_path(row_values(snapshot.rows, place)), "cosine": round(cosine, 6)}
                for place, cosine in zip(group.places, group.cosines, strict=True)
            ],
        }
        for group in groups
    ]
    print(json.dumps(content, indent=2, ensure_ascii=False))


def print_csv(groups: Sequence[Group], snapshot: Snapshot):
    """Print a line per picture, with the number and the reason of its group."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["group", "reason", "path", "cosine"])
    for number, group in enumerate(groups, start=1):
        for place, cosine in zip(group.places, group.cosines, strict=True):
            path = file_path(row_values(snapshot.rows, place))
            table.writerow([number, group.reason, path, f"{cosine:.6f}"])


@dataclass
class DuplicatesOptions:
    """What to look for, and how to show it.

    Args:
        reasons: bytes (equal files), pixels (equal pixels in other files), perceptual (resized or
            compressed again), alike (nearly equal embeddings).
        min_cosine: pictures are alike from this cosine similarity on.
        format: table, json or csv.
    """

    reasons: list[str] = field(default_factory=lambda: list(REASONS))
    min_cosine: float = 0.95
    format: Literal["table", "json", "csv"] = "table"


def build_parser() -> CommandParser:
    """The arguments of `clip-vit duplicates`."""
    parser = CommandParser(
        prog="clip-vit duplicates",
        description="Find pictures of an index that are there more than once, and pictures that "
        "are alike. Nothing is deleted; the first of a group is the largest.",
        example="clip-vit duplicates photos.index --reasons bytes,pixels",
    )
    parser.add_argument("index", type=str, help="index that clip-vit index made")
    parser.add_class_arguments(DuplicatesOptions)
    return parser
