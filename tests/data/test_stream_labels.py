"""Streams whose texts are class names in phrases, and whose images are paths or base64."""

import base64
import json

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from modeling_clip_vit.data.captions import CaptionOptions, stable_number
from modeling_clip_vit.data.columns import choose_texts
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.rows import Sample, SkippedSample
from modeling_clip_vit.data.sources import open_shards, peek_kinds
from modeling_clip_vit.data.streaming.captions import StreamCaptions, find_class_names
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


def test_classes_of_parquet_come_in_the_phrases_of_each_language(labelled):
    captions = options(label_names={"zh": CHINESE})
    loader = make_loader([labelled], captions=captions, class_names=NAMES)
    samples, skipped = by_kind(loader)
    assert len(samples) == 5
    names = [name.replace("_", " ") for name in NAMES]
    seen = {}
    for sample in samples:
        english, chinese = sample.texts
        (place,) = [place for place, name in enumerate(names) if name in english]
        assert CHINESE[place] in chinese
        assert seen.setdefault(place, sample.concept) == sample.concept
        assert sample.concept == stable_number(json.dumps(NAMES[place]))
    assert len(seen) == 3
    [none] = skipped
    assert none.name == "train-1.parquet, row 2"
    assert none.reason == "its 'label' is empty"

    texts = StreamCaptions(loader.options, "train", captions)
    assert texts.classes == NAMES == find_class_names(loader.options, "train", "label")
    assert {*names, *CHINESE} <= set(texts.corpus())
    kinds = peek_kinds(open_shards(str(labelled), "train"))
    assert choose_texts(kinds, "image", str(labelled)) == ([], "label")
    with pytest.raises(DataError, match="label_names has 2 names for 'zh', but 'label' has 3"):
        StreamCaptions(loader.options, "train", options(label_names={"zh": CHINESE[:2]}))


def test_classes_of_tars_are_numbers_or_names(tmp_path):
    files = {}
    for number, said in enumerate(["0", "2", "7", "", "fox"]):
        files[f"{number}.png"], files[f"{number}.cls"] = noisy_image(number), said.encode()
    files["5.png"] = noisy_image(5)
    write_tar(tmp_path / "a.tar", files)
    captions = CaptionOptions(
        label_column="cls", label_templates=["plain"], label_names={"plain": NAMES}
    )
    loader = make_loader([tmp_path], captions=captions)
    samples, skipped = by_kind(loader)
    assert sorted(sample.texts[0] for sample in samples) == ["fox", "sea_lion"]
    told = "which label_names has no name for: 'plain' has 3"
    assert {sample.name: sample.reason for sample in skipped} == {
        "a.tar, 2": f"its 'cls' is '7', {told}",
        "a.tar, 3": "its 'cls' is empty",
        "a.tar, 4": f"its 'cls' is 'fox', {told}",
        "a.tar, 5": "its 'cls' is missing: it has image, png",
    }
    # Without names, what stands there is the name.
    loader = make_loader([tmp_path], captions=CaptionOptions(label_column="cls"))
    assert len(by_kind(loader)[0]) == 4


@pytest.mark.parametrize("kind", ["path", "base64"])
def test_texts_in_the_place_of_images_are_paths_beside_the_table_or_base64(kind, tmp_path):
    (tmp_path / "pictures").mkdir()
    lines = []
    for number in range(4):
        content = noisy_image(number)
        (tmp_path / "pictures" / f"{number}.png").write_bytes(content)
        told = f"pictures/{number}.png" if kind == "path" else base64.b64encode(content).decode()
        lines.append(json.dumps({"image": told, "caption": f"sample {number}"}))
    lines.append(json.dumps({"image": "pictures/none.png", "caption": "sample 4"}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    samples, skipped = by_kind(make_loader([tmp_path / "train.jsonl"]))
    assert sorted(sample.texts[0] for sample in samples) == [f"sample {n}" for n in range(4)]
    assert "none.png" in skipped[0].reason
    assert skipped[0].name == "train.jsonl, row 4"
