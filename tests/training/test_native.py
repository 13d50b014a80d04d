"""Runs on images in their own aspect ratio."""

import copy
import json

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as PillowImage
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.image_form import check_takes_patches, choose_form
from modeling_clip_vit.utils.errors import UserError
from tests.support.models import VISION, small_model
from tests.support.pictures import COLORS
from tests.support.runs import (
    assert_same_weights,
    output_of,
    train,
    write_class_recipe,
    write_recipe,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

NATIVE = ["--image_seq_lens=[9,16,36]", "--max_image_tokens=72"]
#: A few updates on pictures with one caption.
RUN = {
    "concept_column": None,
    "images_per_concept": 1,
    "view_loss_weight": 0,
    "caption_columns": ["caption"],
    "tags_columns": {},
    "evaluations": [{"split": "validation"}],
    "max_steps": 8,
    "save_steps": 3,
    "eval_steps": 0,
}


@pytest.mark.parametrize(
    ("vision", "expected"),
    [
        ({"pooling": "flatten"}, "pooling='flatten'"),
        ({"patch_embedding": "conv_stem"}, "patch_embedding='conv_stem'"),
        ({"patch_size": 16}, "patch_size=16, and the batches have 8"),
    ],
)
def test_towers_that_take_whole_images_are_refused(vision, expected):
    with pytest.raises(UserError, match=expected):
        check_takes_patches(small_model(vision=vision).vision_model, "the tower", 8)


@pytest.fixture
def native_processor(processor):
    args = parse_arguments(["--dataset=nowhere", *NATIVE])
    native = copy.deepcopy(processor)
    form = choose_form(args, small_model().vision_model, native.image_processor)
    native.image_processor = form.image_processor
    return native


def test_the_processor_makes_the_largest_of_the_grids(native_processor):
    inputs = native_processor.image_processor(PillowImage.new("RGB", (30, 90)), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 36, 192)
    assert inputs["spatial_shapes"].tolist() == [[9, 3]]


def test_a_checkpoint_trained_so_is_not_trained_on_squares(native_processor):
    args = parse_arguments(["--dataset=nowhere"])
    with pytest.raises(UserError, match="set image_seq_lens"):
        choose_form(args, small_model().vision_model, native_processor.image_processor)


@pytest.fixture(scope="module")
def rectangles(tmp_path_factory):
    """A folder with pictures of eight colours and many shapes, as Parquet."""
    folder = tmp_path_factory.mktemp("rectangles")
    features = Features({"image": Image(), "caption": Value("string")})
    for split, first in {"train": 0, "validation": 5}.items():
        rows = [
            {
                "image": PillowImage.new("RGB", (30 + 13 * (number + first), 40 + 9 * turn), color),
                "caption": f"a {color} picture",
            }
            for turn in range(4)
            for number, color in enumerate(COLORS)
        ]
        path = folder / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows, features=features).to_parquet(path)
    return folder


@pytest.fixture(scope="module")
def run(rectangles, tmp_path_factory, linear_config):
    """A finished run: a function that trains with more options, and the folder of the first."""
    folder = tmp_path_factory.mktemp("run")

    def start(name: str, *options: str):
        (folder / name).mkdir()
        recipe = write_recipe(folder / name, rectangles, linear_config, **RUN)
        train(recipe, *NATIVE, *options)
        return output_of(recipe)

    return start, start("whole")


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(run):
    start, whole = run
    parts = start("parts", "--save_total_limit=9")
    checkpoint = parts / "checkpoints" / "step-00000003"
    resumed = start("resumed", f"--resume_from_checkpoint={checkpoint}")
    assert_same_weights(resumed, whole)


@pytest.mark.slow
def test_the_command_measures_the_metrics_of_the_run(run, rectangles, tmp_path):
    _, whole = run
    command = ["evaluate", str(whole), "--dataset", str(rectangles), "--split", "validation"]
    assert main([*command, "--concept_column", "caption", "--output_dir", str(tmp_path)]) == 0
    measured, during = (
        {name.split("/", 1)[1]: value for name, value in json.loads(text)["metrics"].items()}
        for text in ((folder / "metrics.json").read_text() for folder in (tmp_path, whole))
    )
    assert {name: measured[name] for name in during} == pytest.approx(during)


#: Colours at the left edge of wide grey pictures, which are alike elsewhere: their classes.
EDGES = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def labelled_edges(tmp_path_factory):
    """Wide pictures of several sizes with the class of what is at their edge."""
    folder = tmp_path_factory.mktemp("edges")
    features = Features({"image": Image(), "label": ClassLabel(names=list(EDGES))})
    for split, widths in {"train": range(100, 180, 10), "test": (105, 135)}.items():
        rows = []
        for width in widths:
            for label, color in enumerate(EDGES):
                picture = PillowImage.new("RGB", (width, 30), "grey")
                picture.paste(PillowImage.new("RGB", (20, 30), color), (0, 0))
                rows.append({"image": picture, "label": label})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def classifier(labelled_edges, tmp_path_factory):
    """The output folder of a classifier of those pictures."""
    folder = tmp_path_factory.mktemp("classifier")
    config = {**VISION, "model_type": "clip_vit_vision_model", "pooling": "mean"}
    (folder / "config.json").write_text(json.dumps(config))
    recipe = write_class_recipe(folder, labelled_edges, folder, rotation=0)
    train(recipe, "--image_seq_lens=[9,16]", "--max_image_tokens=144")
    return folder / "out"


@pytest.mark.slow
def test_a_classifier_sees_what_a_square_from_the_middle_would_lose(classifier):
    metrics = json.loads((classifier / "metrics.json").read_text())["metrics"]
    assert metrics["test/top1_accuracy"] == 1.0


@pytest.mark.slow
def test_the_auto_classes_classify_wide_pictures(classifier):
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    processor = AutoImageProcessor.from_pretrained(classifier)
    for color in EDGES:
        picture = PillowImage.new("RGB", (300, 60), "grey")
        picture.paste(PillowImage.new("RGB", (40, 60), color), (0, 0))
        with torch.no_grad():
            logits = model(**processor(picture, return_tensors="pt")).logits
        assert model.config.id2label[int(logits.argmax())] == color


@pytest.mark.slow
def test_the_command_measures_the_accuracy_of_the_run(classifier, labelled_edges, tmp_path):
    command = ["evaluate", str(classifier), "--dataset", str(labelled_edges), "--split", "test"]
    assert main([*command, "--output_dir", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert 1.0 in metrics.values()
