"""The embedded emoji dataset: its files are as its card says."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

datasets = pytest.importorskip("datasets")

FOLDER = Path(__file__).resolve().parents[2] / "data" / "emoji"
CARDS = ("README.md", "README.zh-CN.md")
ARTISTS = ["noto", "twemoji", "fluent"]
CJK = re.compile(r"[\u4e00-\u9fff]")
GENDERS_AND_DIRECTIONS = {"200D", "2640", "2642", "27A1"}
MAN_AND_WOMAN = {"1F468", "1F469"}
PERSON = "1F9D1"


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """The dataset as a user loads it, from a cache of its own so that no older copy is tested."""
    return datasets.load_dataset(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def hexcodes(emoji):
    """The concepts of each split."""
    return {split: set(rows["hexcode"]) for split, rows in emoji.items()}


@pytest.fixture(params=CARDS)
def card(request):
    """The text of the dataset card, in one language at a time."""
    return (FOLDER / request.param).read_text(encoding="utf-8")


def labels(rows, column):
    """The names of a ClassLabel column, row by row."""
    return rows.features[column].int2str(rows[column])


def encoded_images(rows):
    """The images' bytes as they are stored."""
    stored = rows.cast_column("image", datasets.Image(decode=False))
    return [image["bytes"] for image in stored["image"]]


def without_gender(hexcode):
    """A hexcode in which man, woman and person, and both directions, are one."""
    parts = [part for part in hexcode.split("-") if part not in GENDERS_AND_DIRECTIONS]
    return "-".join(PERSON if part in MAN_AND_WOMAN else part for part in parts)


def test_splits_and_counts(emoji):
    counts = {split: rows.num_rows for split, rows in emoji.items()}
    assert counts == {"train": 3492, "validation": 1439, "test": 480}


def test_columns_and_types(emoji):
    features = emoji["train"].features
    text, texts = datasets.Value("string"), datasets.List(datasets.Value("string"))
    assert list(features) == [
        "image", "caption_en", "caption_zh", "tags_en", "tags_zh",
        "hexcode", "group", "subgroup", "artist",
    ]  # fmt: skip
    assert isinstance(features["image"], datasets.Image)
    assert features["caption_en"] == features["caption_zh"] == features["hexcode"] == text
    assert features["tags_en"] == features["tags_zh"] == texts
    assert features["artist"] == datasets.ClassLabel(names=ARTISTS)
    assert "smileys & emotion" in features["group"].names
    assert "face smiling" in features["subgroup"].names
    assert all(rows.features == features for rows in emoji.values())


def test_every_group_and_subgroup_has_rows(emoji):
    for column in ("group", "subgroup"):
        used = {name for rows in emoji.values() for name in labels(rows, column)}
        assert used == set(emoji["train"].features[column].names)


def test_artists_of_each_split(emoji, hexcodes):
    pairs = {
        split: Counter(zip(rows["hexcode"], labels(rows, "artist"), strict=True))
        for split, rows in emoji.items()
    }
    artists = {"train": ARTISTS[:2], "validation": ARTISTS[2:], "test": ARTISTS}
    for split, found in pairs.items():
        expected = {(hexcode, artist) for hexcode in hexcodes[split] for artist in artists[split]}
        assert found == dict.fromkeys(expected, 1)


def test_flags_are_in_train_only(emoji):
    flags = {split: labels(rows, "group").count("flags") for split, rows in emoji.items()}
    assert flags == {"train": 540, "validation": 0, "test": 0}


def test_held_out_concepts_are_in_no_other_split(hexcodes):
    assert not hexcodes["test"] & (hexcodes["train"] | hexcodes["validation"])
    assert hexcodes["validation"] < hexcodes["train"]


def test_held_out_pictures_are_in_no_other_split(emoji):
    seen = set(encoded_images(emoji["train"])) | set(encoded_images(emoji["validation"]))
    assert not seen & set(encoded_images(emoji["test"]))


