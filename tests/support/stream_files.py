"""Files of image-text samples for tests: WebDataset tars and parquet."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage

from modeling_clip_vit.data.batches import Collator
from modeling_clip_vit.data.captions import CaptionOptions
from modeling_clip_vit.data.policies import SampleAugment
from modeling_clip_vit.data.rows import Sample, SkippedSample
from modeling_clip_vit.data.samples import SampleMaker
from modeling_clip_vit.data.streaming.captions import StreamTexts
from modeling_clip_vit.data.streaming.loader import StreamLoader
from modeling_clip_vit.data.streaming.options import StreamOptions
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.data.transforms import AugmentOptions

from .pictures import COLORS, draw_picture, encode

#: Shards of unequal sizes, one of them with a single sample.
SIZES = [11, 1, 7, 13, 9]


def noisy_image(number: int, kind: str = "PNG", size: int = 16) -> bytes:
    """An image that no other number has."""
    rng = np.random.default_rng(number)
    return encode(PillowImage.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)), kind)


def caption_of(number: int) -> str:
    """A caption that no other number has, of a length of its own."""
    return f"sample {number}" + " and more" * (number * 7 % 5)


def number_of(text: str) -> int:
    """The number that a caption was made of."""
    return int(text.split()[1])


def write_tar(path: Path, files: dict[str, bytes]):
    """A tar of these files."""
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def tar_files(numbers) -> dict[str, bytes]:
    """The files of samples; every third keeps its caption in JSON."""
    files = {}
    for number in numbers:
        files[f"{number:05d}.{('png', 'jpg', 'webp')[number % 3]}"] = noisy_image(
            number, ("PNG", "JPEG", "WEBP")[number % 3]
        )
        if number % 3:
            files[f"{number:05d}.txt"] = caption_of(number).encode()
        else:
            files[f"{number:05d}.json"] = json.dumps({"caption": caption_of(number)}).encode()
    return files


def write_tars(folder: Path, sizes: list[int], first: int = 0) -> Path:
    """A folder of tars with the given numbers of samples, numbered consecutively."""
    folder.mkdir()
    for shard, size in enumerate(sizes):
        write_tar(folder / f"{shard:05d}.tar", tar_files(range(first, first + size)))
        first += size
    return folder


def write_square_tars(folder: Path, shards: int):
    """WebDataset tars with a square of each colour and its name."""
    for shard in range(shards):
        files = {}
        for number, color in enumerate(COLORS):
            files[f"{shard}{number}.png"] = encode(draw_picture(color, 10 * shard + number))
            files[f"{shard}{number}.txt"] = color.encode()
        write_tar(folder / f"{shard}.tar", files)


def write_parquet(folder: Path, sizes: list[int], first: int = 0) -> Path:
    """A folder of Parquet files with the given numbers of rows, numbered consecutively."""
    folder.mkdir()
    features = Features({"image": Image(), "caption": Value("string"), "other": Value("int64")})
    for shard, size in enumerate(sizes):
        numbers = range(first, first + size)
        rows = {
            "image": [{"bytes": noisy_image(number), "path": None} for number in numbers],
            "caption": [caption_of(number) for number in numbers],
            "other": list(numbers),
        }
        name = f"train-{shard:05d}-of-{len(sizes):05d}.parquet"
        Dataset.from_dict(rows, features=features).to_parquet(folder / name, batch_size=16)
        first += size
    return folder


def make_loader(sources, *, collate=list, batch_size=4, captions=None, concept=None, **options):
    """A loader whose batches are, unless asked otherwise, lists of samples."""
    of_loader = {
        name: options.pop(name)
        for name in ("seed", "num_workers", "rank", "world_size")
        if name in options
    }
    captions = captions or CaptionOptions(["caption"])
    maker = SampleMaker(
        options.pop("image", "image"),
        StreamTexts(captions, options.pop("class_names", ())),
        SampleAugment(AugmentOptions(), 16),
        5,
        concept or captions.label_column,
    )
    stream = StreamOptions([str(source) for source in sources], **options)
    return StreamLoader(stream, "train", maker, collate, batch_size, **of_loader)


def split_batches(batches) -> tuple[list[int], list[SkippedSample]]:
    """The numbers of the samples of batches, and what was skipped."""
    samples = [sample for batch in batches for sample in batch]
    numbers = [number_of(sample.texts[0]) for sample in samples if isinstance(sample, Sample)]
    return numbers, [sample for sample in samples if isinstance(sample, SkippedSample)]


def all_workers(make, world_size: int, workers: int):
    """Batches of every worker of every process, made in this one."""
    for rank in range(world_size):
        loader = make(rank=rank, world_size=world_size, num_workers=workers)
        for worker in range(loader.consumers):
            yield from loader.start_worker(worker)


def begin(sources, world_size: int, workers: int, **options) -> list[StreamLoader]:
    """The loader of every process."""
    return [
        make_loader(sources, rank=rank, world_size=world_size, num_workers=workers, **options)
        for rank in range(world_size)
    ]


def read_in_turn(loaders: list[StreamLoader], count: int | None = None) -> list:
    """Batches of every worker of every process, in turn, read in this process.

    Args:
        loaders: of all processes; they stand behind these batches then.
        count: of batches; None for all up to the end.
    """
    waiting = [(loader, worker) for worker in range(loaders[0].consumers) for loader in loaders]
    begun = {place: iter_with_states(*place) for place in waiting}
    batches: list = []
    while waiting and (count is None or len(batches) < count):
        place = waiting.pop(0)
        batch = next(begun[place], None)
        if batch is not None:
            batches.append(batch)
            waiting.append(place)
    return batches


def iter_with_states(loader: StreamLoader, worker: int):
    """The batches of a worker, whose state the loader keeps as when it gives them away."""
    batches = loader.start_worker(worker)
    for batch in batches:
        loader.states[worker] = batches.state()
        yield batch


def order_of(folder: Path, epoch: int = 0, **options) -> list[int]:
    """The numbers of the samples of an epoch in order."""
    loader = make_loader([folder], **options)
    loader.set_epoch(epoch)
    return split_batches(loader)[0]


def make_collator() -> Collator:
    """Makes batches of samples of those captions, augmented."""
    options = AugmentOptions(rotation=20, zoom=0.2, hue=20, erase_probability=0.3)
    texts = [caption_of(number) for number in range(60)]
    return Collator(train_tokenizer(texts, 300, 32), options, [0.5] * 3, [0.5] * 3)
