"""From arguments to the columns of the data and to a model."""

import pytest
from datasets import Dataset, DatasetDict
from transformers import AutoTokenizer

from modeling_clip_vit.data.captions import CaptionOptions
from modeling_clip_vit.data.columns import Columns
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.streaming.options import StreamOptions
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.datasets import check_memory, find_columns
from modeling_clip_vit.training.models import build_model, build_processor, load_model
from modeling_clip_vit.training.options import (
    DataOptions,
    LossOptions,
    ModelOptions,
    OptimizerOptions,
)
from modeling_clip_vit.training.restart import Restart
from modeling_clip_vit.training.tasks.contrastive import prepare
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY
from tests.support.models import small_model
from tests.support.pictures import draw_picture
from tests.support.runs import write_recipe

EMOJI = REPOSITORY / "configuration" / "model" / "emoji"


class Words:
    """A few captions, for a tokenizer to learn from."""

    def corpus(self):
        return ["a red square", "a blue circle", "红色的方块"]


def test_a_recipe_changes_fields_of_the_model():
    vision = {"pooling": "mean", "mlp_type": "glu", "hidden_act": "silu"}
    options = ModelOptions(
        str(EMOJI),
        model_fields={"logit_bias_init_value": -10.0},
        vision_fields=vision,
        text_fields={"num_hidden_layers": 3},
    )
    model, _ = build_model(options, Words())
    changed = model.config.vision_config
    assert {name: getattr(changed, name) for name in vision} == vision
    assert len(model.text_model.encoder.layers) == 3
    assert model.get_logit_bias().item() == -10
    assert changed.conv_stem_widths == [64, 128, 256]


