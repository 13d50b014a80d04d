"""Sources that are added to the table, and what tables and streams have in common."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset

from modeling_clip_vit.data import sources
from modeling_clip_vit.data.captions import CaptionMaker, CaptionOptions
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.policies import SampleAugment
from modeling_clip_vit.data.rows import Row, Sample, SkippedSample
from modeling_clip_vit.data.samples import SampleMaker
from modeling_clip_vit.data.sources import RowSource, get_problems, open_dataset, open_shards
from modeling_clip_vit.data.streaming.captions import StreamCaptions, StreamTexts
from modeling_clip_vit.data.streaming.options import StreamOptions
from modeling_clip_vit.data.transforms import AugmentOptions
from tests.support.stream_files import make_loader, noisy_image

CLASSES = ["odd", "even"]


class ArraySource(RowSource):
    """NumPy files of image seeds, one per shard; a negative number cannot be read."""

    def __init__(self, path: str, files: dict[str, list[Path]]):
        super().__init__(path, files)
        self.class_names = {"label": CLASSES}

    def read(self, shard, wanted):
        for number, seed in enumerate(np.load(shard).tolist()):
            if not wanted(number):
                continue
            name = f"{shard.name}, row {number}"
            if seed < 0:
                yield number, SkippedSample(name, "it is negative")
                continue
            columns = {"image": noisy_image(seed), "caption": f"sample {seed}"}
            yield number, Row(name, {**columns, "label": CLASSES[seed % 2 == 0]})


def open_arrays(path: str, image_column: str | None) -> ArraySource | None:
    files = sorted(Path(path).glob("*.npy"))
    return ArraySource(path, {"train": files}) if files else None


@pytest.fixture
def arrays(tmp_path, monkeypatch) -> str:
    """A folder that only the added source can read."""
    monkeypatch.setattr(sources, "SOURCES", [open_arrays, *sources.SOURCES])
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "a.npy", np.arange(5))
    np.save(folder / "b.npy", np.array([5, -1, 6]))
    return str(folder)


def test_an_added_source_has_random_access(arrays):
    rows = open_dataset(arrays)["train"]
    assert rows["caption"] == [f"sample {number}" for number in range(7)]
    assert rows[5]["image"]["bytes"] == noisy_image(5)


def test_an_added_source_gives_the_names_of_its_classes_to_tables(arrays):
    rows = open_dataset(arrays)["train"]
    assert rows.features["label"] == ClassLabel(names=CLASSES)
    assert rows["label"] == [1, 0, 1, 0, 1, 0, 1]


def test_rows_that_an_added_source_cannot_read_are_named(arrays, caplog):
    with caplog.at_level(logging.WARNING):
        splits = open_dataset(arrays)
    assert get_problems(splits, "train") == [SkippedSample("b.npy, row 1", "it is negative")]
    assert "skipped b.npy, row 1: it is negative" in caplog.text


def test_an_added_source_streams(arrays):
    loader = make_loader([arrays], batch_size=2, shuffle_buffer_size=3)
    samples = [sample for batch in loader for sample in batch]
    texts = sorted(sample.texts[0] for sample in samples if isinstance(sample, Sample))
    assert texts == [f"sample {number}" for number in range(7)]


def test_a_stream_of_an_added_source_resumes_exactly(arrays):
    def captions(loader) -> list[str]:
        batches = list(loader)
        return [s.texts[0] for batch in batches for s in batch if isinstance(s, Sample)]

    first = make_loader([arrays], batch_size=2, shuffle_buffer_size=3)
    reading = iter(first)
    begun = [s.texts[0] for s in next(reading) if isinstance(s, Sample)]
    resumed = make_loader([arrays], batch_size=2, shuffle_buffer_size=3)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    whole = captions(make_loader([arrays], batch_size=2, shuffle_buffer_size=3))
    assert begun + captions(resumed) == whole


def test_the_table_of_an_added_source_follows_its_files(arrays):
    assert len(open_dataset(arrays)["train"]) == 7
    np.save(Path(arrays) / "a.npy", np.arange(10, 12))
    os.utime(Path(arrays) / "a.npy", (0, 0))
    captions = open_dataset(arrays)["train"]["caption"]
    assert captions == ["sample 10", "sample 11", "sample 5", "sample 6"]


def test_an_added_source_leaves_other_paths_to_the_others(arrays, tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption\n1.png,one\n")
    assert open_dataset(str(tmp_path / "pairs.csv"))["train"]["caption"] == ["one"]


def test_a_missing_split_of_an_added_source_is_rejected(arrays):
    with pytest.raises(DataError, match="has no split 'test': it has train"):
        open_shards(arrays, "test")


def test_a_url_is_a_stream_and_no_table():
    with pytest.raises(DataError, match=r"can only be streamed: name it in stream_sources"):
        open_dataset("memory://bucket/pairs.parquet")


def test_captions_next_to_metadata_are_learned_from(tmp_path):
    (tmp_path / "1.png").write_bytes(noisy_image(1))
    (tmp_path / "metadata.csv").write_text("file_name,caption\n1.png,a red square\n")
    options = StreamOptions([str(tmp_path)])
    captions = StreamCaptions(options, "train", CaptionOptions(["caption"]))
    assert captions.corpus() == ["a red square"]


@pytest.mark.parametrize("sampling", ["one", "each"])
def test_a_row_makes_the_same_sample_in_a_table_and_in_a_stream(sampling):
    columns = {"caption": ["a dog", "a brown dog"], "tags": ["dog", "brown"], "label": "dog"}
    options = CaptionOptions(
        ["caption"],
        caption_sampling=sampling,
        tags_columns={"caption": "tags"},
        tag_probability=0.5,
        templates={"caption": ["a photo of {}"]},
        template_probability=0.5,
        label_column="label",
        label_templates=["en", "zh"],
    )
    augment = SampleAugment(AugmentOptions(crop_scale=[0.3, 0.9], policy="randaugment"), 16)
    table = CaptionMaker(Dataset.from_list([columns]), options, "x")
    row = Row("row 0", {"image": noisy_image(3, size=40), **columns})
    for draw in range(20):
        one, other = (
            SampleMaker("image", texts, augment, 7, "label").make(row, draw, 0)
            for texts in (table, StreamTexts(options, ["dog"]))
        )
        assert one.texts == other.texts
        assert (one.concept, one.seed) == (other.concept, other.seed)
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.noise, other.noise)
