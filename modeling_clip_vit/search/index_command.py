"""The command `clip-vit index`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveInt

from ..utils.command_line import CommandParser
from ..utils.packages import require
from ..utils.versions import package_versions
from .index import PictureIndex
from .place import IndexPlace
from .settings import SETTINGS_FILE, IndexSource, PictureIndexError, write_settings

#: Packages whose versions an index notes.
PACKAGES = ("clip-vit", "lancedb", "onnxruntime", "pillow", "pyarrow", "tokenizers")

#: What an index that was not finished may have left.
OWN_NAMES = (".lock", "model", ".model.partial", "pictures.lance", "staging")


def run_index(arguments: list[str]) -> int:
    """Make an index of pictures, or bring it in step with them."""
    options = build_parser().parse(arguments, IndexOptions)
    require(("lancedb", "onnxruntime", "tokenizers"), "search", "clip-vit index")
    from .update import FolderUpdate, UpdateOptions

    threads = options.threads or os.cpu_count() or 1
    root = Path(options.images).expanduser().resolve()
    if not root.is_dir():
        raise PictureIndexError(f"no folder {options.images!r} (looked in {Path.cwd()})")
    place = IndexPlace(options.index)
    check_place(place)
    with locked(place):
        index = open_or_create(place, options.checkpoint, options.precision)
        encoder: Any = index.image_encoder(threads)
        update = FolderUpdate(
            index, root, encoder, UpdateOptions(threads, options.batch_size, options.allow_empty)
        )
        if index.settings.find_source(str(root)) is None:
            index.settings.sources.append(IndexSource(str(root), "files"))
            write_settings(place, index.settings)
        report = update.run()
        index.settings.versions = package_versions(*PACKAGES)
        write_settings(place, index.settings)
    print(f"{options.index}: {report}")
    print(f"{index.table.count_rows():,} pictures in the index")
    return 0


def check_place(place: IndexPlace):
    """Refuse a folder of something else, before anything is written to it.

    Raises:
        PictureIndexError: it has other files, or is a file.
    """
    folder = place.folder
    if folder is None or not folder.exists() or place.read(SETTINGS_FILE) is not None:
        return
    if not folder.is_dir():
        raise PictureIndexError(f"{place.name!r} is a file: name a folder for the index")
    for path in folder.iterdir():
        if path.name not in OWN_NAMES and not path.name.endswith(f".partial.{SETTINGS_FILE}"):
            raise PictureIndexError(
                f"{place.name!r} is a folder with other files ({path.name}): name a new one"
            )


def open_or_create(place: IndexPlace, checkpoint: str, precision: str) -> PictureIndex:
    """The index of a place, made with a model if there is none yet.

    Raises:
        PictureIndexError: it was made with another model, or by a newer version.
    """
    from .model import exported, find_model

    if place.read(SETTINGS_FILE) is not None:
        index = PictureIndex.open(place.name)
        precision = index.settings.options.get("precision", precision)
        model = find_model(checkpoint, precision)
        index.check_model(checkpoint, model.fingerprint)
        return index
    model = find_model(checkpoint, precision)
    with exported(model) as (described, folder):
        return PictureIndex.create(place.name, described, folder, options={"precision": precision})


@contextmanager
def locked(place: IndexPlace) -> Iterator[None]:
    """Let one process at a time write an index in a folder.

    Raises:
        PictureIndexError: another one does.
    """
    if place.folder is None:
        yield
        return
    from filelock import FileLock, Timeout

    place.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.folder / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise PictureIndexError(
            f"another process is writing the index {place.name!r}: wait until it has finished"
        ) from None
    try:
        yield
    finally:
        lock.release()


@dataclass
class IndexOptions:
    """How to index.

    Args:
        precision: number format of the model in a new index; `int8` is faster on a CPU.
        threads: threads that read pictures and that the model computes with; all cores by default.
        batch_size: pictures that are embedded at a time.
        allow_empty: take a folder that has become empty out of the index.
    """

    precision: Literal["fp32", "int8"] = "fp32"
    threads: PositiveInt | None = None
    batch_size: PositiveInt = 64
    allow_empty: bool = False


def build_parser() -> CommandParser:
    """The arguments of `clip-vit index`."""
    parser = CommandParser(
        prog="clip-vit index",
        description="Make an index of your pictures for clip-vit search. Each picture is embedded "
        "once; run again, the index follows what is new, changed, moved and deleted.",
        example="clip-vit index outputs/emoji ~/Pictures pictures.index",
    )
    parser.add_argument(
        "checkpoint",
        type=str,
        help="checkpoint of any peer, or model exported to ONNX: a folder or a Hub id",
    )
    parser.add_argument("images", type=str, help="folder of pictures, with its sub-folders")
    parser.add_argument("index", type=str, help="folder or s3:// URL of the index")
    parser.add_class_arguments(IndexOptions)
    return parser
