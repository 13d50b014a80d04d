"""What a recipe lists in `evaluations` is what the command measures of the finished model."""

import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.evaluation.dataset import filter_rows
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.utils.errors import UserError
from tests.support.models import VISION
from tests.support.pictures import COLORS, draw_picture
from tests.support.runs import train, write_recipe

EVALUATIONS = [
    {
        "split": "validation",
        "tasks": ["retrieval", "zero_shot", "knn"],
        "label_columns": ["kind"],
    },
    {
        "name": "warm",
        "split": "validation",
        "filter": {"kind": "warm"},
        "gallery_splits": ["train"],
        "only_at_end": True,
    },
]


def measure(checkpoint, dataset, folder, *arguments: str) -> dict[str, float]:
    """What the command measures."""
    command = ["evaluate", str(checkpoint), "--dataset", str(dataset), "--output_dir", str(folder)]
    assert main([*command, "--num_workers", "0", *arguments]) == 0
    return json.loads((folder / "metrics.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, color_dataset, linear_config):
    """The output folder of a run of a few updates."""
    folder = tmp_path_factory.mktemp("finished")
    fields = {"max_steps": 4, "eval_steps": 2, "save_steps": 0, "report_to": "none"}
    recipe = write_recipe(folder, color_dataset, linear_config, evaluations=EVALUATIONS, **fields)
    train(recipe)
    return folder / "out"


@pytest.fixture(scope="module")
def trained(finished) -> dict[str, float]:
    """The metrics of that run."""
    return json.loads((finished / "metrics.json").read_text())["metrics"]


def test_the_command_measures_what_the_run_measured(finished, trained, color_dataset, tmp_path):
    arguments = ["--tasks", "retrieval", "zero_shot", "knn", "--concept_column", "key"]
    command = measure(finished, color_dataset, tmp_path, *arguments)
    run = {
        name.removeprefix("validation/").removeprefix("retrieval/"): value
        for name, value in trained.items()
        if name.startswith("validation/")
    }
    assert {name.removeprefix("retrieval/"): value for name, value in command.items()} == (
        pytest.approx(run, abs=1e-6)
    )


@pytest.fixture(scope="module")
def narrow(finished, color_dataset, tmp_path_factory) -> dict[str, float]:
    """What the command measures of the texts of a filtered split among the images of another."""
    arguments = ["--tasks", "retrieval", "--concept_column", "key"]
    arguments += ["--filter", "{kind: warm}", "--gallery_splits", "[train]"]
    return measure(finished, color_dataset, tmp_path_factory.mktemp("narrow"), *arguments)


def test_a_filtered_split_is_measured_by_the_command_as_by_the_run(narrow, trained):
    prefix = "warm/"
    run = {f"retrieval/{k[len(prefix) :]}": v for k, v in trained.items() if k.startswith(prefix)}
    assert narrow == pytest.approx(run, abs=1e-6)


def test_with_other_images_in_the_gallery_only_texts_search(narrow):
    assert not any("image_to_text" in name for name in narrow)


def test_distractors_make_the_search_harder(finished, color_dataset, tmp_path):
    arguments = ["--tasks", "retrieval", "--filter", "{kind: warm}"]
    alone = measure(finished, color_dataset, tmp_path / "alone", *arguments)
    more = measure(
        finished, color_dataset, tmp_path / "more", *arguments, "--gallery_splits", "[train]"
    )
    # Without a concept column, only its own image is correct, and 16 others look like it.
    rank = "retrieval/caption_en/text_to_image/median_rank"
    assert more[rank] > alone[rank]


def test_what_is_for_the_end_is_not_evaluated_on_the_way(finished):
    lines = [json.loads(line) for line in (finished / "training_log.jsonl").open()]
    steps = {
        line["step"]: {name.split("/")[0] for name in line}
        for line in lines
        if any(name.startswith("validation/") for name in line)
    }
    assert "warm" not in steps[2]
    assert "warm" in steps[4]


@pytest.mark.parametrize(
    "words",
    [
        "- `validation` (not seen in training).",
        "- `warm`: split `validation` where `kind` is warm (not seen in training)",
        "texts search among its images and those of `train`.",
        "R@1, caption_en, text to image, warm",
    ],
)
def test_the_card_says_what_each_evaluation_is(words, finished):
    assert words in (finished / "README.md").read_text()


def test_a_run_is_evaluated_on_another_dataset(
    tmp_path, color_dataset, labelled_colors_elsewhere, linear_config
):
    other = {
        "name": "other",
        "dataset": str(labelled_colors_elsewhere),
        "split": "test",
        "tasks": ["zero_shot"],
    }
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, evaluations=[other], max_steps=1, report_to="none"
    )
    train(recipe, "--save_steps", "0")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    command = measure(
        tmp_path / "out",
        labelled_colors_elsewhere,
        tmp_path / "command",
        *("--split", "test", "--tasks", "zero_shot"),
    )
    assert metrics["other/zero_shot/label/accuracy"] == command["zero_shot/label/accuracy"]


@pytest.fixture(scope="module")
def labelled_colors_elsewhere(tmp_path_factory):
    """A dataset with other columns: classes alone."""
    folder = tmp_path_factory.mktemp("elsewhere")
    features = Features({"img": Image(), "label": ClassLabel(names=list(COLORS))})
    for split in ("train", "test"):
        rows = [{"img": draw_picture(color, 7 * n), "label": n} for n, color in enumerate(COLORS)]
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_classifier_is_evaluated_by_the_command_as_by_its_run(
    tmp_path, labelled_colors_elsewhere
):
    config = {**VISION, "model_type": "clip_vit_vision_model", "pooling": "mean"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fields = {"task": "classification", "dataset": str(labelled_colors_elsewhere), "max_steps": 2}
    fields |= {"evaluations": "[{split: test}]", "per_device_train_batch_size": 8, "save_steps": 0}
    fields |= {"model_config": str(tmp_path), "output_dir": str(tmp_path / "out")}
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    assert main(["train", *words, "--report_to", "none"]) == 0
    run = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    command = measure(
        tmp_path / "out", labelled_colors_elsewhere, tmp_path / "command", "--split", "test"
    )
    assert command == pytest.approx(
        {name.replace("test/", "classification/"): value for name, value in run.items()}
    )
    assert "classification/top1_accuracy" in command


def test_two_evaluations_of_one_name_are_rejected():
    with pytest.raises(UserError, match="two entries called 'validation'"):
        parse_arguments(["--evaluations", "[{split: validation}, {split: validation}]"])


@pytest.mark.parametrize("in_recipe", [False, True])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("eval_split", "test"),
        ("zero_shot_columns", "[label]"),
        ("zero_shot_templates", "[en]"),
        ("new_concepts_split", "test"),
        ("new_concepts_filter", "{a: b}"),
    ],
)
def test_a_former_option_says_what_replaced_it(option, value, in_recipe, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{option}: {value}\n")
    arguments = ["--config", str(recipe)] if in_recipe else [f"--{option}", value]
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    message = capsys.readouterr().err
    assert message.startswith(f"error: {option} is now ")
    assert "evaluations" in message
    assert message.count("\n") == 1


def test_the_former_option_of_the_command_says_what_replaced_it(checkpoint, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", str(checkpoint), "--dataset", "x", "--label_column", "kind"])
    assert "label_column is now label_columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("{kind: mild}", "leaves no row"),
        ("{color: red}", "has no column 'color'"),
    ],
)
def test_a_filter_that_leaves_nothing_is_one_sentence(
    wanted, sentence, checkpoint, color_dataset, tmp_path, capsys
):
    command = ["evaluate", str(checkpoint), "--dataset", str(color_dataset), "--filter", wanted]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [("int64", [1, 2, 3], "2"), ("float32", [0.5, 1.5, 2.5], "1.5"), ("bool", [0, 1, 0], "true")],
)
def test_a_filter_finds_values_that_are_no_text(kind, values, wanted):
    features = Features({"n": Value(kind), "row": Value("int64")})
    split = Dataset.from_dict({"n": values, "row": [0, 1, 2]}, features=features)
    assert list(filter_rows(split, {"n": wanted}, "data")["row"]) == [1]


