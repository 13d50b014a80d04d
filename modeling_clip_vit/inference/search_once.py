"""`clip-vit search CHECKPOINT "text" --images …`: a search without an index."""

import sys
from pathlib import Path
from typing import Any

from PIL import Image

from ..conversion.published import local_checkpoint
from ..utils.folders import replaced_file
from .gallery import Picture, open_gallery
from .loading import load_encoder
from .search import ImageSearch, check_query


def search_once(options: Any) -> int:
    """Embed pictures, search them by text, and print the best; nothing is kept.

    Args:
        options: `SearchOptions` of `search/command.py`, with `images` and a checkpoint as `index`.
    """
    check_query(options.query)
    encoder = load_encoder(local_checkpoint(options.index), options.runtime)
    search = ImageSearch(encoder, open_gallery(options.images, options.image_column, options.split))
    for name in search.unreadable:
        print(f"skipped {name}", file=sys.stderr)
    results = search(options.query, options.top_k)
    print(f"{options.query!r} in {len(search.pictures):,} pictures of {options.images}:")
    for place, (picture, score) in enumerate(results, start=1):
        print(f"{place:3}. {score:.3f}  {picture.name}")
    if options.save:
        from .pictures import Found, save_retrieval_grid

        shown = [Found(thumbnail(it), f"{score:.2f} {it.name}") for it, score in results]
        with replaced_file(Path(options.save)) as partial:
            save_retrieval_grid(partial, [(options.query, shown)])
        print(f"saved {options.save}")
    print(
        "to search again without embedding the pictures again, keep an index: clip-vit index "
        f"{options.index} {options.images} INDEX",
        file=sys.stderr,
    )
    return 0


def thumbnail(picture: Picture) -> Image.Image:
    """A picture as small as it is shown."""
    image = picture.decode()
    image.thumbnail((320, 320))
    return image