def test_hexcodes_have_no_selector_and_no_skin_tone(hexcodes):
    unwanted = {"FE0F", "1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
    for hexcode in set().union(*hexcodes.values()):
        assert re.fullmatch(r"[0-9A-F]{4,6}(-[0-9A-F]{4,6})*", hexcode)
        assert not unwanted & set(hexcode.split("-"))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_every_image_is_webp_of_64_pixels_in_rgb(emoji, split):
    for image in emoji[split]["image"]:
        assert (image.format, image.size, image.mode) == ("WEBP", (64, 64), "RGB")
        image.load()


def test_images_are_on_white(emoji):
    for image in emoji["validation"]["image"]:
        corners = [image.getpixel((x, y)) for x in (0, 63) for y in (0, 63)]
        assert max(min(corner) for corner in corners) > 240


def test_no_image_is_blank(emoji):
    for image in emoji["validation"]["image"]:
        assert min(low for low, _ in image.getextrema()) < 230


@pytest.fixture(scope="module", params=["caption_en", "caption_zh"])
def captions_of_concepts(request, emoji):
    """Every pair of a concept and its caption in one language."""
    return {
        pair
        for rows in emoji.values()
        for pair in zip(rows["hexcode"], rows[request.param], strict=True)
    }


def test_a_caption_names_one_concept(captions_of_concepts):
    captions = {caption for _, caption in captions_of_concepts}
    assert len(captions_of_concepts) == len(captions) == 1906


def test_captions_have_no_spaces_around_them(captions_of_concepts):
    assert all(caption.strip() == caption != "" for _, caption in captions_of_concepts)


def test_chinese_captions_are_chinese(emoji):
    captions = {caption for rows in emoji.values() for caption in rows["caption_zh"]}
    assert {caption for caption in captions if not CJK.search(caption)} == {"OK", "DNA", "DVD"}


def test_tags_are_never_empty(emoji):
    for rows in emoji.values():
        for column in ("tags_en", "tags_zh"):
            assert all(tags and all(tags) for tags in rows[column])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_card_counts_rows_and_concepts_of_each_split(split, emoji, hexcodes, card):
    assert f"| `{split}` | {emoji[split].num_rows:,} | {len(hexcodes[split]):,} |" in card


def test_the_card_counts_concepts(hexcodes, card):
    assert f"{len(set().union(*hexcodes.values())):,}" in card


def test_the_card_counts_flags(emoji, card):
    assert str(labels(emoji["train"], "group").count("flags") // 2) in card


@pytest.mark.parametrize("column", ["group", "subgroup", "artist"])
def test_the_card_counts_classes(column, emoji, card):
    count = emoji["train"].features[column].num_classes
    assert re.search(rf"\| `{column}` \| `ClassLabel`[,，] ?{count} ", card)


def test_the_card_counts_queries_and_the_images_that_they_search(emoji, hexcodes, card):
    first, second = [line for line in card.splitlines() if re.match(r"\| (new|新)[^|]*\|", line)]
    gallery = labels(emoji["test"], "artist").count("fluent") + emoji["validation"].num_rows
    assert first.count(f"{len(hexcodes['validation']):,}") == 2
    assert f"{len(hexcodes['test']):,}" in second
    assert f"{gallery:,}" in second


def test_number_of_variants_in_the_card_is_the_real_one(hexcodes, card):
    trained = {without_gender(hexcode) for hexcode in hexcodes["train"]}
    variants = sum(without_gender(hexcode) in trained for hexcode in hexcodes["test"])
    sentences = [
        f"true of {variants} of the {len(hexcodes['test'])}\nheld-out concepts",
        f"{len(hexcodes['test'])} 个留出概念中有 {variants} 个",
    ]
    assert any(sentence in card for sentence in sentences)


def test_the_cards_front_matter_names_the_licences_and_languages():
    from huggingface_hub import DatasetCard

    data = DatasetCard.load(FOLDER / "README.md").data
    assert data.license == ["apache-2.0", "cc-by-4.0", "mit"]
    assert data.language == ["en", "zh"]


@pytest.mark.parametrize("name", [*CARDS, "LICENSES.md"])
def test_every_licence_is_attributed(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    for owner in (
        "Google LLC", "Twitter, Inc and other contributors", "Microsoft Corporation", "LobeHub",
        "Miles Johnson", "Cal Henderson", "Unicode, Inc.",
    ):  # fmt: skip
        assert owner in text
    assert "https://creativecommons.org/licenses/by/4.0/" in text


def test_apache_licence_is_there_in_full():
    text = (FOLDER / "licenses" / "Apache-2.0.txt").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_build_refuses_a_tampered_package_in_one_sentence(tmp_path):
    archive = tmp_path / "emoji-datasource-google-16.0.0.tgz"
    archive.write_bytes(b"not the package")
    output = tmp_path / "output"
    result = subprocess.run(
        [sys.executable, FOLDER / "build.py", "--packages", tmp_path, "--output", output],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    message = result.stderr.strip().splitlines()
    assert len(message) == 1
    assert message[0].startswith("error: ")
    assert str(archive) in message[0]
    assert "Traceback" not in result.stderr
    assert not output.exists()
