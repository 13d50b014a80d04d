"""How fast batches are made, without a model: those of the default recipe, and those of a stream.

    python benchmarks/data_path.py [--batches 40] [--stream | --samples] [--json data_path.json]

Prints a table with one line per way to load. Training at 1,000 images per second needs a
loader that is faster than that.
With --stream, JPEGs of 640 x 480 pixels are streamed from WebDataset tars and Parquet to 224
pixels, in one process on one core, and compared with open_clip's own loader (`pip install
open_clip_torch webdataset==0.2.86 pandas`), each with its own tokenizer and no augmentation beyond
the crop: decoded by Pillow and by simplejpeg, as float32 for a CPU and as uint8 for an accelerator,
and once more from what `clip-vit shard --size 256` makes of the tars.

With --samples, the same JPEGs and their captions become batches of 64 on one core, without any
reading, compared with Transformers' `CLIPProcessor` called on one sample at a time and with
open_clip's transform and tokenizer.
"""

import argparse
import io
import json
import tarfile
import tempfile
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage

from modeling_clip_vit.data import jpeg
from modeling_clip_vit.data.batches import Collator
from modeling_clip_vit.data.captions import CaptionOptions
from modeling_clip_vit.data.policies import SampleAugment
from modeling_clip_vit.data.rows import Row
from modeling_clip_vit.data.samples import SampleMaker
from modeling_clip_vit.data.streaming.captions import StreamCaptions, StreamTexts
from modeling_clip_vit.data.streaming.loader import StreamLoader
from modeling_clip_vit.data.streaming.options import StreamOptions
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.data.transforms import AugmentOptions
from modeling_clip_vit.filtering.resize import ResizeOptions, resize_dataset
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.models import build_processor
from modeling_clip_vit.training.tasks.contrastive import prepare

#: As strongly as the default recipe, by operations on whole batches.
BATCH_AUGMENT = {
    "rotation": 15,
    "zoom": 0.2,
    "shift": 0.06,
    "shear": 0.1,
    "brightness": 0.1,
    "contrast": 0.2,
    "saturation": 0.4,
    "hue": 10,
    "erase_probability": 0.25,
}
#: Name -> how ours augments.
AUGMENTATIONS: dict[str, dict] = {
    "ours, centre crop": {},
    "ours, crop of 0.9 to 1": {"crop_scale": [0.9, 1.0]},
    "ours, crop of 0.2 to 1": {"crop_scale": [0.2, 1.0]},
    "ours, crop and RandAugment": {"crop_scale": [0.9, 1.0], "policy": "randaugment"},
    "ours, rotation, colours, erasing": BATCH_AUGMENT,
}
RECIPE = Path(__file__).parent.parent / "configuration" / "train" / "emoji.yaml"
WAYS = {
    "decoded once, in the main process": ("true", 0),
    "decoded once, 2 workers": ("true", 2),
    "decoded when read, in the main process": ("false", 0),
    "decoded when read, 2 workers": ("false", 2),
}


def batches_of(loader, sampler):
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def measure(cache_images: str, workers: int, count: int) -> tuple[float, float]:
    """Seconds until training could begin, and images a second from there on."""
    options = ["--cache_images", cache_images, "--dataloader_num_workers", str(workers)]
    started = time.perf_counter()
    data = prepare(parse_arguments([*options, "--evaluations", "[]"], RECIPE)).data
    ready = time.perf_counter() - started
    batches = batches_of(data.loader, data.sampler)
    next(batches)  # starts the workers
    started = time.perf_counter()
    images = sum(len(batch["image_ids"]) for batch in islice(batches, count))
    return ready, images / (time.perf_counter() - started)


