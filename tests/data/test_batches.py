"""Captions, augmentation, sampling and collation."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset

from modeling_clip_vit.data.batches import (
    Collator,
    ConceptBatchSampler,
    TokenIds,
    number_concepts,
)
from modeling_clip_vit.data.captions import CaptionMaker, CaptionOptions, draw_texts
from modeling_clip_vit.data.columns import check_columns
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.map_style import ImageTextSamples
from modeling_clip_vit.data.policies import SampleAugment
from modeling_clip_vit.data.rows import Row, Sample
from modeling_clip_vit.data.samples import SampleMaker
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.data.transforms import NOISE_SIZE, AugmentOptions, augment, normalize
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY

STRONG = AugmentOptions(
    rotation=20,
    zoom=0.3,
    shift=0.1,
    shear=0.1,
    brightness=0.2,
    contrast=0.3,
    saturation=0.5,
    hue=30,
    erase_probability=0.5,
    flip=True,
)


def random_pixels(count: int = 6, size: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def make_samples(captions, pixels, concepts=None, seed=5) -> ImageTextSamples:
    """Samples of rows whose images are pixels, or bytes."""
    images = [(image, f"row {row}") for row, image in enumerate(pixels)]
    maker = SampleMaker("image", captions, SampleAugment(AugmentOptions(), 24), seed)
    return ImageTextSamples(images, maker, concepts)


def draw(captions, row: int, rng: np.random.Generator) -> list[str]:
    """Texts for a row."""
    return draw_texts(captions, Row("", {}, number=row), rng)[0]


def noise(count: int = 6) -> torch.Tensor:
    return torch.rand(count, NOISE_SIZE, generator=torch.Generator().manual_seed(1))


def test_without_strength_augmentation_is_the_identity():
    pixels = random_pixels()
    images = augment(pixels, noise(), AugmentOptions())
    torch.testing.assert_close(images, pixels.float() / 255, atol=2e-5, rtol=0)


def test_an_image_is_varied_by_its_own_noise_alone():
    pixels, numbers = random_pixels(), noise()
    together = augment(pixels, numbers, STRONG)
    for place in range(len(pixels)):
        alone = augment(pixels[place : place + 1], numbers[place : place + 1], STRONG)
        torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=0)
    assert (together - pixels.float() / 255).abs().mean() > 0.05


def test_what_moves_in_from_outside_is_white():
    black = torch.zeros(4, 3, 24, 24, dtype=torch.uint8)
    shifted = augment(black, noise(4), AugmentOptions(shift=0.5, zoom=0.5))
    assert shifted.max() == 1
    assert shifted.min() == 0


def test_hue_and_saturation_leave_grey_alone():
    grey = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    images = augment(grey, noise(4), AugmentOptions(saturation=1.0, hue=180))
    torch.testing.assert_close(images, grey.float() / 255, atol=1e-5, rtol=0)


def test_erasing_hits_its_share_of_images():
    white = torch.full((2000, 3, 16, 16), 255, dtype=torch.uint8)
    images = augment(white, noise(2000), AugmentOptions(erase_probability=0.3))
    hit = (images.flatten(1).min(dim=1).values < 1).float().mean()
    assert 0.26 < hit < 0.34


def test_normalisation_is_that_of_the_image_processor():
    from modeling_clip_vit.training.models import build_processor

    tokenizer = train_tokenizer(["a"], 260, 8)
    processor = build_processor(tokenizer, 24)
    pixels = random_pixels()
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    expected = processor.image_processor(arrays, return_tensors="pt")["pixel_values"]
    images = processor.image_processor
    ours = normalize(pixels.float() / 255, images.image_mean, images.image_std)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def batches_of_views(views: int) -> list[list[int]]:
    """The rows of each batch of six concepts of two rows each, of twenty."""
    concepts = {row: row // 2 for row in range(40)}
    sampler = ConceptBatchSampler(concepts, 6 * views, views, seed=3)
    return [[row for row, _ in batch] for batch in sampler]


@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_batch_is_views_of_distinct_concepts(views):
    for rows in batches_of_views(views):
        first, *others = [[row // 2 for row in rows[6 * k : 6 * k + 6]] for k in range(views)]
        assert len(set(first)) == 6
        assert all(block == first for block in others)


def test_views_of_a_concept_are_rows_of_their_own_as_far_as_there_are_some():
    assert all(len(set(rows)) == 12 for rows in batches_of_views(2))


@pytest.mark.parametrize("views", [1, 2, 3])
def test_an_epoch_has_each_concept_once_without_an_incomplete_batch(views):
    batches = batches_of_views(views)
    assert len(batches) == 3
    assert len({row // 2 for rows in batches for row in rows}) == 18


def order_of(seed: int, epoch: int) -> list[int]:
    """The rows of an epoch in order."""
    sampler = ConceptBatchSampler({row: row for row in range(50)}, 10, 1, seed)
    sampler.set_epoch(epoch)
    return [row for batch in sampler for row, _ in batch]


def test_an_epoch_has_the_same_order_again():
    assert order_of(seed=3, epoch=0) == order_of(seed=3, epoch=0)


@pytest.mark.parametrize(("seed", "epoch"), [(3, 1), (4, 0)])
def test_another_epoch_or_seed_has_another_order(seed, epoch):
    assert order_of(seed, epoch) != order_of(seed=3, epoch=0)


def test_a_batch_larger_than_the_dataset_is_rejected():
    with pytest.raises(UserError, match="takes 16 concepts, but the dataset has 4"):
        ConceptBatchSampler({row: row for row in range(4)}, 16, 1, seed=0)


@pytest.fixture
def captions(color_dataset):
    split = load_dataset(str(color_dataset), split="train")
    options = CaptionOptions(
        caption_columns=["caption_en", "caption_zh"],
        caption_sampling="each",
        tags_columns={"caption_en": "tags_en"},
        tag_probability=0.5,
    )
    return CaptionMaker(split, options, "colors")


@pytest.fixture
def drawn(captions) -> list[list[str]]:
    """The texts of a thousand draws of one row."""
    rng = np.random.default_rng(0)
    return [draw(captions, 0, rng) for _ in range(1000)]


def test_captions_carry_tags_as_often_as_tag_probability_says(drawn):
    assert 0.45 < np.mean(["," in english for english, _ in drawn]) < 0.55


def test_tags_follow_the_caption_in_any_number_and_order(drawn):
    assert {english for english, _ in drawn} == {
        "a red square",
        "a red square, red",
        "a red square, square",
        "a red square, red, square",
        "a red square, square, red",
    }


def test_a_column_without_tags_carries_none(drawn):
    assert {chinese for _, chinese in drawn} == {"红色方块"}


def test_empty_captions_are_named():
    rows = Dataset.from_dict({"caption": ["one", "  "]})
    captions = CaptionMaker(rows, CaptionOptions(["caption"]), "x")
    assert captions.problems == {1: "its 'caption' is empty"}


def test_missing_columns_are_named():
    with pytest.raises(DataError, match="no column 'text': it has caption, image"):
        check_columns(["caption", "image"], ["text"], "x")


def test_a_sample_depends_on_seed_epoch_and_row_alone(captions):
    one, other = (make_samples(captions, random_pixels(16))[3, 0] for _ in range(2))
    assert torch.equal(one.noise, other.noise)
    assert one.texts == other.texts


@pytest.mark.parametrize(("seed", "row", "epoch"), [(6, 3, 0), (5, 4, 0), (5, 3, 1)])
def test_another_seed_row_or_epoch_has_other_noise(seed, row, epoch, captions):
    pixels = random_pixels(16)
    one = make_samples(captions, pixels, seed=5)[3, 0]
    other = make_samples(captions, pixels, seed=seed)[row, epoch]
    assert not torch.equal(one.noise, other.noise)


@pytest.fixture
def collate_rows(captions):
    """Makes a batch of rows, whose concepts are English captions; the image of row 5 is broken."""
    images = [*random_pixels(16)]
    images[5] = b"no image"
    concepts = number_concepts(captions.plain_texts()["caption_en"])
    samples = make_samples(captions, images, concepts)
    tokenizer = train_tokenizer(captions.corpus(), 300, 16)
    collate = Collator(tokenizer, STRONG, [0.5] * 3, [0.5] * 3)
    return lambda *rows: collate([samples[row, 0] for row in rows])


def test_an_image_is_of_the_concept_of_its_row(collate_rows):
    assert collate_rows(4, 6, 12, 13)["image_ids"].tolist() == [4, 6, 4, 5]


def test_a_batch_has_one_text_of_each_column_for_a_concept(collate_rows):
    batch = collate_rows(4, 6, 12, 13)
    assert batch["text_ids"].tolist() == [4, 4, 6, 6, 5, 5]
    assert batch["input_ids"].shape[0] == batch["attention_mask"].shape[0] == 6


def test_the_first_view_of_each_concept_is_marked(collate_rows):
    batch = collate_rows(4, 6, 12, 13)
    assert batch["first_views"].tolist() == [0, 1, 3]
    assert batch["other_views"].tolist() == [2]


def test_a_bad_image_is_skipped_and_named(collate_rows):
    batch = collate_rows(4, 5, 6)
    [skipped] = batch["skipped"]
    assert skipped.name == "row 5"
    assert "cannot identify image" in skipped.reason
    assert batch["image_ids"].tolist() == [4, 6]


def test_a_batch_of_bad_images_has_none(collate_rows):
    assert collate_rows(5).keys() == {"skipped"}


def test_left_pixels_are_augmented_later_as_they_would_have_been(captions):
    samples = make_samples(captions, random_pixels(16))
    collate = Collator(None, STRONG, [0.4] * 3, [0.6] * 3)
    rows = [samples[row, 0] for row in range(16)]
    expected = collate(rows)["pixel_values"]
    collate.leaves_pixels = True
    batch = collate(rows)
    assert batch["pixels"].dtype == torch.uint8
    assert "pixel_values" not in batch
    assert torch.equal(collate.finish(batch)["pixel_values"], expected)


@pytest.mark.parametrize(("texts", "has_padding"), [(["a", "red heart"], True), (["a"], False)])
def test_a_batch_says_whether_its_texts_differ_in_length(texts, has_padding, captions):
    collate = Collator(train_tokenizer(captions.corpus(), 300, 60), STRONG, [0.5] * 3, [0.5] * 3)
    sample = Sample(random_pixels(1)[0], noise(1)[0], texts, 0, 0)
    assert collate([sample])["has_padding"] == has_padding


def test_images_are_augmented_on_the_device_that_they_are_on():
    """The meta device refuses what is on another."""
    collate = Collator(None, STRONG, [0.4] * 3, [0.6] * 3)
    pixels = random_pixels().to("meta")
    assert collate.vary(pixels, noise(6).to("meta")).device.type == "meta"


def test_a_batch_says_which_texts_share_a_row_where_that_saves_computing(captions):
    tokenizer = train_tokenizer(captions.corpus(), 300, 60)
    collate = Collator(tokenizer, STRONG, [0.5] * 3, [0.5] * 3)
    collate.packs_texts = True
    texts = ["red heart " * 20, *["pizza"] * 15]
    sample = Sample(random_pixels(1)[0], noise(1)[0], texts, 0, 0)
    batch = collate([sample])
    places = batch["packed_places"]
    assert places.numel() < batch["input_ids"].numel()
    assert (places >= 0).sum() == batch["attention_mask"].sum()
    even = Sample(random_pixels(1)[0], noise(1)[0], ["red heart " * 20] * 4, 0, 0)
    assert "packed_places" not in collate([even])


TOKENIZED = ["a slice of pizza", "一块披萨", "red heart", "红心"]


@pytest.mark.parametrize("text", ["pizza 披萨", "émoji 🍕", "ПРИВЕТ"])
def test_the_tokenizer_decodes_what_it_encodes(text):
    tokenizer = train_tokenizer(TOKENIZED, 280, 12)
    decoded = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert decoded.replace(" ", "") == text.lower().replace(" ", "")


def test_the_tokenizer_cuts_a_text_between_its_start_and_its_end():
    tokenizer = train_tokenizer(TOKENIZED, 280, 12)
    ids = tokenizer("pizza " * 20, truncation=True)["input_ids"]
    assert len(ids) == 12
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_equal_texts_give_an_equal_tokenizer():
    one, other = (train_tokenizer(TOKENIZED, 280, 12) for _ in range(2))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


@pytest.mark.parametrize("side", ["left", "right"])
def test_kept_token_ids_are_those_of_the_tokenizer(side):
    texts = ["a red square", "一个红色方块", "", "blue " * 20, "a red square"]
    tokenizer = train_tokenizer(texts, vocab_size=300, max_length=16)
    tokenizer.padding_side = side
    token_ids = TokenIds(tokenizer, most_kept=6)
    for batch in (texts, texts[1:3], ["other"], texts):
        expected = tokenizer(batch, padding=True, truncation=True, return_tensors="pt")
        found = token_ids(batch)
        for name in ("input_ids", "attention_mask"):
            assert torch.equal(found[name], expected[name])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("words", "multiple", "length"), [(2, 8, 8), (6, 8, 8), (7, 4, 12), (9, 8, 14), (30, 4, 14)]
)
def test_texts_are_padded_to_a_multiple_or_to_the_longest_allowed(words, multiple, length, side):
    """A text of n words has a start and an end besides; 14 tokens are allowed."""
    tokenizer = train_tokenizer(["a"], 300, 14)
    tokenizer.padding_side = side
    token_ids, texts = TokenIds(tokenizer), ["a", " ".join("a" * words)]
    exact = token_ids(texts)
    token_ids.pad_multiple = multiple
    padded = token_ids(texts)
    longest = exact["input_ids"].shape[1]
    kept = slice(-longest, None) if side == "left" else slice(0, longest)
    for name, values in padded.items():
        assert values.shape == (2, length)
        assert torch.equal(values[:, kept], exact[name])
    assert padded["attention_mask"].sum() == exact["attention_mask"].sum()


def test_a_bounded_number_of_token_ids_is_kept():
    token_ids = TokenIds(train_tokenizer(["one"], 300, 16), most_kept=6)
    for number in range(20):
        token_ids([f"text {number}", f"text {number + 1}"])
        assert len(token_ids.kept) <= 6


def test_a_chinese_word_has_the_same_tokens_wherever_it_stands():
    tokenizer = train_tokenizer(["披萨", "一块", "pizza"], 300, 16)
    word = tokenizer.tokenize("披萨")
    for text in ["一块披萨", "披萨一块", "pizza披萨", "a 披萨"]:
        tokens = tokenizer.tokenize(text)
        places = range(len(tokens) - len(word) + 1)
        assert any(tokens[place : place + len(word)] == word for place in places), tokens


@pytest.fixture
def templated() -> CaptionMaker:
    """A caption with a brace of its own, and two templates for half of its draws."""
    rows = Dataset.from_dict({"caption": ["cat {x}"], "image": [None]})
    options = CaptionOptions(
        ["caption"], templates={"caption": ["a photo of {}", "{} here"]}, template_probability=0.5
    )
    return CaptionMaker(rows, options, "x")


def test_captions_go_into_templates_as_often_as_template_probability_says(templated):
    rng = np.random.default_rng(0)
    drawn = Counter(draw(templated, 0, rng)[0] for _ in range(1000))
    assert set(drawn) == {"cat {x}", "a photo of cat {x}", "cat {x} here"}
    assert 440 < drawn["cat {x}"] < 560


def test_a_tokenizer_learns_the_words_of_templates(templated):
    assert set(templated.corpus()) == {"cat {x}", "a photo of ", " here"}


@pytest.mark.parametrize("phrase", ["a photo", "{} and {}"])
def test_a_phrase_without_a_place_for_the_caption_is_refused(phrase):
    with pytest.raises(DataError, match=r"exactly one \{\}"):
        CaptionOptions(templates={"caption": [phrase]})


def write_carded(folder, caption: str) -> str:
    """A folder of one Parquet file that its dataset card names."""
    folder.mkdir(parents=True, exist_ok=True)
    card = "---\nconfigs:\n- config_name: default\n  data_files: data.parquet\n---\n"
    (folder / "README.md").write_text(card)
    Dataset.from_dict({"caption": [caption]}).to_parquet(folder / "data.parquet")
    return str(folder)


def test_folders_of_one_name_and_card_are_told_apart(tmp_path):
    paths = [write_carded(tmp_path / name / "same", name) for name in ("a", "b")]
    assert [open_dataset(path)["train"]["caption"][0] for path in paths] == ["a", "b"]


def test_a_folder_with_a_card_is_opened_as_it_is_now(tmp_path):
    open_dataset(write_carded(tmp_path, "before"))
    assert open_dataset(write_carded(tmp_path, "changed"))["train"]["caption"] == ["changed"]


def rows_of_captions() -> Dataset:
    return Dataset.from_dict(
        {
            "captions": [["a dog", "brown dog"], ["a cat"], ["a dog", " "]],
            "name": ["rex", "tom", "fido"],
            "label": [1, 0, 1],
        },
        features=Features(
            captions=List(Value("string")),
            name=Value("string"),
            label=ClassLabel(names=["n1", "b"]),
        ),
    )


@pytest.fixture
def listed() -> CaptionMaker:
    """Rows with lists of captions, one of which is blank."""
    return CaptionMaker(rows_of_captions(), CaptionOptions(["captions"]), "x")


def test_one_of_a_list_of_captions_is_drawn_anew_in_each_epoch(listed):
    samples = make_samples(listed, random_pixels(3))
    drawn = Counter(samples[0, epoch].texts[0] for epoch in range(200))
    assert set(drawn) == {"a dog", "brown dog"}
    assert 70 < drawn["a dog"] < 130


def test_a_blank_caption_of_a_list_is_never_drawn(listed):
    samples = make_samples(listed, random_pixels(3))
    assert {samples[2, epoch].texts[0] for epoch in range(20)} == {"a dog"}


def test_the_plain_text_of_a_list_is_its_first_caption(listed):
    assert listed.plain_texts()["captions"] == ["a dog", "a cat", "a dog"]


def test_a_tokenizer_learns_every_caption_of_a_list(listed):
    assert listed.corpus() == ["a dog", "brown dog", "a cat"]


def test_equal_captions_in_a_batch_are_positives_of_each_other(listed):
    samples = make_samples(listed, random_pixels(3))
    collate = Collator(train_tokenizer(listed.corpus(), 300, 16), STRONG, [0.5] * 3, [0.5] * 3)
    seen = set()
    for epoch in range(20):
        batch = collate([samples[row, epoch] for row in range(3)])
        ids = batch["image_ids"].tolist()
        is_same = samples[0, epoch].texts == samples[2, epoch].texts
        assert (ids[0] == ids[2]) == is_same
        assert ids[1] not in (ids[0], ids[2])
        assert batch["text_ids"].tolist() == list(dict.fromkeys(ids))
        seen.add(is_same)
    assert seen == {True, False}


def test_spaces_around_captions_and_tags_are_no_part_of_them():
    rows = Dataset.from_dict({"caption": [" a cat\n"], "tags": [[" cat ", ""]]})
    options = CaptionOptions(["caption"], tags_columns={"caption": "tags"})
    assert CaptionMaker(rows, options, "x").corpus() == ["a cat", "cat"]


def test_a_row_may_have_no_tags():
    rows = Dataset.from_dict({"caption": ["a cat", "a dog"], "tags": [None, ["dog"]]})
    options = CaptionOptions(["caption"], tags_columns={"caption": "tags"}, tag_probability=1)
    captions = CaptionMaker(rows, options, "x")
    drawn = [draw(captions, row, np.random.default_rng(0)) for row in (0, 1)]
    assert drawn == [["a cat"], ["a dog, dog"]]
    assert captions.corpus() == ["a cat", "a dog", "dog"]


def test_a_tag_may_be_a_text_of_its_own():
    rows = Dataset.from_dict({"caption": ["a cat"], "tags": ["pet"]})
    options = CaptionOptions(["caption"], tags_columns={"caption": "tags"}, tag_probability=1)
    captions = CaptionMaker(rows, options, "x")
    assert draw(captions, 0, np.random.default_rng(0)) == ["a cat, pet"]


def test_columns_are_drawn_by_their_weights():
    options = CaptionOptions(["captions", "name"], caption_weights={"name": 3})
    maker = CaptionMaker(rows_of_captions(), options, "x")
    rng = np.random.default_rng(0)
    drawn = Counter(draw(maker, 1, rng)[0] for _ in range(1000))
    assert set(drawn) == {"a cat", "tom"}
    assert 700 < drawn["tom"] < 800


@pytest.fixture
def classes(tmp_path) -> CaptionMaker:
    """The texts of classes: templates of a file, and Chinese names in Chinese templates."""
    templates = tmp_path / "mine.txt"
    templates.write_text("a {} here\n\nthe {}\n")
    options = CaptionOptions(
        label_column="label",
        label_templates=[str(templates), "zh"],
        label_names={"zh": ["猫", "狗"]},
        caption_sampling="each",
    )
    return CaptionMaker(rows_of_captions(), options, "x")


def test_class_names_in_templates_are_captions(classes):
    rng = np.random.default_rng(0)
    english = {draw(classes, 1, rng)[0] for _ in range(100)}
    assert english == {"a n1 here", "the n1"}


def test_a_set_of_templates_may_have_class_names_of_its_own(classes):
    rng = np.random.default_rng(0)
    assert all("猫" in draw(classes, 1, rng)[1] for _ in range(20))


def test_rows_of_one_class_have_one_key(classes):
    assert classes.keys() == [1, 0, 1]


def test_the_plain_text_of_a_class_is_in_the_first_template(classes):
    assert classes.plain_texts()["mine"] == ["a b here", "a n1 here", "a b here"]


def test_a_tokenizer_learns_class_names_and_templates(classes):
    assert {"狗", "b", "一张的照片。", "the "} <= set(classes.corpus())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"caption_sampling": "all"}, "caption_sampling=all is not allowed: .* one or each"),
        ({"tag_probability": 2}, "tag_probability=2 is not allowed: .* from 0 to 1"),
        ({"max_tags": 0}, "max_tags=0 is not allowed: .* at least 1"),
        ({"caption_weights": {"name": 0}}, "numbers above 0"),
        ({"caption_weights": {"nam": 1}}, "caption_weights has 'nam', which is not among name"),
        (
            {"caption_weights": {"name": 1}, "caption_sampling": "each"},
            "not allowed with caption_s",
        ),
        ({"label_templates": ["en", "en"]}, "sets of different names"),
        ({"label_templates": ["fr"]}, "no set of templates 'fr': there are plain, en, zh"),
        ({"label_names": {"zh": ["a"]}}, "label_names has 'zh', which is none of label_templates"),
    ],
)
def test_caption_fields_that_mean_nothing_are_refused(fields, told):
    with pytest.raises(DataError, match=told):
        CaptionOptions(["name"], **fields)


def test_captions_that_are_all_empty_are_rejected():
    rows = Dataset.from_dict({"caption": ["", " "]})
    with pytest.raises(DataError, match="every 'caption' of 'x' is empty"):
        CaptionMaker(rows, CaptionOptions(["caption"]), "x")


def test_a_file_of_templates_without_a_place_for_the_name_is_rejected(tmp_path):
    (tmp_path / "bad.txt").write_text("a photo\n")
    with pytest.raises(DataError, match=r"'a photo' \(line 1 of '.*bad.txt'\) .* exactly one"):
        CaptionOptions(label_column="label", label_templates=[str(tmp_path / "bad.txt")])


def test_another_number_of_class_names_is_rejected():
    rows = Dataset.from_dict({"label": ["a", "b"]})
    with pytest.raises(DataError, match="1 names for 'en', but 'label' has 2 classes"):
        CaptionMaker(rows, CaptionOptions(label_column="label", label_names={"en": ["one"]}), "x")


def test_the_default_recipe_draws_the_batches_that_it_always_drew():
    """The rows, and the texts of their concepts, of the first batches of two epochs."""
    options = parse_arguments(["--config", str(REPOSITORY / "configuration/train/emoji.yaml")])
    split = open_dataset(str(REPOSITORY / "data" / "emoji"))["train"]
    captions = CaptionMaker(split, options.captions, "emoji")
    concepts = number_concepts(list(split["hexcode"]))
    sampler = ConceptBatchSampler(dict(enumerate(concepts)), 256, 2, seed=0)
    pixels = [random_pixels(1)[0]] * len(split)
    samples = make_samples(captions, pixels, concepts, seed=0)
    said = hashlib.sha256()
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        for index in next(iter(sampler)):
            said.update(json.dumps([index[0], samples[index].texts]).encode())
    assert said.hexdigest() == "bff1b706dcee4a59b1339ce89651e830b1bb0fd91564de3fa5ed6ada680f9c50"
