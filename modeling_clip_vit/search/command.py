"""The command `clip-vit search`."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from jsonargparse.typing import PositiveInt

from ..utils.command_line import CommandParser
from ..utils.errors import UserError
from ..utils.folders import check_new
from .cut import DEFAULT_MARGIN
from .filters import Condition, all_of, parse_filter, since, to_sql, under_folder
from .index import PictureIndex
from .place import IndexPlace
from .query import parse_query
from .results import copy_pictures, date_of, print_found, save_grid
from .settings import SETTINGS_FILE
from .state import read_columns


def run_search(arguments: list[str]) -> int:
    """Search an index, or pictures that are embedded for this search alone."""
    options = build_parser().parse(arguments, SearchOptions)
    parts = parse_query(options.query, options.similar)
    check_targets(options)
    if options.images is not None:
        return search_pictures(options)
    place = IndexPlace(options.index)
    if place.read(SETTINGS_FILE) is None and is_model(options.index):
        raise UserError(
            f"{options.index!r} is a model, not an index: make an index with clip-vit index "
            f"{options.index} IMAGES INDEX, or name pictures with --images"
        )
    from .engine import PictureSearch

    index = PictureIndex.open(options.index)
    search = PictureSearch(index, min_margin=options.min_margin)
    condition = read_condition(options, search)
    found = search(search.embed_parts(parts), options.top_k, condition)
    if options.under and not found.searched:
        check_folder(index, options.under)
    hits = [hit for hit in found.hits if hit.fits or not options.only_fitting]
    if options.sort == "date":
        hits = sorted(hits, key=lambda hit: date_of(hit.row), reverse=True)
    print_found(options.format, describe(options), options.index, found, hits)
    if options.copy_to and hits:
        copy_pictures(index, hits, Path(options.copy_to))
    if options.save and hits:
        save_grid(index, describe(options), hits, Path(options.save))
    return 0


def describe(options: Any) -> str:
    """What is searched for, in words."""
    return " + ".join([*filter(None, [options.query]), *options.similar])


def is_model(path: str) -> bool:
    """Whether a folder holds a checkpoint or an export."""
    folder = Path(path).expanduser()
    return any((folder / name).is_file() for name in ("config.json", "export.json"))


def check_targets(options: Any):
    """Reject targets that could not be written in the end, before anything is searched."""
    if options.save:
        from ..utils.folders import check_picture

        check_picture(Path(options.save))
    if options.copy_to:
        check_new(Path(options.copy_to))


def read_condition(options: Any, search: Any) -> Condition | None:
    """The condition that the options state together; None if there is none."""
    conditions = []
    if options.under:
        conditions.append(under_folder(options.under))
    if options.since:
        conditions.append(since(options.since))
    if options.where is not None:
        conditions.append(parse_filter(options.where, search.schema))
    return all_of(conditions)


def check_folder(index: PictureIndex, folder: str):
    """Refuse a folder of which the index has nothing, such as a mistyped one.

    Raises:
        UserError: there is none of this name; the message has the names that come nearest.
    """
    if index.table.count_rows(to_sql(under_folder(folder))):
        return
    paths = read_columns(index.table, ["path"])["path"].unique().to_pylist()
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents} - {"."}
    near = get_close_matches(folder.strip().strip("/"), folders, n=3)
    names = near or sorted(folders, key=lambda name: (name.count("/"), name))[:5]
    there_are = f"there are {', '.join(names)}, …" if names else "it has no folders"
    raise UserError(f"there is no folder {folder!r} in {index.name}; {there_are}")


def search_pictures(options: Any) -> int:
    """Embed pictures with a checkpoint and search them once, without an index."""
    for name in ("where", "under", "since", "copy_to"):
        if getattr(options, name):
            raise UserError(
                f"{name} needs an index: make one with clip-vit index {options.index} "
                f"{options.images} INDEX, and search that"
            )
    if options.query is None or options.similar:
        raise UserError("similar needs an index; with images, the query is a text")
    from ..utils.models import import_models

    import_models()
    from ..inference.search_once import search_once

    return search_once(options)


@dataclass
class SearchOptions:
    """What to search for, in what, and what to show.

    Args:
        similar: picture files: finds pictures that look like them, also together with a text.
        top_k: number of results.
        where: condition on the columns of the index, such as "camera = 'X100' and width > 2000"
            or "taken between '2024-06-01' and '2024-08-31'".
        since: only pictures taken since a date, or within a time span such as 90d, 2w or 1y.
        under: only pictures in this folder, given relative to the one that was indexed.
        sort: order of the results: by score, or by date with the newest first.
        only_fitting: leave out results that do not fit, see min_margin.
        min_margin: results fit if their score exceeds what chance would give by at least this many
            standard deviations.
        format: table, paths (one absolute path per line), json or csv.
        copy_to: copy the pictures found to this new folder.
        save: save a picture of the results to this file.
        images: pictures to search without an index, with a checkpoint in the place of INDEX: a
            folder, one file, or a dataset; all are embedded anew each time.
        image_column: column with the images, if `images` is a dataset; guessed by default.
        split: split to search, if `images` is a dataset; all by default.
        runtime: runtime for an exported model, with `images`; auto picks it by format.
    """

    similar: list[str] = field(default_factory=list)
    top_k: PositiveInt = 5
    where: str | None = None
    since: str | None = None
    under: str | None = None
    sort: Literal["score", "date"] = "score"
    only_fitting: bool = False
    min_margin: float = DEFAULT_MARGIN
    format: Literal["table", "paths", "json", "csv"] = "table"
    copy_to: str | None = None
    save: str | None = None
    images: str | None = None
    image_column: str | None = None
    split: str | None = None
    runtime: str = "auto"


def build_parser() -> CommandParser:
    """The arguments of `clip-vit search`."""
    parser = CommandParser(
        prog="clip-vit search",
        description='Find pictures by text, by a picture, or by both: "horse + stripes", "apple '
        '- fruit", "2:dog + snow", "mine.jpg + at night".',
        example='clip-vit search photos.index "a dog on the beach" --since 1y',
    )
    parser.add_argument(
        "index",
        type=str,
        help="index that clip-vit index made: a folder or s3:// URL; with --images, a checkpoint",
    )
    parser.add_argument("query", type=str, nargs="?", help="what to search for")
    parser.add_class_arguments(SearchOptions)
    return parser
