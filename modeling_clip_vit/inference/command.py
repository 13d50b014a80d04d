"""The command `clip-vit search`."""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt
from PIL import Image

from ..utils.errors import UserError
from ..utils.folders import check_picture
from .loading import load_encoder
from .runtimes import RUNTIMES
from .search import ImageSearch, Picture, open_gallery


def run_search(arguments: list[str]) -> int:
    """Search pictures by text, print the best, and save a picture of them where asked to."""
    options = build_parser().parse_args(arguments)
    if options.save:
        check_picture(Path(options.save))
    if not options.query.strip():
        raise UserError("the query is empty: say what to look for")
    encoder = load_encoder(options.checkpoint, options.runtime)
    search = ImageSearch(encoder, open_gallery(options.images, options.image_column, options.split))
    for name in search.unreadable:
        print(f"skipped {name}", file=sys.stderr)
    found = search(options.query, options.top_k)
    print(f"{options.query!r} in {len(search.pictures)} pictures of {options.images}:")
    for place, (picture, score) in enumerate(found, start=1):
        print(f"{place:3}. {score:.3f}  {picture.name}")
    if options.save:
        from .pictures import Found, save_retrieval_grid

        shown = [Found(thumbnail(one), f"{score:.2f} {one.name}") for one, score in found]
        save_retrieval_grid(Path(options.save), [(options.query, shown)])
        print(f"saved {options.save}")
    return 0


def thumbnail(picture: Picture) -> Image.Image:
    """A picture as small as it is shown."""
    image = picture.decode()
    image.thumbnail((320, 320))
    return image


def build_parser() -> ArgumentParser:
    """The arguments of `clip-vit search`."""
    parser = ArgumentParser(prog="clip-vit search", description="Search pictures by text.")
    parser.add_argument(
        "checkpoint", type=str, help="a checkpoint's folder or id on the Hub, or an export's folder"
    )
    parser.add_argument("query", type=str, help="what to look for, in the model's languages")
    parser.add_argument(
        "--images",
        type=str,
        required=True,
        help="a folder of image files, one image file, or a data set",
    )
    parser.add_argument("--save", type=str, help="save a picture of the best here")
    parser.add_argument("--top_k", type=PositiveInt, default=5, help="how many to show")
    parser.add_argument("--image_column", type=str | None, default=None, help="of a data set")
    parser.add_argument("--split", type=str, help="only this split of a data set")
    parser.add_argument(
        "--runtime",
        choices=["auto", *RUNTIMES],
        default="auto",
        help="what to compute with; auto takes what fits the folder",
    )
    return parser
