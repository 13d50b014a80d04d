"""Images in their own aspect ratio: patches, sizes, and batches under a budget of patches."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from PIL import Image
from torch.testing import assert_close
from transformers import CLIPImageProcessor
from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

from modeling_clip_vit.data.captions import CaptionOptions
from modeling_clip_vit.data.native import (
    BudgetBatchSampler,
    NativeAugment,
    NativeCollator,
    NativeOptions,
    cut_patches,
    join_patches,
)
from modeling_clip_vit.data.rows import Sample
from modeling_clip_vit.data.samples import SampleMaker
from modeling_clip_vit.data.streaming.captions import StreamTexts
from modeling_clip_vit.data.streaming.loader import StreamLoader
from modeling_clip_vit.data.streaming.options import StreamOptions
from modeling_clip_vit.data.transforms import NOISE_SIZE, AugmentOptions, augment
from modeling_clip_vit.training.models import build_native_processor
from modeling_clip_vit.utils.errors import UserError
from tests.support.stream_files import write_parquet

SHAPES = [(40, 64), (300, 31), (17, 17), (90, 200)]
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
SIZES = {9: 8, 16: 4, 36: 2}


def picture(height: int, width: int) -> Image.Image:
    rng = np.random.default_rng(height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def collate(leaves_pixels: bool = False) -> dict:
    """The batch of a picture of each shape, in at most 36 patches of 8 pixels."""
    options = AugmentOptions()
    cut = NativeAugment(options, 8, 36)
    samples = [
        Sample(cut(picture(*shape), 0), torch.zeros(NOISE_SIZE), [], number)
        for number, shape in enumerate(SHAPES)
    ]
    collator = NativeCollator(None, options, MEAN, STD, 8, [36, 16])
    collator.leaves_pixels = leaves_pixels
    return collator.finish(collator(samples))


def test_patches_are_those_of_transformers_and_can_be_joined_again():
    image = torch.rand(3, 24, 40)
    patches = cut_patches(image[None], 8)[0]
    assert_close(patches, convert_image_to_patches(image, 8), atol=0, rtol=0)
    assert_close(join_patches(patches, 3, 5, 8), image, atol=0, rtol=0)


def test_a_batch_is_what_the_saved_processor_makes_of_the_pictures():
    normalization = CLIPImageProcessor(image_mean=MEAN, image_std=STD)
    processor = build_native_processor(normalization, 8, 36)
    expected = processor([picture(*shape) for shape in SHAPES], return_tensors="pt")
    batch = collate()
    mask = expected["pixel_attention_mask"]
    assert_close(batch["pixel_attention_mask"], mask.long())
    assert_close(batch["spatial_shapes"], torch.as_tensor(expected["spatial_shapes"]))
    is_patch = mask.bool()
    assert_close(batch["pixel_values"][is_patch], expected["pixel_values"][is_patch])


def test_patches_that_travel_as_bytes_are_the_same():
    assert_close(collate(leaves_pixels=True)["pixel_values"], collate()["pixel_values"])


def test_a_random_part_of_an_image_fits_the_grid_too():
    options = AugmentOptions(crop_scale=[0.2, 1])
    sizes = set()
    for seed in range(20):
        height, width = NativeAugment(options, 8, 36)(picture(50, 150), seed).shape[1:]
        assert (height % 8, width % 8) == (0, 0)
        assert 18 < height * width / 64 <= 36
        sizes.add((height, width))
    assert len(sizes) > 3


def test_turning_an_image_of_any_shape_keeps_its_angles_right():
    pixels = torch.full((1, 3, 32, 48), 255, dtype=torch.uint8)
    pixels[..., 14:18, 16:32] = 0
    noise = torch.full((1, NOISE_SIZE), 0.5)
    noise[:, 0] = 1.0
    turned = augment(pixels, noise, AugmentOptions(rotation=90))
    expected = torch.ones(1, 3, 32, 48)
    expected[..., 8:24, 22:26] = 0
    assert_close(turned, expected, atol=1e-4, rtol=0)


def sampler(processes: int = 1, rows: int = 100) -> BudgetBatchSampler:
    return BudgetBatchSampler({row: row for row in range(rows)}, SIZES, 1, 3, processes)


def test_every_batch_has_the_size_of_its_number_of_patches():
    batches = list(sampler())
    lengths = [{length for *_, length in batch} for batch in batches]
    assert all(len(one) == 1 for one in lengths)
    assert set.union(*lengths) == set(SIZES)
    assert all(len(batch) == SIZES[batch[0][2]] for batch in batches)


def test_an_epoch_has_every_row_at_most_once_and_leaves_less_than_the_smallest_batch():
    rows = Counter(row for batch in sampler() for row, *_ in batch)
    assert set(rows.values()) == {1}
    assert 100 - len(rows) < min(SIZES.values())


def test_epochs_have_equally_many_batches_in_other_orders():
    batches = sampler()
    passes = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        passes.append([batch[0][2] for batch in batches])
    assert len(passes[0]) == len(batches)
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])


def test_all_processes_have_the_same_number_of_patches_in_an_update():
    shards = [list(BatchSamplerShard(sampler(3), 3, rank)) for rank in range(3)]
    lengths = [[batch[0][2] for batch in shard] for shard in shards]
    assert lengths[0] == lengths[1] == lengths[2]
    rows = Counter(row for shard in shards for batch in shard for row, *_ in batch)
    assert set(rows.values()) == {1}


def test_batches_larger_than_the_dataset_are_refused():
    with pytest.raises(UserError, match="2 processes take 4 images"):
        sampler(processes=2, rows=3)


def test_a_budget_makes_fewer_images_of_more_patches():
    options = NativeOptions([64, 256, 128], max_image_tokens=1100)
    assert options.batch_sizes(7) == {64: 17, 128: 8, 256: 4}
    assert options.batch_sizes(7, images_per_concept=4) == {64: 16, 128: 8, 256: 4}
    assert NativeOptions([64, 256]).batch_sizes(7) == {64: 7, 256: 7}


def stream(folder, **options) -> StreamLoader:
    """A stream of pictures in patches of 4 pixels; its batches are lists of samples."""
    maker = SampleMaker(
        "image",
        StreamTexts(CaptionOptions(["caption"]), ()),
        NativeAugment(AugmentOptions(), 4, 16),
        5,
    )
    reading = StreamOptions([str(folder)], shuffle_buffer_size=6, samples_per_epoch=120)
    sizes = {4: 6, 9: 4, 16: 2}
    return StreamLoader(reading, "train", maker, list, 0, sizes=sizes, **options)


def shapes_of(batches) -> list[tuple[int, int]]:
    """The number of samples of each batch, and that of pixels of its images."""
    return [(len(batch), batch[0].pixels[0].numel()) for batch in batches]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("stream") / "shards", [20, 25, 30])


def test_batches_of_a_stream_have_the_size_of_their_number_of_patches(shards):
    loader = stream(shards)
    shapes = shapes_of(loader)
    assert set(shapes) == {(6, 2 * 2 * 16), (4, 3 * 3 * 16), (2, 4 * 4 * 16)}
    assert len(shapes) == len(loader) == 120 // 4


def test_all_processes_read_a_stream_in_the_same_numbers_of_patches(shards):
    shapes = [shapes_of(stream(shards, rank=rank, world_size=2)) for rank in range(2)]
    assert shapes[0] == shapes[1]


def test_a_stream_goes_on_at_any_batch(shards):
    whole = [[sample.texts for sample in batch] for batch in stream(shards)]
    for done in (1, 4, 11):
        begun, resumed = stream(shards), stream(shards)
        for _ in itertools.islice(begun, done):
            pass
        resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
        assert [[sample.texts for sample in batch] for batch in resumed] == whole[done:]