def draw_photo(rng: np.random.Generator, width: int = 640) -> bytes:
    """A JPEG, about 100 kB at 640 pixels: soft shapes under noise, as photographs have them."""
    shapes = PillowImage.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    size = width, width * 3 // 4
    pixels = np.asarray(shapes.resize(size, PillowImage.Resampling.BICUBIC)).astype(int)
    pixels += rng.integers(-12, 13, pixels.shape)
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_shards(folder: Path, shards: int = 4, samples: int = 256):
    """The same samples as tars and as parquet, in one folder each."""
    rng = np.random.default_rng(0)
    features = Features({"image": Image(), "caption": Value("string")})
    for kind in ("tar", "parquet"):
        (folder / kind).mkdir()
    for shard in range(shards):
        images = [draw_photo(rng) for _ in range(samples)]
        captions = [
            f"a photo, number {n} of {shard}" + ", far away" * (n % 5) for n in range(samples)
        ]
        rows = {"image": [{"bytes": image, "path": None} for image in images], "caption": captions}
        Dataset.from_dict(rows, features=features).to_parquet(
            folder / f"parquet/{shard:05d}.parquet"
        )
        write_tar(folder / f"tar/{shard:05d}.tar", images, captions)


def write_tar(path: Path, images: list[bytes], captions: list[str]):
    """A WebDataset shard."""
    with tarfile.open(path, "w") as tar:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            for end, content in (("jpg", image), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{path.stem}{number:04d}.{end}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def stream_batches(folder: Path, batch_size: int, leaves_pixels: bool = False) -> StreamLoader:
    """Our batches of a folder, with `leaves_pixels` as they travel to an accelerator."""
    options = StreamOptions([str(folder)], samples_per_epoch=1_000_000)
    captions = StreamCaptions(options, "train", CaptionOptions(["caption"]))
    tokenizer = train_tokenizer(captions.corpus(), 1000, 77)
    collate = Collator(tokenizer, AugmentOptions(), [0.5] * 3, [0.5] * 3)
    collate.leaves_pixels = leaves_pixels
    maker = SampleMaker("image", captions, SampleAugment(AugmentOptions(), 224), seed=0)
    return StreamLoader(options, "train", maker, collate, batch_size)


def open_clip_batches(folder: Path, batch_size: int, is_train: bool):
    """open_clip's batches of a folder of tars, by its transform of training or of evaluation."""
    try:
        import open_clip
        from open_clip_train.data import get_wds_dataset
    except ImportError as error:
        raise SystemExit(f"--stream needs open_clip's loader: {error}") from error
    args = SimpleNamespace(
        train_data=str(folder / "{00000..00003}.tar"),
        dataset_resampled=True,
        train_num_samples=1_000_000,
        train_data_upsampling_factors=None,
        seed=0,
        batch_size=batch_size,
        workers=0,
        world_size=1,
    )
    transform = open_clip.image_transform(224, is_train=is_train)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return get_wds_dataset(args, transform, is_train=True, tokenizer=tokenizer).dataloader


def measure_stream(count: int, batch_size: int = 64) -> list[dict]:
    """Samples a second on one core of every way to stream, the best of three rounds each."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder)
        tars, small = folder / "tar", folder / "small"
        resize_dataset(str(tars), small, ResizeOptions(size=256))
        ways = {
            "ours, tars, Pillow, float32": (None, stream_batches(tars, batch_size)),
            "ours, tars, Pillow, uint8": (None, stream_batches(tars, batch_size, True)),
            "ours, tars, float32": (jpeg.simplejpeg, stream_batches(tars, batch_size)),
            "ours, tars, uint8": (jpeg.simplejpeg, stream_batches(tars, batch_size, True)),
            "ours, parquet, uint8": (
                jpeg.simplejpeg,
                stream_batches(folder / "parquet", batch_size, True),
            ),
            "ours, parquet of 256 pixels, Pillow, uint8": (
                None,
                stream_batches(small, batch_size, True),
            ),
            "ours, parquet of 256 pixels, uint8": (
                jpeg.simplejpeg,
                stream_batches(small, batch_size, True),
            ),
            "open_clip, tars, its crop": (None, open_clip_batches(tars, batch_size, True)),
            "open_clip, tars, centre crop": (None, open_clip_batches(tars, batch_size, False)),
        }
        iterators = {way: iter(loader) for way, (_, loader) in ways.items()}
        for batches in iterators.values():
            next(batches)  # fills the shuffle buffer
        best = dict.fromkeys(ways, 0.0)
        for _ in range(3):  # in turn, so that a busy machine is busy for all
            for way, batches in iterators.items():
                jpeg.simplejpeg = ways[way][0]
                started = time.process_time()
                for _ in islice(batches, count):
                    pass
                speed = count * batch_size / (time.process_time() - started)
                best[way] = max(best[way], speed)
    return [{"way": way, "images_per_second_and_core": speed} for way, speed in best.items()]


def sample_makers(images: list[bytes], captions: list[str]):
    """Name -> a function that makes training inputs of all the samples."""
    import open_clip

    tokenizer = train_tokenizer(captions, 1000, 77)
    rows = [
        Row(str(number), {"image": image, "caption": caption})
        for number, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]

    def ours(fields: dict):
        options = AugmentOptions(**fields)
        texts = StreamTexts(CaptionOptions(["caption"]))
        maker = SampleMaker("image", texts, SampleAugment(options, 224), 0)
        collate = Collator(tokenizer, options, [0.5] * 3, [0.5] * 3)
        return lambda: collate([maker.make(row, 0, place) for place, row in enumerate(rows)])

    def per_sample(make):
        def run():
            samples = [
                make(PillowImage.open(io.BytesIO(image)), caption)
                for image, caption in zip(images, captions, strict=True)
            ]
            return torch.stack([pixels for pixels, _ in samples])

        return run

    def process(image, caption):
        inputs = processor(text=caption, images=image, return_tensors="pt", truncation=True)
        return inputs["pixel_values"][0], inputs["input_ids"]

    processor = build_processor(tokenizer, 224)
    their_tokenizer = open_clip.get_tokenizer("ViT-B-32")
    transform = open_clip.image_transform(224, is_train=True)
    return {
        **{name: ours(fields) for name, fields in AUGMENTATIONS.items()},
        "CLIPProcessor, a sample at a time": per_sample(process),
        "open_clip, crop of 0.9 to 1": per_sample(
            lambda image, caption: (transform(image), their_tokenizer(caption))
        ),
    }


def measure_samples(rounds: int, count: int = 64) -> list[dict]:
    """Samples a second on one core of every way to make them, the best of some rounds each."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = [draw_photo(rng) for _ in range(count)]
    captions = [f"a photo, number {n} of many" + ", far away" * (n % 5) for n in range(count)]
    ways = sample_makers(images, captions)
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):  # in turn, so that a busy machine is busy for all
        for way, make in ways.items():
            started = time.process_time()
            make()
            best[way] = max(best[way], count / (time.process_time() - started))
    return [{"way": way, "images_per_second_and_core": speed} for way, speed in best.items()]


def measure_recipe(count: int) -> list[dict]:
    """How fast the default recipe's batches are made in every way."""
    rows = []
    print("| way | ready after | images/s |\n| --- | --- | --- |")
    for way, (cache_images, workers) in WAYS.items():
        ready, speed = measure(cache_images, workers, count)
        rows.append({"way": way, "ready_seconds": ready, "images_per_second": speed})
        print(f"| {way} | {ready:.1f} s | {speed:,.0f} |")
    return rows


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--samples", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.stream or options.samples:
        measure_ways = measure_stream if options.stream else measure_samples
        rows = measure_ways(max(1, options.batches // 4))
        print("| way | samples/s and core |\n| --- | --- |")
        for row in rows:
            print(f"| {row['way']} | {row['images_per_second_and_core']:,.0f} |")
    else:
        rows = measure_recipe(options.batches)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
