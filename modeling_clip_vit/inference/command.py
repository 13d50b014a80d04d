"""The command `clip-vit search`."""

import sys
from dataclasses import dataclass
from pathlib import Path

from jsonargparse.typing import PositiveInt
from PIL import Image

from ..conversion.published import local_checkpoint
from ..utils.command_line import CommandParser
from ..utils.folders import check_picture, replaced_file
from .gallery import Picture, open_gallery
from .loading import load_encoder
from .search import ImageSearch, check_query


def run_search(arguments: list[str]) -> int:
    """Search pictures by text, print the best, and save a picture of them with `--save`."""
    options = build_parser().parse(arguments, SearchOptions)
    if options.save:
        check_picture(Path(options.save))
    check_query(options.query)
    encoder = load_encoder(local_checkpoint(options.checkpoint), options.runtime)
    search = ImageSearch(encoder, open_gallery(options.images, options.image_column, options.split))
    for name in search.unreadable:
        print(f"skipped {name}", file=sys.stderr)
    results = search(options.query, options.top_k)
    print(f"{options.query!r} in {len(search.pictures)} pictures of {options.images}:")
    for place, (picture, score) in enumerate(results, start=1):
        print(f"{place:3}. {score:.3f}  {picture.name}")
    if options.save:
        from .pictures import Found, save_retrieval_grid

        shown = [Found(thumbnail(it), f"{score:.2f} {it.name}") for it, score in results]
        with replaced_file(Path(options.save)) as partial:
            save_retrieval_grid(partial, [(options.query, shown)])
        print(f"saved {options.save}")
    return 0


def thumbnail(picture: Picture) -> Image.Image:
    """A picture as small as it is shown."""
    image = picture.decode()
    image.thumbnail((320, 320))
    return image


@dataclass
class SearchOptions:
    """What to search, and what to show.

    Args:
        images: images to search: a folder of images, one image file, or a dataset.
        save: save a picture of the results to this file.
        top_k: number of results.
        image_column: column with the images, if `images` is a dataset; guessed by default.
        split: split to search, if `images` is a dataset; all by default.
        runtime: runtime for an exported model; auto picks it by format.
    """

    images: str
    save: str | None = None
    top_k: PositiveInt = 5
    image_column: str | None = None
    split: str | None = None
    runtime: str = "auto"


def build_parser() -> CommandParser:
    """The arguments of `clip-vit search`."""
    parser = CommandParser(
        prog="clip-vit search",
        description="Find the images that best match a text.",
        example='clip-vit search outputs/emoji "a slice of pizza" --images data/emoji',
    )
    parser.add_argument(
        "checkpoint",
        type=str,
        help="checkpoint of any peer, or exported model: a folder or a Hub id",
    )
    parser.add_argument("query", type=str, help="text to search for")
    parser.add_class_arguments(SearchOptions)
    return parser
