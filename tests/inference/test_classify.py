"""The command `clip-vit classify`: by names, by examples, with a class head, and rejections."""

import csv
import json

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor, CLIPImageProcessor

from modeling_clip_vit import ClipVitForImageClassification, ClipVitVisionConfig
from modeling_clip_vit.cli import main
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.inference.classify import build_classifier, read_class_names
from modeling_clip_vit.inference.examples import open_examples
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.utils.errors import UserError
from tests.support.models import VISION
from tests.support.pictures import COLORS, draw_picture

CLASSES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three pictures, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, color in enumerate(CLASSES):
        draw_picture(color, 50 + number).save(folder / f"{color}.png")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A folder of pictures for each class: three of each, and a fourth that cannot be read."""
    folder = tmp_path_factory.mktemp("examples")
    for color in CLASSES:
        (folder / color).mkdir()
        for number in range(3):
            draw_picture(color, number).save(folder / color / f"{number}.png")
        (folder / color / "broken.png").write_bytes(b"no picture")
    return folder


def run(checkpoint, pictures, out, *arguments: str) -> dict:
    command = ["classify", str(checkpoint), str(pictures), "--save", str(out)]
    assert main([*command, *arguments]) == 0
    return json.loads(out.read_text())


def as_table(result: dict) -> dict[str, dict[str, float]]:
    return {
        picture["picture"]: {one["class"]: one["probability"] for one in picture["classes"]}
        for picture in result["pictures"]
    }


def test_zero_shot_probabilities_are_those_of_the_models_logits(checkpoint, pictures, tmp_path):
    words = ["--classes", "red,green,blue", "--templates", "plain", "--top_k", "3"]
    found = as_table(run(checkpoint, pictures, tmp_path / "out.json", *words))
    model, processor = (
        AutoModel.from_pretrained(checkpoint),
        AutoProcessor.from_pretrained(checkpoint),
    )
    images = [Image.open(pictures / f"{color}.png").convert("RGB") for color in CLASSES]
    inputs = processor(text=CLASSES, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = model.eval()(**inputs).logits_per_image.softmax(dim=1)
    for color, row in zip(CLASSES, expected.tolist(), strict=True):
        assert found[f"{color}.png"] == pytest.approx(
            dict(zip(CLASSES, row, strict=True)), abs=1e-5
        )


@pytest.mark.parametrize("method", ["prototypes", "tip_adapter", "tip_adapter_f"])
def test_examples_classify_as_the_method_does(method, checkpoint, pictures, examples, tmp_path):
    words = ["--examples", str(examples), "--method", method, "--top_k", "9"]
    result = run(checkpoint, pictures, tmp_path / "out.json", *words)
    assert (result["method"], result["examples"]) == (method, 9)
    encoder = load_encoder(str(checkpoint))
    drawn = open_examples(str(examples)).embed(encoder.encode_image, seed=0)
    names = sorted(CLASSES)
    classifier = build_classifier(encoder, names, ["en"], method, drawn)
    for color in CLASSES:
        image = Image.open(pictures / f"{color}.png").convert("RGB")
        row = classifier.probabilities(encoder.encode_image([image]))[0].tolist()
        expected = dict(zip(names, row, strict=True))
        assert as_table(result)[f"{color}.png"] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_table_is_printed_and_saved_as_csv(checkpoint, pictures, tmp_path, capsys):
    words = ["--classes", "red,green,blue", "--top_k", "2"]
    result = run(checkpoint, pictures, tmp_path / "out.json", *words)
    command = ["classify", str(checkpoint), str(pictures), *words]
    assert main([*command, "--save", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    printed = capsys.readouterr().out
    for row in rows:
        probability = as_table(result)[row["picture"]][row["class"]]
        assert float(row["probability"]) == pytest.approx(probability, rel=1e-5)
        assert f"{probability:.3f}" in printed


def test_a_picture_that_cannot_be_read_is_named_and_the_others_classified(
    checkpoint, pictures, tmp_path, capsys
):
    result = run(checkpoint, pictures, tmp_path / "out.json", "--classes", "red,green")
    assert len(result["pictures"]) == 3
    assert "skipped cut.png" in capsys.readouterr().err
    assert [name.split()[0] for name in result["unreadable"]] == ["cut.png"]


@pytest.mark.parametrize("seed", range(4))
def test_another_example_takes_the_place_of_one_that_cannot_be_read(seed, checkpoint, examples):
    encoder = load_encoder(str(checkpoint))
    drawn = open_examples(str(examples), shots=3).embed(encoder.encode_image, seed)
    assert drawn.labels.bincount().tolist() == [3, 3, 3]


def test_the_classes_name_the_examples_that_are_used(checkpoint, examples):
    encoder = load_encoder(str(checkpoint))
    labelled = open_examples(str(examples), ["red", "blue"])
    assert labelled.embed(encoder.encode_image, seed=0).labels.bincount().tolist() == [3, 3]


def test_class_names_of_a_file_may_have_commas(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat, striped\n\n狗\n", encoding="utf-8")
    assert read_class_names([str(path)]) == ["cat, striped", "狗"]


def test_a_model_with_a_class_head_classifies(pictures, tmp_path):
    torch.manual_seed(0)
    config = ClipVitVisionConfig(**VISION, id2label=dict(enumerate(CLASSES)))
    model = ClipVitForImageClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = CLIPImageProcessor(size=32, crop_size=32)
    processor.save_pretrained(tmp_path / "model")
    found = as_table(run(tmp_path / "model", pictures, tmp_path / "out.json", "--top_k", "3"))
    image = Image.open(pictures / "red.png").convert("RGB")
    with torch.no_grad():
        logits = model(**processor(image, return_tensors="pt")).logits[0]
    expected = dict(zip(CLASSES, logits.softmax(dim=0).tolist(), strict=True))
    assert found["red.png"] == pytest.approx(expected, abs=1e-5)
    assert main(["classify", str(tmp_path / "model"), str(pictures), "--classes", "a,b"]) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "there are no classes: name them with classes"),
        (["--classes", "red"], "classes='red' is not allowed: name at least two classes"),
        (["--classes", "red,blue,red"], "the class 'red' is named twice"),
        (["--classes", "nowhere.txt"], "there is no file of class names 'nowhere.txt'"),
        (["--classes", "a,b", "--method", "guess"], "method='guess' is not allowed: choose from"),
        (["--classes", "a,b", "--method", "prototypes"], "method='prototypes' needs examples"),
        (["--classes", "a,b", "--shots", "2"], "shots=2 needs examples"),
        (["--classes", "a,b", "--templates", "nothing"], "no set of templates 'nothing'"),
        (["--classes", "a,b", "--save", "out.txt"], "must end in one of csv, json"),
        (["--examples", "EXAMPLES", "--shots", "5"], "has 4 examples in"),
        (["--examples", "EXAMPLES", "--shots", "4"], "has 3 readable examples in"),
        (["--examples", "EXAMPLES", "--classes", "red,pink"], "class 'pink' has no examples in"),
        (["--examples", "EXAMPLES/red"], "cannot tell which column of"),
        (["--examples", "./nowhere"], "no folder './nowhere'"),
    ],
)
def test_what_cannot_be_classified_is_one_sentence(
    words, sentence, checkpoint, pictures, examples, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("EXAMPLES", str(examples)) for word in words]
    assert main(["classify", str(checkpoint), str(pictures), *words]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert sentence in message


def test_pictures_none_of_which_can_be_read_are_one_sentence(checkpoint, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    command = ["classify", str(checkpoint), str(tmp_path / "broken.png"), "--classes", "a,b"]
    assert main(command) == 1
    assert "there is no readable picture: " in capsys.readouterr().err


def test_examples_of_one_class_are_rejected(tmp_path):
    for color in list(COLORS)[:3]:
        (tmp_path / "all" / "same").mkdir(parents=True, exist_ok=True)
        draw_picture(color, 1).save(tmp_path / "all" / "same" / f"{color}.png")
    with pytest.raises((UserError, DataError), match=r"'same'|cannot tell which column"):
        open_examples(str(tmp_path / "all"))