def test_a_filter_that_a_column_of_numbers_cannot_hold_leaves_nothing():
    split = Dataset.from_dict({"n": [1, 2]})
    with pytest.raises(DataError, match="none has n='two'"):
        filter_rows(split, {"n": "two"}, "data")


@pytest.fixture
def unlabelled_row(tmp_path) -> Path:
    """A dataset of eight images, one of which has no class; and next to it one without that row."""
    features = {"image": Image(), "caption": Value("string"), "label": ClassLabel(names=["a", "b"])}
    rows = [
        {"image": draw_picture(color, n), "caption": color, "label": None if n == 3 else n % 2}
        for n, color in enumerate(COLORS)
    ]
    split = Dataset.from_list(rows, features=Features(features))
    split.to_parquet(tmp_path / "data" / "validation.parquet")
    labelled = split.select([n for n in range(8) if n != 3])
    labelled.to_parquet(tmp_path / "labelled" / "validation.parquet")
    return tmp_path


def test_a_row_without_a_class_still_searches(unlabelled_row, checkpoint):
    measure(checkpoint, unlabelled_row / "data", unlabelled_row / "out", "--tasks", "retrieval")
    report = json.loads((unlabelled_row / "out" / "metrics.json").read_text())
    assert (report["num_images"], report["num_unreadable"]) == (8, 0)


def test_zero_shot_classification_leaves_out_a_row_without_a_class(unlabelled_row, checkpoint):
    tasks = ["--tasks", "retrieval", "zero_shot"]
    of_all, of_labelled = (
        measure(checkpoint, unlabelled_row / name, unlabelled_row / f"out_{name}", *tasks)
        for name in ("data", "labelled")
    )
    name = "zero_shot/label/accuracy"
    assert of_all[name] == of_labelled[name]
