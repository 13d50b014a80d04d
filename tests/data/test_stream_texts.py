"""The texts and concepts of the samples of a stream."""

import json
from collections import Counter

import pytest
from datasets import Dataset

from modeling_clip_vit.data.captions import CaptionOptions, stable_number
from modeling_clip_vit.data.rows import Sample
from modeling_clip_vit.data.streaming.captions import StreamCaptions
from modeling_clip_vit.data.streaming.options import StreamOptions
from tests.support.stream_files import (
    caption_of,
    make_collator,
    make_loader,
    noisy_image,
    order_of,
    write_tar,
)


@pytest.fixture
def animals(tmp_path):
    """Makes the batch of a cat without a kind, a dog and a cat."""
    files = {}
    for number, caption in enumerate(["a cat", "a dog", "a cat"]):
        files[f"{number}.png"] = noisy_image(number)
        files[f"{number}.txt"] = caption.encode()
        files[f"{number}.json"] = json.dumps({"kind": "animal" if number else None}).encode()
    write_tar(tmp_path / "a.tar", files)

    def make(concept: str | None = None) -> dict:
        options = {"collate": make_collator(), "shuffle_buffer_size": 0, "concept": concept}
        [batch] = make_loader([tmp_path], **options)
        return batch

    return make


def test_equal_captions_are_positives_of_each_other(animals):
    batch = animals()
    cat, dog = stable_number("a cat"), stable_number("a dog")
    assert batch["image_ids"].tolist() == [cat, dog, cat]
    assert batch["text_ids"].tolist() == [cat, dog]
    assert batch["first_views"].tolist() == [0, 1]
    assert batch["other_views"].tolist() == [2]


def test_equal_concepts_are_positives_of_each_other(animals):
    animal = stable_number('"animal"')
    assert animals("kind")["image_ids"].tolist()[1:] == [animal, animal]


def test_a_row_without_a_concept_stands_for_itself(animals):
    missing, *others = animals("kind")["image_ids"].tolist()
    assert missing not in (*others, stable_number("a cat"))


@pytest.fixture
def captions_of_epoch(tmp_path):
    """Makes the numbers of the captions drawn in an epoch, of five of each of eight rows."""
    captions = [[caption_of(10 * row + n) for n in range(5)] for row in range(8)]
    images = [{"bytes": noisy_image(row), "path": None} for row in range(8)]
    Dataset.from_dict({"image": images, "caption": captions}).to_parquet(tmp_path / "a.parquet")
    return lambda epoch: sorted(order_of(tmp_path, epoch))


def test_one_of_several_captions_of_each_row_is_drawn(captions_of_epoch):
    assert [number // 10 for number in captions_of_epoch(0)] == list(range(8))


def test_each_epoch_draws_captions_anew(captions_of_epoch):
    assert len({tuple(captions_of_epoch(epoch)) for epoch in range(6)}) == 6


def test_an_epoch_draws_the_same_captions_again(captions_of_epoch):
    assert captions_of_epoch(3) == captions_of_epoch(3)


VARIED = CaptionOptions(
    caption_columns=["caption_en", "caption_zh"],
    caption_sampling="each",
    tags_columns={"caption_en": "tags_en"},
    tag_probability=1.0,
    templates={"caption_zh": ["看{}"]},
    template_probability=1.0,
)


@pytest.fixture(scope="module")
def varied_batch(color_dataset) -> list[Sample]:
    """Samples with a text of each of two columns, one with tags, the other in a template."""
    [batch] = make_loader([color_dataset], captions=VARIED, concept="key", batch_size=16)
    return batch


def test_a_column_with_tags_carries_them(varied_batch):
    assert all(", " in sample.texts[0] for sample in varied_batch)


def test_a_column_with_templates_is_put_into_them(varied_batch):
    assert {sample.texts[1][:1] for sample in varied_batch} == {"看"}


def test_rows_of_one_concept_are_positives_of_each_other(varied_batch):
    assert sorted(Counter(sample.concept for sample in varied_batch).values()) == [2] * 8


def test_a_tokenizer_learns_captions_tags_and_templates(color_dataset):
    stream = StreamOptions([str(color_dataset)])
    corpus = StreamCaptions(stream, "train", VARIED).corpus()
    assert {"看", "a red square", "红色方块", "square"} <= set(corpus)


def test_a_tokenizer_learns_from_the_first_rows_of_a_stream(color_dataset):
    stream = StreamOptions([str(color_dataset)])
    few = StreamCaptions(stream, "train", CaptionOptions(["caption_en"]), count=3).corpus()
    assert len(few) == 3
