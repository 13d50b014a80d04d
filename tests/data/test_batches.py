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
from modeling_clip_vit.data.rows import Row
from modeling_clip_vit.data.samples import SampleMaker
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.data.transforms import NOISE_SIZE, AugmentOptions, augment, normalize
from modeling_clip_vit.training.command import parse_arguments
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


@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_batch_is_views_of_distinct_concepts(views):
    concepts = {row: row // 2 for row in range(40)}
    sampler = ConceptBatchSampler(concepts, 6 * views, views, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    seen = []
    for batch in batches:
        rows = [row for row, _ in batch]
        blocks = [[concepts[row] for row in rows[6 * k : 6 * k + 6]] for k in range(views)]
        assert len(set(blocks[0])) == 6
        assert all(block == blocks[0] for block in blocks)
        if views == 2:
            assert len(set(rows)) == 12
        seen += blocks[0]
    assert len(set(seen)) == 18


def test_epochs_have_their_own_order_and_come_again():
    sampler = ConceptBatchSampler({row: row for row in range(50)}, 10, 1, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert [[row for row, _ in b] for b in second] != [[row for row, _ in b] for b in first]
    assert list(ConceptBatchSampler({row: row for row in range(50)}, 10, 1, seed=4)) != first


def test_a_batch_larger_than_the_data_set_is_refused():
    with pytest.raises(ValueError, match="takes 16 concepts, but the dataset has 4"):
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


def test_captions_carry_tags_as_often_as_asked(captions):
    rng = np.random.default_rng(0)
    drawn = [draw(captions, 0, rng) for _ in range(1000)]
    english = [texts[0] for texts in drawn]
    assert {texts[1] for texts in drawn} == {"红色方块"}
    assert 0.45 < np.mean(["," in text for text in english]) < 0.55
    assert set(english) <= {
        "a red square",
        "a red square, red",
        "a red square, square",
        "a red square, red, square",
        "a red square, square, red",
    }
    assert captions.corpus()[:1] == ["a red square"]


def test_empty_captions_and_missing_columns_are_named():
    rows = Dataset.from_dict({"caption": ["one", "  "], "image": [None, None]})
    captions = CaptionMaker(rows, CaptionOptions(["caption"]), "x")
    assert captions.problems == {1: "its 'caption' is empty"}
    with pytest.raises(DataError, match="no column 'text': it has caption, image"):
        check_columns(rows.column_names, ["text"], "x")
    with pytest.raises(DataError, match=r"no folder './nowhere'"):
        open_dataset("./nowhere")


def test_a_sample_depends_on_seed_epoch_and_row_alone(captions):
    samples = make_samples(captions, random_pixels(16))
    again, next_epoch = samples[3, 0], samples[3, 1]
    assert torch.equal(samples[3, 0].noise, again.noise)
    assert samples[3, 0].texts == again.texts
    assert not torch.equal(next_epoch.noise, again.noise)


def test_a_batch_has_one_text_of_each_kind_for_a_concept_and_skips_bad_images(captions):
    images = [*random_pixels(16)]
    images[5] = b"no image"
    concepts = number_concepts(captions.plain_texts()["caption_en"])
    samples = make_samples(captions, images, concepts)
    tokenizer = train_tokenizer(captions.corpus(), 300, 16)
    collate = Collator(tokenizer, STRONG, [0.5] * 3, [0.5] * 3)
    batch = collate([samples[row, 0] for row in (4, 5, 6, 12, 13, 14)])
    [skipped] = batch["skipped"]
    assert skipped.name == "row 5"
    assert "cannot identify image" in skipped.reason
    assert batch["image_ids"].tolist() == [4, 6, 4, 5, 6]
    assert batch["text_ids"].tolist() == [4, 4, 6, 6, 5, 5]
    assert batch["is_first_view"].tolist() == [True, True, False, True, False]
    assert batch["input_ids"].shape[0] == 6
    assert batch["attention_mask"].sum(dim=1).min() >= 3
    assert "pixel_values" not in collate([samples[5, 0]])


def test_the_tokenizer_reads_any_text_and_equal_texts_give_an_equal_one():
    texts = ["a slice of pizza", "一块披萨", "red heart", "红心"]
    tokenizer = train_tokenizer(texts, 280, 12)
    for text in ["pizza 披萨", "émoji 🍕", "ПРИВЕТ"]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        cut = tokenizer(text, truncation=True)["input_ids"]
        assert len(cut) <= 12
        assert cut[-1] == tokenizer.eos_token_id
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        assert decoded.replace(" ", "") == text.lower().replace(" ", "")
    assert train_tokenizer(texts, 280, 12).get_vocab() == tokenizer.get_vocab()


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
        assert len(token_ids.kept) <= 6


def test_a_chinese_word_has_the_same_tokens_wherever_it_stands():
    tokenizer = train_tokenizer(["披萨", "一块", "pizza"], 300, 16)
    word = tokenizer.tokenize("披萨")
    for text in ["一块披萨", "披萨一块", "pizza披萨", "a 披萨"]:
        tokens = tokenizer.tokenize(text)
        places = range(len(tokens) - len(word) + 1)
        assert any(tokens[place : place + len(word)] == word for place in places), tokens


def test_captions_go_into_phrases_as_often_as_asked():
    rows = Dataset.from_dict({"caption": ["cat {x}"], "image": [None]})
    options = CaptionOptions(
        ["caption"], templates={"caption": ["a photo of {}", "{} here"]}, template_probability=0.5
    )
    captions = CaptionMaker(rows, options, "x")
    rng = np.random.default_rng(0)
    drawn = Counter(draw(captions, 0, rng)[0] for _ in range(1000))
    assert set(drawn) == {"cat {x}", "a photo of cat {x}", "cat {x} here"}
    assert 440 < drawn["cat {x}"] < 560
    assert set(captions.corpus()) == {"cat {x}", "a photo of ", " here"}


@pytest.mark.parametrize("phrase", ["a photo", "{} and {}"])
def test_a_phrase_without_a_place_for_the_caption_is_refused(phrase):
    with pytest.raises(DataError, match=r"exactly one \{\}"):
        CaptionOptions(templates={"caption": [phrase]})


def test_a_folder_with_a_card_is_opened_as_it_is_now(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files: data.parquet\n---\n"
    for folder in (tmp_path / "a" / "same", tmp_path / "b" / "same"):
        folder.mkdir(parents=True)
        (folder / "README.md").write_text(card)
        Dataset.from_dict({"caption": [folder.parent.name]}).to_parquet(folder / "data.parquet")
        assert open_dataset(str(folder))["train"]["caption"] == [folder.parent.name]
    Dataset.from_dict({"caption": ["changed"]}).to_parquet(folder / "data.parquet")
    assert open_dataset(str(folder))["train"]["caption"] == ["changed"]


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


def test_one_of_a_list_of_captions_is_drawn_anew_in_each_epoch():
    maker = CaptionMaker(rows_of_captions(), CaptionOptions(["captions"]), "x")
    samples = make_samples(maker, random_pixels(3))
    drawn = Counter(samples[0, epoch].texts[0] for epoch in range(200))
    assert set(drawn) == {"a dog", "brown dog"}
    assert 70 < drawn["a dog"] < 130
    assert {samples[2, epoch].texts[0] for epoch in range(20)} == {"a dog"}
    assert maker.plain_texts()["captions"] == ["a dog", "a cat", "a dog"]
    assert set(maker.corpus()) == {"a dog", "brown dog", "a cat"}


def test_equal_captions_in_a_batch_are_positives_of_each_other():
    maker = CaptionMaker(rows_of_captions(), CaptionOptions(["captions"]), "x")
    samples = make_samples(maker, random_pixels(3))
    collate = Collator(train_tokenizer(maker.corpus(), 300, 16), STRONG, [0.5] * 3, [0.5] * 3)
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


def test_phrases_around_class_names_are_captions(tmp_path):
    phrases = tmp_path / "mine.txt"
    phrases.write_text("a {} here\n\nthe {}\n")
    options = CaptionOptions(
        label_column="label",
        label_templates=[str(phrases), "zh"],
        label_names={"zh": ["猫", "狗"]},
        caption_sampling="each",
    )
    maker = CaptionMaker(rows_of_captions(), options, "x")
    rng = np.random.default_rng(0)
    drawn = [draw(maker, 1, rng) for _ in range(100)]
    # A name that is nothing but a number stays.
    assert {texts[0] for texts in drawn} == {"a n1 here", "the n1"}
    assert all("猫" in texts[1] for texts in drawn)
    assert maker.keys() == [1, 0, 1]
    assert maker.plain_texts()["mine"] == ["a b here", "a n1 here", "a b here"]
    assert {"狗", "b", "一张的照片。", "the "} <= set(maker.corpus())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
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


def test_captions_that_are_all_empty_and_phrases_without_a_place_are_refused(tmp_path):
    rows = Dataset.from_dict({"caption": ["", " "], "label": ["a", "b"]})
    with pytest.raises(DataError, match="every 'caption' of 'x' is empty"):
        CaptionMaker(rows, CaptionOptions(["caption"]), "x")
    (tmp_path / "bad.txt").write_text("a photo\n")
    with pytest.raises(DataError, match=r"'a photo' \(line 1 of '.*bad.txt'\) .* exactly one"):
        CaptionOptions(label_column="label", label_templates=[str(tmp_path / "bad.txt")])
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
