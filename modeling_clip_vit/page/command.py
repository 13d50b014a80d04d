"""The command `clip-vit demo`."""

from pathlib import Path

from ..search.index import PictureIndex
from ..utils.command_line import CommandParser, build_options
from ..utils.folders import saving
from .site import SiteOptions, check_target, write_site

#: Above this number of pictures, `clip-vit serve` is the better choice.
MANY = 20_000


def run_demo(arguments: list[str]) -> int:
    """Write a static page that searches an index in the visitor's browser."""
    parsed = build_parser().parse(arguments, SiteOptions)
    target = Path(parsed.target)
    check_target(target)
    index = PictureIndex.open(parsed.index)
    options = build_options(parsed, SiteOptions)
    with saving(str(target), "nothing was written"):
        site = write_site(index, target, options)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(
        f"saved {target}: {site['count']:,} pictures, {size / 1e6:.1f} MB, of which a visitor "
        f"loads {site['load_bytes'] / 1e6:.1f} MB before the first search"
    )
    if site["count"] > MANY:
        print(f"a browser loads all vectors at once: clip-vit serve {parsed.index} loads none")
    print(f"look at it: python -m http.server --directory {target} 8000 --bind 127.0.0.1")
    return 0


def build_parser() -> CommandParser:
    """The arguments of `clip-vit demo`."""
    parser = CommandParser(
        prog="clip-vit demo",
        description="Write a static page that searches an index of pictures. It runs entirely in "
        "the visitor's browser, from any static file server: no Python, no account, no other host.",
        example="clip-vit demo photos-index --target site",
    )
    parser.add_argument("index", type=str, help="index of pictures, made by clip-vit index")
    parser.add_argument(
        "--target",
        type=str,
        required=True,
        help="folder for the page: a new one, or a page to replace",
    )
    parser.add_class_arguments(SiteOptions)
    return parser
