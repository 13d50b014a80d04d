"""Crops and policies of one image: their random numbers do not depend on the worker."""

import io
import random

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from transformers import CLIPImageProcessor

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.batches import ConceptBatchSampler
from modeling_clip_vit.data.captions import CaptionOptions, stable_number
from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.images import resize_part, to_pixels, to_tensor
from modeling_clip_vit.data.policies import SampleAugment, seeded
from modeling_clip_vit.data.rows import Row
from modeling_clip_vit.data.samples import SampleMaker
from modeling_clip_vit.data.streaming.captions import StreamTexts
from modeling_clip_vit.data.transforms import AugmentOptions
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.tasks.contrastive import prepare
from tests.support.pictures import draw_picture
from tests.support.runs import write_recipe

#: Name -> how one image is varied.
WAYS = {
    "crop": {"crop_scale": [0.3, 0.9]},
    "randaugment": {"policy": "randaugment", "policy_num_ops": 3, "policy_magnitude": 15},
    "autoaugment": {"policy": "autoaugment"},
    "trivialaugment": {"policy": "trivialaugment"},
    "all": {"crop_scale": [0.5, 1], "policy": "randaugment", "rotation": 20, "hue": 20},
}


def photo(width: int = 96, height: int = 64, seed: int = 0) -> PillowImage.Image:
    """Soft shapes, as photographs have them."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return PillowImage.fromarray(values).resize((width, height), PillowImage.Resampling.BICUBIC)


def random_states() -> tuple:
    """What every generator of the process would draw next."""
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.parametrize("way", WAYS)
def test_an_image_is_varied_by_its_seed_alone(way):
    vary = SampleAugment(AugmentOptions(**WAYS[way]), 32)
    first = [vary(photo(), seed) for seed in range(12)]
    torch.rand(3)
    again = [vary(photo(), seed) for seed in reversed(range(12))][::-1]
    assert all(map(torch.equal, first, again))


@pytest.mark.parametrize("way", WAYS)
def test_seeds_vary_an_image_in_many_ways(way):
    vary = SampleAugment(AugmentOptions(**WAYS[way]), 32)
    assert len({vary(photo(), seed).numpy().tobytes() for seed in range(12)}) >= 8


@pytest.mark.parametrize("way", WAYS)
def test_varying_an_image_leaves_the_random_numbers_of_the_process(way):
    vary = SampleAugment(AugmentOptions(**WAYS[way]), 32)
    before = random_states()
    vary(photo(), 0)
    assert random_states() == before


def test_seeded_puts_the_random_numbers_back_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(IndexError), seeded(5):
        torch.rand(1)[1]
    assert torch.equal(torch.get_rng_state(), state)


def batches_of(arguments: list[str]) -> list[dict]:
    data = prepare(parse_arguments(arguments)).data
    data.sampler.set_epoch(2)
    return list(data.loader)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A dataset of JPEGs larger than the model's images."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for number in range(12):
        buffer = io.BytesIO()
        photo(90, 70, number).save(buffer, "JPEG", quality=95)
        image = {"bytes": buffer.getvalue(), "path": None}
        rows.append({"image": image, "caption": f"photo {number}"})
    features = Features({"image": Image(), "caption": Value("string")})
    Dataset.from_list(rows, features=features).to_parquet(folder / "train-0.parquet")
    return folder


@pytest.fixture
def photo_recipe(tmp_path, photos, model_config_folder):
    """Writes a recipe of that dataset, and returns its arguments."""

    def write(**fields) -> list[str]:
        recipe = write_recipe(
            tmp_path,
            photos,
            model_config_folder,
            concept_column=None,
            caption_columns=["caption"],
            tags_columns={},
            evaluations=[],
            per_device_train_batch_size=8,
            **fields,
        )
        return ["--config", str(recipe)]

    return write


@pytest.mark.parametrize("cache_images", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_batches_are_the_same_with_any_number_of_workers(way, cache_images, photo_recipe):
    arguments = [*photo_recipe(cache_images=cache_images, **WAYS[way]), "--dataloader_num_workers"]
    alone = batches_of([*arguments, "0"])
    torch.rand(7)  # the workers inherit another state
    helped = batches_of([*arguments, "2"])
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
        assert one["mix_seed"] == other["mix_seed"]


def test_two_views_of_a_concept_are_augmented_differently(photo_recipe):
    for batch in batches_of([*photo_recipe(**WAYS["crop"]), "--dataloader_num_workers", "0"]):
        assert torch.equal(*batch["image_ids"].split(4))
        for first, second in zip(*batch["pixel_values"].split(4), strict=True):
            assert not torch.equal(first, second)


def stream_sample(name: str, epoch: int) -> torch.Tensor:
    """The pixels of a row of a stream in an epoch."""
    options = AugmentOptions(crop_scale=[0.3, 0.9], policy="trivialaugment")
    texts = StreamTexts(CaptionOptions(["caption"]))
    maker = SampleMaker("image", texts, SampleAugment(options, 32), seed=0)
    row = Row(name, {"image": photo(), "caption": "a photo"})
    return maker.make(row, epoch, stable_number(name)).pixels


def test_a_row_of_a_stream_is_varied_by_its_name_and_epoch_alone():
    assert torch.equal(stream_sample("a", 0), stream_sample("a", 0))


@pytest.mark.parametrize(("name", "epoch"), [("a", 1), ("b", 0)])
def test_another_epoch_or_row_of_a_stream_is_varied_differently(name, epoch):
    assert not torch.equal(stream_sample(name, epoch), stream_sample("a", 0))


def draws_of_three_views(epoch: int) -> list[tuple[int, int]]:
    """A batch of three views of two concepts, one of which has a single row."""
    sampler = ConceptBatchSampler({0: 0, 1: 0, 2: 1}, 6, 3, seed=0)
    sampler.set_epoch(epoch)
    (batch,) = list(sampler)
    return batch


def test_a_row_that_comes_again_in_a_batch_is_another_draw():
    batch = draws_of_three_views(4)
    assert {row for row, _ in batch} == {0, 1, 2}
    assert len(set(batch)) == 6


def test_no_draw_of_a_row_comes_again_in_the_next_epoch():
    assert set(draws_of_three_views(4)).isdisjoint(draws_of_three_views(5))


@pytest.fixture(scope="module")
def crops() -> torch.Tensor:
    """Share of the area and aspect ratio of crops, (200, 2).

    The colours of a picture are its coordinates, and tell where a crop was taken.
    """
    rows, columns = np.mgrid[0:120, 0:200]
    picture = PillowImage.fromarray(
        np.stack((rows * 2, columns, np.zeros_like(rows)), axis=2).astype(np.uint8)
    )
    vary = SampleAugment(AugmentOptions(crop_scale=[0.2, 0.6], crop_ratio=[0.5, 2]), 48)
    measured = []
    for seed in range(200):
        pixels = vary(picture, seed).float()
        # The middle of the first and last pixel are half a pixel of the crop inside its edge.
        height = (pixels[0, -1, 24] - pixels[0, 0, 24]) / 2 * 48 / 47
        width = (pixels[1, 24, -1] - pixels[1, 24, 0]) * 48 / 47
        measured.append((height * width / (120 * 200), width / height))
    return torch.tensor(measured)


def test_crops_have_areas_between_the_bounds_of_crop_scale(crops):
    areas = crops[:, 0]
    assert 0.18 < areas.min() < 0.24
    assert 0.54 < areas.max() < 0.63


def test_crops_have_shapes_between_the_bounds_of_crop_ratio(crops):
    ratios = crops[:, 1]
    assert 0.47 < ratios.min() < 0.6
    assert 1.6 < ratios.max() < 2.1


@pytest.mark.parametrize(
    ("scale", "size"), [(0.02, (640, 480)), (0.2, (320, 240)), (1, (160, 120))]
)
def test_a_jpeg_is_decoded_just_large_enough_for_its_smallest_crop(scale, size):
    """Of 64 by 64 pixels, in the narrowest shape; a JPEG can be halved several times."""
    encoded = io.BytesIO()
    photo(640, 480).save(encoded, "JPEG")
    vary = SampleAugment(AugmentOptions(crop_scale=[scale, 1]), 64)
    assert decode_image(encoded.getvalue(), vary.size, vary.least_area).size == size


def test_what_a_policy_moves_in_is_white():
    black = PillowImage.new("RGB", (32, 32))
    options = AugmentOptions(policy="randaugment", policy_num_ops=1, policy_magnitude=30)
    vary = SampleAugment(options, 32)
    values = torch.stack([vary(black, seed) for seed in range(60)]).unique()
    assert 255 in values
    assert 0 in values


def test_a_policy_is_stronger_at_a_larger_magnitude():
    picture = to_pixels(photo(), 32)

    def change(magnitude: int) -> float:
        options = AugmentOptions(policy="randaugment", policy_magnitude=magnitude)
        vary = SampleAugment(options, 32)
        varied = torch.stack([vary(picture, seed) for seed in range(60)])
        return float((varied.float() - picture).abs().mean())

    assert change(1) < change(9) < change(25)


@pytest.mark.parametrize("size", [(200, 200), (256, 128), (150, 300), (60, 30)])
def test_pixels_are_those_of_the_image_processor(size):
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_normalize=False
    )
    picture = photo(*size)
    expected = processor(picture, return_tensors="pt")["pixel_values"][0] * 255
    difference = (to_pixels(picture, 64).float() - expected).abs()
    assert difference[:, 6:-6, 6:-6].max() < 1  # edges see less
    assert difference.mean() < 0.3


def test_a_smaller_jpeg_looks_the_same():
    encoded = io.BytesIO()
    photo(640, 480).save(encoded, "JPEG", quality=95)
    whole, small = decode_image(encoded.getvalue()), decode_image(encoded.getvalue(), 100)
    assert (whole.size, small.size) == ((640, 480), (160, 120))
    difference = to_pixels(whole, 100).float() - to_pixels(small, 100).float()
    assert difference.abs().mean() < 1.5


def test_other_kinds_of_image_are_decoded_in_full():
    png = io.BytesIO()
    draw_picture("red", 0).save(png, "PNG")
    assert decode_image(png.getvalue(), 4).size == (32, 32)


def test_a_part_of_the_right_size_is_cut_and_not_resized():
    pixels = to_tensor(photo(50, 40))
    assert torch.equal(resize_part(pixels, (3, 7, 16, 16), 16), pixels[:, 3:19, 7:23])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_scale": [0.9, 0.5]}, r"crop_scale=\[0.9, 0.5\] .* smallest and a largest share"),
        ({"crop_scale": [0.0, 1.0]}, "crop_scale"),
        ({"crop_scale": [0.5]}, "crop_scale"),
        ({"crop_scale": [0.5, 1.2]}, "at most 1"),
        ({"crop_ratio": [2, 1]}, r"crop_ratio=\[2, 1\] .* smallest and a largest"),
        ({"policy": "randomaugment"}, "policy=randomaugment .* randaugment, autoaugment"),
        ({"policy_num_ops": 0}, "policy_num_ops=0 .* at least 1"),
        ({"policy_magnitude": 31}, "policy_magnitude=31 .* from 0 to 30"),
        ({"erase_probability": 1.5}, "erase_probability=1.5 .* from 0 to 1"),
        ({"rotation": -3}, "rotation=-3 .* at least 0"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        AugmentOptions(**fields)


def test_the_command_rejects_them_in_one_line(capsys):
    assert main(["train", "--crop_scale", "[1, 0.5]"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: crop_scale=[1.0, 0.5] is not allowed")
    assert message.count("\n") == 1


def test_the_command_names_the_policies_that_there_are_in_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--policy", "randomaugment"])
    message = capsys.readouterr().err
    assert "randaugment" in message
    assert message.count("\n") == 1


@pytest.fixture
def preview(tmp_path, color_dataset, model_config_folder, capsys):
    """Saves a preview with more options; returns what it shows and what was printed."""
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder)
    path = tmp_path / "preview.png"

    def save(*options: str) -> tuple[np.ndarray, str]:
        arguments = ["preview", "--config", str(recipe), "--save", str(path), "--count", "8"]
        assert main([*arguments, *options]) == 0
        printed = capsys.readouterr().out
        return np.asarray(PillowImage.open(path).convert("RGB")), printed.replace(str(path), "PATH")

    return save


def test_a_preview_says_where_it_is_saved(preview):
    _, printed = preview()
    assert "saved PATH" in printed


@pytest.mark.parametrize("option", [("--policy", "autoaugment"), ("--cutmix_probability", "1")])
def test_a_preview_shows_how_images_are_varied(option, preview):
    before, _ = preview()
    after, _ = preview(*option)
    assert before.shape != after.shape or (before != after).any()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--save", "a.png", "--count", "0"], 'Parser key "count"'),
        (["--count", "8"], "arguments are required: save"),
        (["--save", "a.png", "--cont", "8"], "Did you mean count"),
    ],
)
def test_options_of_a_preview_are_checked_as_those_of_every_command(options, sentence, capsys):
    with pytest.raises(SystemExit):
        main(["preview", "--config", "emoji", *options])
    assert sentence in capsys.readouterr().err


def test_a_tower_from_scratch_takes_fields_of_the_recipe(linear_config, tmp_path, color_dataset):
    recipe = write_recipe(tmp_path, color_dataset, linear_config)
    arguments = ["--config", str(recipe), "--vision_fields", '{"patch_dropout": 0.5}']
    assert prepare(parse_arguments(arguments)).model.vision_model.config.patch_dropout == 0.5


def test_a_field_that_a_tower_does_not_have_is_rejected(linear_config, tmp_path, color_dataset):
    recipe = write_recipe(tmp_path, color_dataset, linear_config)
    arguments = ["--config", str(recipe), "--vision_fields", '{"patch_drop": 0.5}']
    with pytest.raises(ValueError, match=r"patch_drop=0.5 is not allowed: .* has no such field"):
        prepare(parse_arguments(arguments))
