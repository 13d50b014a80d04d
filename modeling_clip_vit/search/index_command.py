"""The command `clip-vit index`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveFloat, PositiveInt

from ..utils.command_line import CommandParser
from ..utils.errors import UserError, one_line
from ..utils.packages import require
from ..utils.resources import find_data
from ..utils.signals import StopSignals
from ..utils.versions import package_versions
from .engine import prepare_search
from .filters import Both, Compare, IsNull, to_sql
from .index import PictureIndex
from .launched import help_main, launched_processes, share_with_launched, share_with_ray
from .pixel_encoder import check_runtime, pick_encoder
from .place import IndexPlace
from .results import printable
from .settings import SETTINGS_FILE, IndexSource, PictureIndexError, write_settings
from .shards import PixelEncoder
from .tasks import commit_staged
from .update import Plan, Report, Update, UpdateOptions

#: Packages whose versions an index notes.
PACKAGES = ("clip-vit", "lancedb", "onnxruntime", "pillow", "pyarrow", "tokenizers")
#: What an index that was not finished may have left.
OWN_NAMES = (".lock", "model", ".model.partial", "pictures.lance", "staging")
#: Options of a dataset that an index remembers.
DATASET_OPTIONS = ("split", "image_column", "caption_column", "columns")


def run_index(arguments: list[str]) -> int:
    """Make an index of pictures, or bring it in step with them."""
    options = build_parser().parse(arguments, IndexOptions)
    require(("lancedb", "onnxruntime", "tokenizers"), "search", "clip-vit index")
    place = IndexPlace(options.index)
    if launched_processes()[1] > 1 and (options.watch or options.ray):
        raise PictureIndexError(
            "--watch and --ray run in one process: start them without a launcher"
        )
    if launched_processes()[0] > 0:
        return help_main()
    check_place(place)
    changes = watch(options.images) if options.watch else None
    print_report(options.index, *index_once(place, options))
    if changes is not None:
        follow(changes, place, options)
    return 0


def index_once(place: IndexPlace, options: Any) -> tuple[Report, int, int]:
    """Bring an index in step once.

    Returns:
        What was done, how many pictures it then has, and how many more that cannot be read.
    """
    with locked(place):
        index = open_or_create(place, options)
        commit_staged(index)
        source = find_or_add_source(index, options)
        report = update_source(index, source, options)
        index.settings.versions = package_versions(*PACKAGES)
        write_settings(place, index.settings)
        prepare_search(index, say)
        unreadable = index.table.count_rows("error IS NOT NULL")
        return report, index.table.count_rows() - unreadable, unreadable


def print_report(name: str, report: Report, readable: int, unreadable: int):
    """Print what a run has done, what the index then has, and what could not be read, with why."""
    has = f"{readable:,} pictures in the index"
    if unreadable:
        has = f"{readable:,} pictures and {unreadable:,} that cannot be read"
    print(f"{name}: {report}; {has}")
    for row_id, reason in report.reasons.items():
        print(f"  {printable(row_id)}: {printable(reason)}")
    more = report.unreadable - len(report.reasons)
    if more:
        print(f"  and {more:,} more: clip-vit info {name} lists all")
    sys.stdout.flush()


def say(line: str):
    """Say on stderr what takes long."""
    print(line, file=sys.stderr)


def watch(images: str) -> Iterator[set]:
    """Watch a folder from now on, so that changes during the first run are seen after it.

    Yields:
        What has changed; at times nothing has.

    Raises:
        PictureIndexError: it is not a folder.
    """
    require(("watchfiles",), "search", "--watch")
    import watchfiles

    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise PictureIndexError(f"--watch follows a folder, and {images!r} is none")
    changes = watchfiles.watch(
        folder, debounce=2000, rust_timeout=500, yield_on_timeout=True, raise_interrupt=False
    )
    next(changes, None)  # it begins to watch
    return changes


def follow(changes: Iterator[set], place: IndexPlace, options: Any):
    """Bring an index in step whenever something changes in its folder, until interrupted.

    An update that is under way is finished first.
    """
    folder = Path(options.images).expanduser()
    with StopSignals() as stop:
        print(f"watching {folder}; Ctrl-C ends", file=sys.stderr)
        for changed in changes:
            if stop.noted:
                return
            if changed:
                follow_once(place, options)
                if not folder.is_dir():
                    return


def follow_once(place: IndexPlace, options: Any):
    """Bring an index in step; an error is printed, as the next change may mend it."""
    try:
        print_report(options.index, *index_once(place, options))
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)


def find_or_add_source(index: PictureIndex, options: Any) -> IndexSource:
    """The source of a path as the index knows it, or noted now.

    Raises:
        PictureIndexError: an option of the source is another than at first.
    """
    path = find_data(options.images)
    is_here = "://" not in path and Path(path).expanduser().exists()
    path = str(Path(path).expanduser().resolve()) if is_here else path
    source = index.settings.find_source(path)
    given = {name: getattr(options, name) for name in DATASET_OPTIONS if getattr(options, name)}
    if source is None:
        source = IndexSource(path, kind_of(path, bool(given)), given)
        if options.video_seconds is not None:
            source.options["video_seconds"] = options.video_seconds
        say_others(index)
        return source
    if options.video_seconds is not None:
        source.options.setdefault("video_seconds", options.video_seconds)
        given["video_seconds"] = options.video_seconds
    for name, value in given.items():
        if source.options.get(name) != value:
            others = "other columns" if name == "columns" else "another one"
            raise PictureIndexError(
                f"{path!r} was indexed {described_option(name, source.options.get(name))}: make a "
                f"new index for {others}"
            )
    return source


def described_option(name: str, value: Any) -> str:
    """An option of the command line in words, with its value."""
    if value is None:
        return f"without --{name}"
    return f"with --{name} {','.join(value) if isinstance(value, list) else value}"


def say_others(index: PictureIndex):
    """Say what an index holds already, before another source is added to it."""
    held = []
    for source in index.settings.sources:
        readable = Both(Compare("root", "==", source.root), IsNull("error"))
        count = index.table.count_rows(to_sql(readable))
        held.append(f"{count:,} pictures of {source.path}")
    if held:
        say(f"{index.name} also holds {' and '.join(held)}")


def kind_of(path: str, has_dataset_options: bool) -> str:
    """Whether a path is a folder of picture files or a dataset, by the rule of all commands.

    Raises:
        DataError: it is neither.
    """
    from ..data.errors import DataError
    from ..data.files.listing import is_local, list_files

    if has_dataset_options or not is_local(path):
        return "dataset"
    try:
        is_dataset = list_files(path, within=True).kind != "pictures"
    except DataError:
        # Only pictures that datasets do not have, such as RAW; or nothing, which is said later.
        if not Path(path).is_dir():
            raise
        return "files"
    if not is_dataset and not Path(path).is_dir():
        raise PictureIndexError(f"{path!r} is a picture: name the folder that it lies in")
    return "dataset" if is_dataset else "files"


def update_source(index: PictureIndex, source: IndexSource, options: Any) -> Report:
    """Bring the rows of a source in step."""
    seconds = source.options.get("video_seconds")
    if source.kind == "files":
        from .folder import plan_folder

        has_videos = seconds is not None
        root, size = Path(source.path), options.shard_size
        plan = plan_folder(index, root, size, options.allow_empty, has_videos)
        note_source(index, source)
    else:
        plan, states = plan_rows(index, source, options.shard_size)
    chosen = UpdateOptions(threads_of(options), options.batch_size, seconds or 10.0)
    update = Update(index, lambda: encoder_for(index, options), chosen)
    report = update.run(plan, share(index, plan, options, chosen))
    if source.kind == "dataset":
        source.options["files"] = states
    return report


def share(
    index: PictureIndex, plan: Plan, options: Any, chosen: UpdateOptions
) -> Iterator[str] | None:
    """The files of rows that other processes make; None where this process works alone."""
    if launched_processes()[1] == 1 and not options.ray:
        return None
    worker = {
        "index": index.name,
        "checkpoint": options.checkpoint,
        "runtime": options.runtime,
        "threads": options.threads or 1,
        "batch_size": chosen.batch_size,
        "video_seconds": chosen.video_seconds,
    }
    if options.ray:
        return share_with_ray(plan.tasks(), options.workers or 0, worker)
    return share_with_launched(plan.tasks(), worker)


def threads_of(options: Any) -> int:
    """Threads of this process: all cores unless an option says otherwise."""
    return options.threads or os.cpu_count() or 1


def encoder_for(index: PictureIndex, options: Any) -> PixelEncoder:
    """What embeds pictures in this process."""
    return pick_encoder(index, options.checkpoint, options.runtime, threads_of(options))


def plan_rows(
    index: PictureIndex, source: IndexSource, shard_size: int
) -> tuple[Any, dict[str, Any]]:
    """The plan for a dataset, and the state of its files to note once it is done."""
    from .dataset import DatasetOptions, DatasetReader, plan_dataset

    chosen = {name: source.options[name] for name in DATASET_OPTIONS if name in source.options}
    reader = DatasetReader(source.path, DatasetOptions(**chosen))
    index.add_columns(reader.column_types())
    source.options |= {"root": reader.root, "image_column": reader.image_column}
    note_source(index, source)
    return plan_dataset(index, source, reader, shard_size)


def note_source(index: PictureIndex, source: IndexSource):
    """Write down a source before its first picture, which a killed run may leave."""
    if source not in index.settings.sources:
        index.settings.sources.append(source)
        write_settings(index.place, index.settings)


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


def open_or_create(place: IndexPlace, options: Any) -> PictureIndex:
    """The index of a place, made with a model if there is none yet.

    Raises:
        PictureIndexError: it was made with another model, or by a newer version.
    """
    from .model import exported, find_model

    is_there = place.read(SETTINGS_FILE) is not None
    index = PictureIndex.open(place.name) if is_there else None
    kept = "fp32" if index is None else index.settings.options["precision"]
    model = find_model(options.checkpoint, options.precision or kept)
    check_runtime(options.runtime, model)
    if index is not None:
        if model.precision != kept:
            raise PictureIndexError(
                f"the index {place.name!r} was made in {kept}, and vectors in {model.precision} "
                "cannot be compared with its own: make an index of its own"
            )
        index.check_model(options.checkpoint, model.fingerprint)
        return index
    with exported(model) as (described, folder):
        own = {"precision": model.precision}
        return PictureIndex.create(place.name, described, folder, options=own)


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
        precision: number format of the model in a new index; `int8` is faster on a CPU. The default
            is fp32, and for an index that is there its own.
        runtime: what embeds: `onnxruntime` on the processor, or `torch` with the checkpoint on its
            accelerator; auto takes torch where there is an accelerator.
        watch: go on, and follow every change in the folder until interrupted.
        threads: threads that read pictures and that the model computes with; all cores by default.
        batch_size: pictures that are embedded at a time.
        shard_size: pictures of a commit; a run that was killed goes on behind the last one.
        video_seconds: index videos as well, with one frame per this many seconds.
        ray: share the work with the machines of a Ray cluster, or with processes of this one.
        workers: most workers of Ray at a time; by default as many as there are processors, but one.
        allow_empty: take a folder that has become empty out of the index.
        split: split to index, if `images` is a dataset; all by default.
        image_column: column with the images, if `images` is a dataset; guessed by default.
        caption_column: column with texts to keep, if `images` is a dataset; guessed by default.
        columns: further columns of a dataset to keep, for filters.
    """

    precision: Literal["fp32", "int8"] | None = None
    runtime: Literal["auto", "onnxruntime", "torch"] = "auto"
    watch: bool = False
    threads: PositiveInt | None = None
    batch_size: PositiveInt = 64
    shard_size: PositiveInt = 1024
    video_seconds: PositiveFloat | None = None
    ray: bool = False
    workers: PositiveInt | None = None
    allow_empty: bool = False
    split: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    columns: list[str] = field(default_factory=list)


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
    parser.add_argument(
        "images", type=str, help="folder of pictures with its sub-folders, or a dataset"
    )
    parser.add_argument("index", type=str, help="folder or s3:// URL of the index")
    parser.add_class_arguments(IndexOptions)
    return parser
