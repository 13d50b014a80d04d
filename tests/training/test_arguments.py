"""The command line: recipes, overrides and refusals."""

import pytest
import yaml

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.command import parse_arguments
from tests.support import REPOSITORY

EMOJI = REPOSITORY / "configuration" / "train" / "emoji.yaml"


def test_a_recipe_sets_fields_and_the_command_line_overrides_them():
    args = parse_arguments(["--config", str(EMOJI), "--max_steps", "7", "--caption_sampling=one"])
    recipe = yaml.safe_load(EMOJI.read_text())
    flat = args.to_flat_dict()
    assert flat["max_steps"] == 7
    assert flat["caption_sampling"] == "one"
    for name, value in recipe.items():
        if name not in ("max_steps", "caption_sampling"):
            assert flat[name] == value, name


def test_the_default_recipe_is_used_where_none_is_given(tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("dataset: elsewhere\n")
    assert parse_arguments([], EMOJI).data.concept_column == "hexcode"
    args = parse_arguments(["--config", str(other)], EMOJI)
    assert (args.data.dataset, args.data.concept_column) == ("elsewhere", None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--learning_rat", "0.1"], "Did you mean learning_rate"),
        (["--optim", "triplet"], "triplet"),
        (["--max_steps", "many"], "max_steps"),
    ],
)
def test_misspelt_fields_and_values_are_refused(arguments, expected, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_a_misspelt_option_is_answered_with_the_closest_and_no_others(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--weight_decai", "0.1"])
    message = capsys.readouterr().err
    assert message.endswith("Did you mean weight_decay? --help lists all options\n")


def test_an_option_that_is_like_no_other_leads_to_the_help(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--zzzzqqq", "0.1"])
    message = capsys.readouterr().err
    assert message == "error: unrecognized arguments: --zzzzqqq 0.1. --help lists all options\n"


def test_a_misspelt_field_in_a_recipe_is_refused_and_the_closest_named(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rat: 0.1\n")
    with pytest.raises(SystemExit):
        parse_arguments(["--config", str(recipe)])
    message = capsys.readouterr().err
    assert "learning_rat" in message
    assert "Did you mean learning_rate" in message
    assert "--help lists all options" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--per_device_train_batch_size", "1"], "a batch of one has nothing to contrast"),
        (
            ["--per_device_train_batch_size", "9", "--images_per_concept", "2"],
            "multiple of images_per_concept=2",
        ),
        (["--loss", "clip", "--images_per_concept", "2"], "use multi_positive"),
        (["--config", "emoji", "--loss", "clip"], "pairs each image with one text: use 'one'"),
        (["--push_to_hub", "true"], "push_to_hub needs hub_model_id"),
        (
            ["--tokenizer_name_or_path", "a", "--text_model_name_or_path", "b"],
            "tokenizer_name_or_path='a' is not allowed with text_model_name_or_path",
        ),
        (
            ["--tokenizer_name_or_path", "a", "--model_name_or_path", "b"],
            "tokenizer_name_or_path='a' is not allowed with model_name_or_path",
        ),
        (["--warmup_ratio", "1.5"], "warmup_ratio=1.5 is not allowed: it must be from 0 to 1"),
        (["--max_image_tokens", "64"], "not allowed without image_seq_lens"),
        (
            ["--image_seq_lens", "[64,128]", "--max_image_tokens", "200"],
            "2 of 128 patches are 256",
        ),
        (["--image_seq_lens", "[0]"], "image_seq_lens=[0] is not allowed"),
        (["--image_seq_lens", "[64]", "--mixup_probability", "0.1"], "cannot be mixed"),
        (["--image_seq_lens", "[64]", "--save_as", "[timm]"], "cut out squares"),
        (["--config", "nowhere.yaml"], "no recipe 'nowhere.yaml'"),
        (["--dataset", "./nowhere"], "no folder './nowhere'"),
    ],
)
def test_values_that_do_not_go_together_end_in_one_sentence(arguments, expected, capsys):
    assert main(["train", *arguments]) == 1
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1


def test_help_documents_every_field(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in parse_arguments([]).to_flat_dict():
        assert f"--{name}" in text, name
    for sentence in (
        "peak learning rate of Muon",
        "maximum rotation in degrees",
        "how often keywords are appended",
        "a ready-made one by name",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--per_device_train_batch_size", "1"], "a batch of one has nothing to contrast"),
        (["--lr_scheduler_type", "cosign"], "lr_scheduler_type=cosign .* cosine"),
        (["--view_loss_weight", "0.5"], "no other view to contrast"),
        (["--label_smoothing", "1"], "label_smoothing=1.* below 1"),
        (
            ["--gradient_cache_batch_size", "8", "--gradient_accumulation_steps", "2"],
            "gradient_accumulation_steps=2 is not allowed with gradient_cache_batch_size",
        ),
        (["--stream_sources", "[a]"], "needs samples_per_epoch or max_steps"),
        (["--stream_sources", "[a]", "--max_steps", "9", "--loss", "clip"], "use multi_positive"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        parse_arguments(arguments)


def test_the_printed_options_are_a_recipe_of_the_same_run(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--print_config"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(capsys.readouterr().out, encoding="utf-8")
    assert parse_arguments(["--config", str(recipe)]) == parse_arguments([])
