"""Class heads and captions made of labels: whole runs, what they leave, and bad input."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoProcessor,
    CLIPImageProcessor,
    pipeline,
)

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.tasks.classification import ClassificationObjective
from modeling_clip_vit.training.tasks.contrastive import prepare
from tests.support import REPOSITORY
from tests.support.models import VISION
from tests.support.pictures import COLORS, draw_picture
from tests.support.runs import train

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
NAMES = list(COLORS)


@pytest.fixture(scope="session")
def labelled_colors(tmp_path_factory) -> Path:
    """Squares of eight colours with labels alone, as the columns of CIFAR-10 are called."""
    folder = tmp_path_factory.mktemp("labelled")
    features = Features({"img": Image(), "label": ClassLabel(names=NAMES)})
    for split, seeds in {"train": range(4), "test": (4,)}.items():
        rows = [
            {"img": draw_picture(color, 100 * seed + number), "label": number}
            for seed in seeds
            for number, color in enumerate(NAMES)
        ]
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def tower_config(tmp_path_factory) -> Path:
    """The configuration of a small image tower alone."""
    folder = tmp_path_factory.mktemp("tower")
    config = {**VISION, "model_type": "clip_vit_vision_model", "pooling": "mean"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_class_recipe(folder: Path, dataset: Path, model_config: Path, **fields) -> Path:
    recipe = {
        "task": "classification",
        "dataset": str(dataset),
        "evaluations": [{"split": "test"}],
        "model_config": str(model_config),
        "max_steps": 60,
        "per_device_train_batch_size": 16,
        "learning_rate": 5e-3,
        "label_smoothing": 0.1,
        "rotation": 5,
        "output_dir": str(folder / "out"),
        "save_steps": 0,
        "eval_steps": 0,
        "logging_steps": 10,
        **fields,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, labelled_colors, tower_config) -> Path:
    """The output folder of a run on labels alone."""
    folder = tmp_path_factory.mktemp("classifier")
    recipe = write_class_recipe(folder, labelled_colors, tower_config, eval_steps=30)
    assert train(recipe)["accuracy"] >= 0.75
    return folder / "out"


def test_cross_entropy_takes_labels_and_weights_of_classes():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    other = torch.tensor([1, 4, 0, 3, 1, 2])
    share = torch.rand(6, 1)
    one_hot = torch.eye(5)
    mixed = share * one_hot[labels] + (1 - share) * one_hot[other]
    objective = ClassificationObjective(label_smoothing=0.2)
    for batch, weights in (
        ({"labels": labels}, one_hot[labels]),
        ({"labels": labels, "mixed_labels": other, "mix_weight": share.flatten()}, mixed),
    ):
        loss, parts = objective(batch, logits)
        targets = 0.8 * weights + 0.2 / 5
        expected = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        torch.testing.assert_close(loss, expected)
        right = logits.argmax(dim=1) == weights.argmax(dim=1)
        assert parts["accuracy"] == right.float().mean()


@pytest.mark.slow
def test_labels_alone_train_a_classifier_that_the_auto_classes_load(classifier):
    metrics = json.loads((classifier / "metrics.json").read_text())["metrics"]
    # Eight colours: guessing finds one in eight.
    assert metrics["test/top1_accuracy"] >= 0.75
    assert metrics["test/top1_accuracy"] <= metrics["test/top5_accuracy"] <= 1
    assert metrics["test/majority"] == 1 / 8
    log = [json.loads(line) for line in (classifier / "training_log.jsonl").open()]
    assert [line["step"] for line in log if "test/top1_accuracy" in line] == [30, 60]
    config = json.loads((classifier / "config.json").read_text())
    assert config["label2id"] == {name: number for number, name in enumerate(NAMES)}
    names = {path.name for path in classifier.iterdir()}
    assert not names & {"tokenizer.json", "modules.json", "processor_config.json", "retrieval.png"}

    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    processor = AutoImageProcessor.from_pretrained(classifier)
    assert isinstance(processor, CLIPImageProcessor)
    pictures = [draw_picture(color, 400 + number) for number, color in enumerate(NAMES)]
    logits = model(**processor(pictures, return_tensors="pt")).logits
    found = (logits.argmax(dim=1) == torch.arange(8)).float().mean().item()
    assert found == pytest.approx(metrics["test/top1_accuracy"])
    classify = pipeline("image-classification", model=str(classifier), trust_remote_code=True)
    assert classify(pictures[0])[0]["label"] == NAMES[logits[0].argmax()]


@pytest.mark.slow
def test_the_card_of_a_classifier_says_how_to_use_it(classifier, tmp_path):
    card = (classifier / "README.md").read_text()
    metrics = json.loads((classifier / "metrics.json").read_text())["metrics"]
    assert "pipeline_tag: image-classification" in card
    assert "library_name: transformers" in card
    assert f"Top-1 accuracy | test | {100 * metrics['test/top1_accuracy']:.1f} %" in card
    assert "32 images of 8 classes" in card
    assert "red, green, blue" in card
    code = card.split("```python\n")[1].split("```")[0]
    draw_picture("red", 7).save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'label': '" in done.stdout


FEATURES = {
    "average": {"ema_decay": 0.9},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
    "muon, checkpointing": {"optim": "muon", "gradient_checkpointing": True},
    "layer decay, a joint configuration": {"layer_decay": 0.9, "joint": True},
    "decoded when read": {"cache_images": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_the_engine_trains_classifiers(
    name, tmp_path, labelled_colors, tower_config, linear_config
):
    fields = dict(FEATURES[name])
    config = linear_config if fields.pop("joint", False) else tower_config
    recipe = write_class_recipe(tmp_path, labelled_colors, config, max_steps=40, **fields)
    train(recipe)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["test/top1_accuracy"] >= 0.35, (name, metrics)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dynamic", "weight_only"])
def test_a_classifier_trains_with_rounding(mode, tmp_path, labelled_colors, tower_config):
    fields = {"quantization_mode": mode, "quantization_smoothing": 0.5}
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config, **fields)
    train(recipe)
    folder = tmp_path / "out" / "int8"
    facts = json.loads((folder / "quantization.json").read_text())
    accuracy = facts["metrics"]["test/top1_accuracy"]
    assert accuracy >= 0.5
    assert facts["bytes"] < facts["float_bytes"]
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert not (folder / "modules.json").exists()

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    block = model.vision_model.encoder.layers[0]
    assert type(block.attention.qkv_proj.weight) is not torch.nn.Parameter
    assert type(model.classifier.weight) is torch.nn.Parameter
    pictures = [draw_picture(color, 400 + number) for number, color in enumerate(NAMES)]
    inputs = AutoImageProcessor.from_pretrained(folder)(pictures, return_tensors="pt")
    found = model(**inputs).logits.argmax(dim=1) == torch.arange(8)
    assert found.float().mean().item() == pytest.approx(accuracy)


@pytest.mark.slow
def test_a_resumed_classifier_has_the_weights_of_an_unbroken_run(
    tmp_path, labelled_colors, tower_config
):
    fields = {"max_steps": 8, "save_steps": 5, "evaluations": [], "ema_decay": 0.9}
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config, **fields)
    train(recipe)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    train(recipe, "--resume_from_checkpoint", "latest", "--max_steps", "8")
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())
    lines = (tmp_path / "out" / "README.md").read_text()
    assert "Nothing was measured" in lines


@pytest.mark.slow
def test_two_processes_train_a_classifier(tmp_path, labelled_colors, tower_config):
    recipe = write_class_recipe(
        tmp_path, labelled_colors, tower_config, max_steps=30, per_device_train_batch_size=8
    )
    config = REPOSITORY / "configuration" / "accelerate" / "cpu.yaml"
    command = ["accelerate.commands.launch", "--config_file", str(config)]
    command += [str(REPOSITORY / "train.py"), "--config", str(recipe), "--report_to", "none"]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["test/top1_accuracy"] >= 0.35


@pytest.mark.slow
def test_a_clip_and_a_classifier_are_gone_on_from(
    checkpoint, classifier, tmp_path, labelled_colors, tower_config
):
    fields = {"max_steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "evaluations": []}
    for path, head_is_kept in ((checkpoint, False), (classifier, True)):
        recipe = write_class_recipe(tmp_path, labelled_colors, tower_config, **fields)
        train(recipe, "--model_name_or_path", str(path))
        before = load_file(path / "model.safetensors")
        after = load_file(tmp_path / "out" / "model.safetensors")
        assert {name for name in after if name.startswith("vision_model.")} <= set(before)
        for name, weight in after.items():
            if name in before:
                torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=0)
        assert ("classifier.weight" in before) == head_is_kept
    # The very same number of classes, but others: the head is of no use.
    other = tmp_path / "other"
    features = Features({"img": Image(), "label": ClassLabel(names=[f"x{n}" for n in range(8)])})
    rows = [{"img": draw_picture(color, n), "label": n} for n, color in enumerate(NAMES)] * 2
    Dataset.from_list(rows, features=features).to_parquet(other / "train.parquet")
    recipe = write_class_recipe(tmp_path, other, tower_config, **fields)
    train(recipe, "--model_name_or_path", str(classifier))
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert (after["classifier.weight"] - before["classifier.weight"]).abs().max() > 0.01


def test_only_the_head_learns_on_a_frozen_tower(tmp_path, labelled_colors, tower_config):
    from modeling_clip_vit.training.tasks.classification import prepare_classification

    recipe = write_class_recipe(
        tmp_path, labelled_colors, tower_config, frozen_towers=["vision"], evaluations=[]
    )
    preparation = prepare_classification(parse_arguments(["--config", str(recipe)]))
    learning = {name for name, p in preparation.model.named_parameters() if p.requires_grad}
    assert learning == {"classifier.weight", "classifier.bias"}


def test_what_only_contrast_knows_is_refused(tmp_path, labelled_colors, tower_config, capsys):
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config)
    for name, value in {
        "loss": "siglip",
        "gradient_cache_batch_size": "8",
        "images_per_concept": "2",
        "caption_columns": "[a]",
        "stream_sources": "[a]",
        "teacher_name_or_path": "x",
        "label_templates": "[zh]",
        "quantization_mode": "static",
        "quantization_embeddings": "true",
    }.items():
        assert main(["train", "--config", str(recipe), f"--{name}", value]) == 1
        message = capsys.readouterr().err
        assert message.startswith(f"error: {name}=")
        assert "is not allowed with task='classification'" in message
        assert message.count("\n") == 1


def one_error(capsys, recipe: Path, *arguments: str) -> str:
    """Train, expecting one sentence; returns it."""
    assert main(["train", "--config", str(recipe), "--report_to", "none", *arguments]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_bad_labels_and_models_end_in_one_sentence(
    tmp_path, labelled_colors, tower_config, color_dataset, capsys
):
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config)
    for arguments, told in (
        (["--label_column", "kind"], "no column 'kind': it has img, label"),
        (["--label_column", "img"], "column 'img' of .* holds dict, not classes"),
        (["--image_column", "picture"], "no column 'picture': it has img, label"),
        (["--evaluations", "[{split: dev}]"], "no split 'dev': .* with evaluations: \\[\\]"),
        (["--evaluations", "[{tasks: [zero_shot]}]"], "zero_shot on .* needs a CLIP"),
        (["--per_device_train_batch_size", "64"], "the dataset has 32"),
        (["--model_config", "nowhere"], "no model configuration 'nowhere'"),
        (["--vision_fields", '{"depth": 3}'], "depth=3 is not allowed: .* has no such field"),
    ):
        message = one_error(capsys, recipe, *arguments)
        assert re.search(told, message), message
    assert not (tmp_path / "out" / "config.json").exists()


def test_one_image_is_too_few(tmp_path, tower_config, capsys):
    features = Features({"img": Image(), "label": ClassLabel(names=["only"])})
    rows = Dataset.from_list([{"img": draw_picture("red", 1), "label": 0}], features=features)
    rows.to_parquet(tmp_path / "one" / "train.parquet")
    recipe = write_class_recipe(tmp_path, tmp_path / "one", tower_config, evaluations=[])
    message = one_error(capsys, recipe)
    assert "but the dataset has 1: use a smaller per_device_train_batch_size" in message


def cifar10_recipe(tmp_path: Path, dataset: Path, model_config: Path, **fields) -> Path:
    """The recipe of CIFAR-10 on another dataset of its columns and splits."""
    recipe = yaml.safe_load((REPOSITORY / "configuration/train/cifar10.yaml").read_text())
    recipe |= {
        "dataset": str(dataset),
        "model_config": str(model_config),
        "per_device_train_batch_size": 16,
        "label_names": {"zh": list(COLORS.values())},
        "dataloader_num_workers": 0,
        "output_dir": str(tmp_path / "out"),
        **fields,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_captions_of_labels_make_images_of_a_class_positives(tmp_path, labelled_colors):
    config = REPOSITORY / "configuration" / "model" / "cifar10"
    recipe = cifar10_recipe(tmp_path, labelled_colors, config, evaluations=[])
    preparation = prepare(parse_arguments(["--config", str(recipe)]))
    data, tokenizer = preparation.data, preparation.processor.tokenizer
    data.sampler.set_epoch(0)
    batches = list(data.loader)
    # A pass over the rows, not over the eight classes, in batches of more images than classes.
    assert [len(batch["image_ids"]) for batch in batches] == [16, 16]
    assert math.prod(batches[0]["pixel_values"].shape) == 16 * 3 * 32 * 32
    drawn = set()
    for batch in batches:
        classes = set(batch["image_ids"].tolist())
        assert sorted(batch["text_ids"].tolist()) == sorted([*classes, *classes])
        texts = tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
        for label, text in zip(batch["text_ids"].tolist(), texts, strict=True):
            name, chinese = NAMES[label], COLORS[NAMES[label]]
            assert name in text or chinese in text.replace(" ", "")
            drawn.add(text.replace(name, "{}"))
    assert len(drawn) > 10


@pytest.mark.slow
def test_the_recipe_of_cifar10_trains_on_data_of_its_form(tmp_path, labelled_colors, linear_config):
    recipe = cifar10_recipe(
        tmp_path, labelled_colors, linear_config, max_steps=80, save_steps=0, ema_decay=0.8
    )
    train(recipe, "--optim", "muon", "--learning_rate", "2e-3")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    # Eight colours: guessing finds one in eight.
    assert metrics["test/zero_shot/label/accuracy"] >= 0.5, metrics
    assert metrics["test/en/image_to_text/R@1"] >= 0.5, metrics
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        "32 images of 8 concepts, with phrases (`en`, `zh`) around the classes of `label`" in card
    )
    assert AutoProcessor.from_pretrained(tmp_path / "out").tokenizer is not None
    assert PillowImage.open(tmp_path / "out" / "retrieval.png").size[0] > 400


@pytest.mark.slow
def test_a_stream_of_labelled_images_trains_as_the_table_does(
    tmp_path, labelled_colors, linear_config
):
    recipe = cifar10_recipe(
        tmp_path, labelled_colors, linear_config, max_steps=80, save_steps=0, ema_decay=0.8
    )
    sources = ["--stream_sources", f"[{labelled_colors}]", "--samples_per_epoch", "32"]
    train(recipe, "--optim", "muon", "--learning_rate", "2e-3", *sources)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["test/zero_shot/label/accuracy"] >= 0.5, metrics
    assert metrics["test/zh/image_to_text/R@1"] >= 0.5, metrics


def test_a_pair_loss_with_labels_is_refused(tmp_path, labelled_colors, linear_config, capsys):
    recipe = cifar10_recipe(tmp_path, labelled_colors, linear_config, label_smoothing=0)
    assert "loss='clip' is not allowed with label_column" in one_error(
        capsys, recipe, "--loss", "clip"
    )
    # Also where the label column was only guessed.
    guessed = ["--label_column", "null", "--label_names", "{}", "--label_templates", "[en]"]
    assert "loss='clip' is not allowed with label_column" in one_error(
        capsys, recipe, "--loss", "clip", *guessed
    )
    assert "label_names has 2 names for 'zh', but 'label' has 8 classes" in one_error(
        capsys, recipe, "--label_names", '{"zh": ["a", "b"]}'
    )


def test_zero_shot_alone_is_evaluated_without_texts_for_the_rows(
    tmp_path, labelled_colors, model_config_folder
):
    evaluations = [{"split": "test", "tasks": ["zero_shot"]}]
    recipe = cifar10_recipe(
        tmp_path, labelled_colors, model_config_folder, evaluations=evaluations, max_steps=1
    )
    train(recipe)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert {key.rsplit("/", 1)[0] for key in metrics} == {"test/zero_shot/label"}
