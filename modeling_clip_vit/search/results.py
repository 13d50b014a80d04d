"""What a search found, as a table, paths, JSON or CSV, as copied files and as a picture."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from ..utils.folders import new_folder, replaced_file, saving
from .engine import Found, Hit
from .index import PictureIndex

#: Columns of the CSV, after the rank.
CSV_COLUMNS = ("id", "path", "score", "margin", "fits", "probability", "taken", "camera", "caption")
SHOWN_SIDE = 320
#: Most characters of a caption in the table.
CAPTION_LENGTH = 80


def print_found(format: str, query: str, index: str, found: Found, hits: Sequence[Hit]):
    """Print hits in one of the formats of `clip-vit search`.

    Args:
        format: `table`, `paths`, `json` or `csv`.
        query: what was searched for, in words.
        index: name of the index.
        found: what the search found.
        hits: those to show, in their order.
    """
    match format:
        case "paths":
            for hit in hits:
                print(file_path(hit.row))
        case "json":
            print(as_json(query, index, found, hits))
        case "csv":
            print(as_csv(hits), end="")
        case _:
            print(headline(query, index, found, hits))
            for place, hit in enumerate(hits, start=1):
                print(line(place, hit))
    if found.unreadable and format == "table":
        print(
            f"{found.unreadable:,} pictures of the index cannot be read: clip-vit info {index} "
            "lists them",
            file=sys.stderr,
        )


def headline(query: str, index: str, found: Found, hits: Sequence[Hit]) -> str:
    """The first line of the table: what was searched, and whether anything fits."""
    searched = f"{printable(query)!r} in {found.searched:,} pictures of {index}"
    if not found.searched:
        return f"{searched}: none to search"
    if found.hits and found.hits[0].fits is None:
        return f"{searched}:"
    if found.nothing_fits:
        return f"{searched}: nothing fits" + ("; the nearest:" if hits else "")
    count = sum(bool(hit.fits) for hit in found.hits)
    at_least = "at least " if count == len(found.hits) < found.searched else ""
    return f"{searched}: {at_least}{count} {'fits' if count == 1 else 'fit'}"


def line(place: int, hit: Hit) -> str:
    """One line of the table: rank, cosine, whether it fits, the picture, and its caption."""
    columns = [f"{place:3}.", f"{hit.score:.3f}"]
    if hit.margin is not None:
        columns.append(f"{'fits' if hit.fits else '':4} ({hit.margin:+.1f})")
    if hit.probability is not None:
        columns.append(f"p {hit.probability:.3f}")
    columns.append(printable(hit.row["id"]))
    if hit.row.get("caption"):
        columns.append(printable(shorten(hit.row["caption"], CAPTION_LENGTH, placeholder=" …")))
    return "  ".join(columns)


def printable(text: str) -> str:
    """A text in which nothing can move a terminal's cursor."""
    return "".join(character if character.isprintable() else "�" for character in text)


def file_path(row: dict[str, Any]) -> str:
    """The absolute path of a picture; with its place where a file holds several."""
    root = row["root"].rstrip("/")
    return f"{root}/{row['id'] if row['id'].startswith(row['path']) else row['path']}"


def date_of(row: dict[str, Any]) -> datetime:
    """When a picture was taken, or else when its file was last changed."""
    taken, modified = row.get("taken"), row.get("modified")
    if taken is not None:
        return taken.astimezone(UTC)
    return modified if modified is not None else datetime.fromtimestamp(0, UTC)


def described(hit: Hit) -> dict[str, Any]:
    """What there is to say of a hit, as plain values."""
    own = {
        "path": file_path(hit.row),
        "score": round(hit.score, 6),
        "margin": None if hit.margin is None else round(hit.margin, 3),
        "fits": hit.fits,
        "probability": hit.probability,
    }
    return {**{name: plain(value) for name, value in hit.row.items()}, **own}


def plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, bool | int | float | str | list | dict) or value is None:
        return value
    return str(value)


def as_json(query: str, index: str, found: Found, hits: Sequence[Hit]) -> str:
    """Hits with all columns, and what was searched."""
    content = {
        "query": query,
        "index": index,
        "searched": found.searched,
        "nothing_fits": found.nothing_fits,
        "hits": [described(hit) for hit in hits],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, default=str)


def as_csv(hits: Sequence[Hit]) -> str:
    """Hits with the columns of `CSV_COLUMNS`, the first line with their names."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rank", *CSV_COLUMNS])
    for place, hit in enumerate(hits, start=1):
        values = described(hit)
        table.writerow([place, *(values.get(name) for name in CSV_COLUMNS)])
    return text.getvalue()


def copy_pictures(index: PictureIndex, hits: Sequence[Hit], target: Path):
    """Copy the files of hits to a new folder, numbered by their rank; all of them or none.

    Raises:
        UserError: the folder is there already, or a picture cannot be read.
    """
    with saving(str(target), "nothing was copied"), new_folder(target) as partial:
        for place, hit in enumerate(hits, start=1):
            name = Path(hit.row["path"]).name
            (partial / f"{place:03}_{name}").write_bytes(index.picture_bytes(hit.row))
    print(f"copied {len(hits)} pictures to {target}", file=sys.stderr)


def save_grid(index: PictureIndex, query: str, hits: Sequence[Hit], target: Path):
    """Save a picture of the hits, with their scores.

    Raises:
        UserError: the picture of a hit cannot be read.
    """
    from ..inference.pictures import Found as Shown
    from ..inference.pictures import save_retrieval_grid

    shown = []
    for hit in hits:
        image = index.open_picture(hit.row, SHOWN_SIDE)
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        shown.append(Shown(image, f"{hit.score:.2f} {printable(hit.row['name'])}", hit.fits))
    with replaced_file(target) as partial:
        save_retrieval_grid(partial, [(printable(query), shown)])
    print(f"saved {target}", file=sys.stderr)