def test_every_head_keeps_keys_of_its_own_unless_a_recipe_says_otherwise():
    heads = {"hidden_size": 96, "num_attention_heads": 6}
    for fields, keys in ((heads, 6), ({**heads, "num_key_value_heads": 2}, 2)):
        model, _ = build_model(ModelOptions(str(EMOJI), vision_fields=fields), Words())
        assert model.config.vision_config.num_key_value_heads == keys


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A tokenizer that reads 77 tokens, of other words than the captions."""
    train_tokenizer(["a green triangle", "a yellow star"] * 2, 270, 77).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_new_text_tower_takes_the_tokenizer_of_a_folder(tokenizer_folder):
    options = ModelOptions(str(EMOJI), tokenizer_name_or_path=tokenizer_folder)
    model, processor = build_model(options, Words())
    taken = AutoTokenizer.from_pretrained(tokenizer_folder)
    assert processor.tokenizer.get_vocab() == taken.get_vocab()
    config = model.config.text_config
    ids = (config.pad_token_id, config.bos_token_id, config.eos_token_id)
    assert ids == (taken.pad_token_id, taken.bos_token_id, taken.eos_token_id)
    assert config.vocab_size == len(taken) == len(model.text_model.get_input_embeddings().weight)


def test_a_tokenizer_that_is_taken_cuts_texts_at_the_length_of_the_tower(tokenizer_folder):
    options = ModelOptions(str(EMOJI), tokenizer_name_or_path=tokenizer_folder)
    model, processor = build_model(options, Words())
    ids = processor.tokenizer("star " * 100, truncation=True).input_ids
    assert len(ids) == model.config.text_config.max_position_embeddings == 20


def test_a_resumed_run_keeps_its_tokenizer(tokenizer_folder):
    kept = train_tokenizer(Words().corpus(), 262, 20)
    options = ModelOptions(str(EMOJI), tokenizer_name_or_path=tokenizer_folder)
    assert build_model(options, Words(), kept)[1].tokenizer is kept


def test_a_tokenizer_without_an_end_token_is_refused_where_the_tower_looks_for_one(tmp_path):
    tokenizer = train_tokenizer(Words().corpus(), 262, 20)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    fields = {"pooling": "eos"}
    options = ModelOptions(str(EMOJI), tokenizer_name_or_path=str(tmp_path), text_fields=fields)
    with pytest.raises(UserError, match="no end token behind a text"):
        build_model(options, Words())


def test_a_field_that_a_tower_does_not_have_is_refused_with_the_closest():
    with pytest.raises(ValueError, match=r"poling='mean' is not .*; did you mean pooling"):
        build_model(ModelOptions(str(EMOJI), vision_fields={"poling": "mean"}), Words())


def test_a_checkpoint_goes_on_with_other_dropouts_but_not_with_another_shape(tmp_path):
    _, processor = build_model(ModelOptions(str(EMOJI)), Words())
    model = small_model()
    model.save_pretrained(tmp_path)
    build_processor(processor.tokenizer, 32).save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(processor.tokenizer)
    again, _ = load_model(str(tmp_path), ModelOptions(vision_fields={"patch_dropout": 0.25}))
    assert again.vision_model.config.patch_dropout == 0.25
    more = ModelOptions(text_fields={"num_hidden_layers": 7})
    with pytest.raises(ValueError, match="lacks"):
        load_model(str(tmp_path), more)


def test_columns_that_are_found_are_returned_and_the_arguments_stay_as_they_were(
    tmp_path, color_dataset, linear_config
):
    fields = {"caption_columns": [], "tags_columns": {}, "evaluations": []}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **fields)
    args = parse_arguments(["--config", str(recipe)])
    before = args.to_flat_dict()
    columns = prepare(args).columns
    assert columns == Columns("image", ["caption_en", "caption_zh"], None)
    assert args.to_flat_dict() == before


@pytest.mark.parametrize(
    ("named", "kept", "expected"),
    [
        ({"image_column": "b"}, {"image_column": "c"}, Columns("b", ["text"], None)),
        ({}, {"image_column": "c"}, Columns("c", ["text"], None)),
        ({"caption_columns": ["a"]}, {"caption_columns": ["c"]}, Columns("image", ["a"], None)),
        ({"caption_columns": ["a"]}, {"label_column": "c"}, Columns("image", ["a"], None)),
        ({}, {"caption_columns": ["c"]}, Columns("image", ["c"], None)),
        ({}, {"label_column": "c"}, Columns("image", [], "c")),
        ({}, {}, Columns("image", ["text"], None)),
    ],
)
def test_a_column_is_as_named_or_else_as_kept_or_else_guessed(named, kept, expected):
    rows = Dataset.from_dict({"image": [{"bytes": b"", "path": None}], "text": ["one"]})
    data = DataOptions("x", image_column=named.pop("image_column", None))
    splits = DatasetDict(train=rows)
    assert find_columns(data, CaptionOptions(**named), StreamOptions(), splits, kept) == expected


def test_a_table_is_opened_by_the_image_column_that_was_kept(tmp_path, linear_config):
    for number in range(2):
        draw_picture("red", number).save(tmp_path / f"{number}.png")
    lines = [f"moved/{number}.png,{number}.png,text {number}" for number in range(2)]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(["file_name,image_path,caption", *lines]))
    args = TrainArguments(
        data=DataOptions(str(table), evaluations=[]),
        model=ModelOptions(str(linear_config)),
        optimizer=OptimizerOptions(per_device_train_batch_size=2),
    )
    # A new run takes the first of the two columns, whose files are not there.
    with pytest.raises(DataError, match=r"2 of 2 rows .* cannot be used"):
        prepare(args)
    preparation = prepare(args, Restart(recipe={"image_column": "image_path"}))
    assert (preparation.data.bad.count, preparation.data.num_rows) == (0, 2)


def test_options_that_do_not_fit_the_columns_are_rejected(tmp_path, linear_config):
    rows = {"image": [{"bytes": b"", "path": None}] * 2, "label": [0, 1]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "train.parquet")
    args = TrainArguments(
        data=DataOptions(str(tmp_path), evaluations=[]), loss=LossOptions(loss="clip")
    )
    with pytest.raises(UserError, match="loss='clip' is not allowed with label_column"):
        prepare(args)


#: A million images of 224 pixels are 150.5 GB.
MILLION = 1_000_000, 224


@pytest.mark.parametrize(("processes", "gigabytes"), [("1", "150.5"), ("8", "1204.2")])
def test_decoded_images_that_do_not_fit_into_memory_are_refused(monkeypatch, processes, gigabytes):
    """Each process on a machine decodes all of them."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    with pytest.raises(UserError, match=f"would take {gigabytes} GB .* set cache_images=false"):
        check_memory(*MILLION, free=10**11)


def test_decoded_images_that_fit_into_memory_are_kept(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    check_memory(*MILLION, free=2 * 10**12)
