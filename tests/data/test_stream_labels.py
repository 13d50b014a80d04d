"""Streams whose texts are class names in phrases, and whose images are paths or base64."""

import base64
import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from modeling_clip_vit.data.captions import CaptionOptions, stable_number
from modeling_clip_vit.data.columns import choose_texts
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.rows import Sample, SkippedSample
from modeling_clip_vit.data.sources import open_shards, peek_kinds
from modeling_clip_vit.data.streaming.captions import StreamCaptions, find_class_names
from modeling_clip_vit.data.streaming.options import StreamOptions
from tests.support.stream_files import make_loader, noisy_image, write_tar

NAMES = ["sea_lion", "red panda", "fox"]
CHINESE = ["海狮", "小熊猫", "狐狸"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Two parquet files of images with a class each; the last row has none."""
    folder = tmp_path_factory.mktemp("labelled")
    features = Features({"image": Image(), "label": ClassLabel(names=NAMES)})
    for shard, labels in enumerate(([0, 1, 2], [2, 1, None])):
        images = [{"bytes": noisy_image(10 * shard + row), "path": None} for row in range(3)]
        rows = Dataset.from_dict({"image": images, "label": labels}, features=features)
        rows.to_parquet(folder / f"train-{shard}.parquet")
    return folder


def by_kind(loader) -> tuple[list[Sample], list[SkippedSample]]:
    """The samples of all batches, and what was skipped."""
    samples = [sample for batch in loader for sample in batch]
    good = [sample for sample in samples if isinstance(sample, Sample)]
    return good, [sample for sample in samples if isinstance(sample, SkippedSample)]


def options(**fields) -> CaptionOptions:
    return CaptionOptions(
        label_column="label", label_templates=["en", "zh"], caption_sampling="each", **fields
    )


@pytest.fixture(scope="module")
def read_labelled(labelled):
    """The samples of those files with texts in two languages, and what was skipped."""
    captions = options(label_names={"zh": CHINESE})
    return by_kind(make_loader([labelled], captions=captions, class_names=NAMES))


def test_classes_come_in_the_templates_of_each_language(read_labelled):
    samples, _ = read_labelled
    names = {name.replace("_", " "): chinese for name, chinese in zip(NAMES, CHINESE, strict=True)}
    seen = set()
    for english, chinese in (sample.texts for sample in samples):
        [name] = [name for name in names if name in english]
        assert names[name] in chinese
        seen.add(name)
    assert seen == set(names)


def test_rows_of_one_class_are_of_one_concept(read_labelled):
    samples, _ = read_labelled
    concepts = Counter(sample.concept for sample in samples)
    numbers = (stable_number(json.dumps(name)) for name in NAMES)
    assert concepts == dict(zip(numbers, (1, 2, 2), strict=True))


def test_a_row_without_a_class_is_skipped_and_named(read_labelled):
    _, skipped = read_labelled
    assert skipped == [SkippedSample("train-1.parquet, row 2", "its 'label' is empty")]


@pytest.fixture(scope="module")
def stream(labelled) -> StreamOptions:
    return StreamOptions([str(labelled)])


def test_a_source_names_its_classes(stream):
    assert find_class_names(stream, "train", "label") == NAMES


def test_a_tokenizer_learns_the_class_names_of_each_language(stream):
    texts = StreamCaptions(stream, "train", options(label_names={"zh": CHINESE}))
    assert {"sea lion", "red panda", "fox", *CHINESE} <= set(texts.corpus())


def test_texts_of_a_stream_of_classes_are_made_of_the_classes(labelled):
    kinds = peek_kinds(open_shards(str(labelled), "train"))
    assert choose_texts(kinds, "image", str(labelled)) == ([], "label")


def test_another_number_of_class_names_is_rejected(stream):
    with pytest.raises(DataError, match="label_names has 2 names for 'zh', but 'label' has 3"):
        StreamCaptions(stream, "train", options(label_names={"zh": CHINESE[:2]}))


@pytest.fixture
def tar_of_classes(tmp_path) -> Path:
    """A tar whose classes are a number, a number, one too large, nothing, a name, and missing."""
    files = {}
    for number, text in enumerate(["0", "2", "7", "", "fox"]):
        files[f"{number}.png"], files[f"{number}.cls"] = noisy_image(number), text.encode()
    files["5.png"] = noisy_image(5)
    write_tar(tmp_path / "a.tar", files)
    return tmp_path


def test_numbers_in_a_tar_are_classes_of_label_names(tar_of_classes):
    captions = CaptionOptions(
        label_column="cls", label_templates=["plain"], label_names={"plain": NAMES}
    )
    samples, skipped = by_kind(make_loader([tar_of_classes], captions=captions))
    assert sorted(sample.texts[0] for sample in samples) == ["fox", "sea_lion"]
    unnamed = "which label_names has no name for: 'plain' has 3"
    assert {sample.name: sample.reason for sample in skipped} == {
        "a.tar, 2": f"its 'cls' is '7', {unnamed}",
        "a.tar, 3": "its 'cls' is empty",
        "a.tar, 4": f"its 'cls' is 'fox', {unnamed}",
        "a.tar, 5": "its 'cls' is missing: it has image, png",
    }


def test_without_label_names_the_classes_of_a_tar_are_their_names(tar_of_classes):
    captions = CaptionOptions(label_column="cls", label_templates=["plain"])
    samples, _ = by_kind(make_loader([tar_of_classes], captions=captions))
    assert sorted(sample.texts[0] for sample in samples) == ["0", "2", "7", "fox"]


@pytest.fixture(params=["path", "base64"])
def table_of_texts(request, tmp_path) -> Path:
    """Rows whose images are paths or base64; the last one's is missing."""
    (tmp_path / "pictures").mkdir()
    lines = []
    for number in range(4):
        content = noisy_image(number)
        path = f"pictures/{number}.png"
        (tmp_path / path).write_bytes(content)
        image = path if request.param == "path" else base64.b64encode(content).decode()
        lines.append(json.dumps({"image": image, "caption": f"sample {number}"}))
    lines.append(json.dumps({"image": "pictures/none.png", "caption": "sample 4"}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    return tmp_path / "train.jsonl"


def test_texts_in_the_place_of_images_are_paths_beside_the_table_or_base64(table_of_texts):
    samples, _ = by_kind(make_loader([table_of_texts]))
    assert sorted(sample.texts[0] for sample in samples) == [f"sample {n}" for n in range(4)]


def test_a_missing_file_is_skipped_and_named(table_of_texts):
    _, [skipped] = by_kind(make_loader([table_of_texts]))
    assert skipped.name == "train.jsonl, row 4"
    assert "none.png" in skipped.reason
