"""Class heads and captions made of labels: whole runs, what they leave, and bad input."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PillowImage
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config
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
from modeling_clip_vit.training.trainer import build_trainer
from tests.support import REPOSITORY
from tests.support.models import VISION
from tests.support.pictures import COLORS, draw_picture
from tests.support.runs import (
    read_log,
    train,
    train_in_two_processes,
    write_class_recipe,
)

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


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, labelled_colors, tower_config) -> Path:
    """The output folder of a run on labels alone."""
    folder = tmp_path_factory.mktemp("classifier")
    train(write_class_recipe(folder, labelled_colors, tower_config, eval_steps=30))
    return folder / "out"


def test_a_classifier_is_saved_for_timm(tmp_path, labelled_colors, tower_config):
    """A tower that timm's config.json can name, with a class head."""
    options = {"max_steps": 2, "save_as": ["timm"]}
    train(write_class_recipe(tmp_path, labelled_colors, tower_config, **options))
    peer = timm.create_model(f"local-dir:{tmp_path / 'out' / 'timm'}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(peer))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    for picture in make_pictures():
        inputs = processor(picture, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits
            logits = peer(transform(picture)[None])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)


def read_metrics(folder: Path) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())["metrics"]


def make_pictures() -> list[PillowImage.Image]:
    """The pictures of the test split."""
    return [draw_picture(color, 400 + number) for number, color in enumerate(NAMES)]


@pytest.mark.parametrize("is_mixed", [False, True])
def test_cross_entropy_takes_labels_and_weights_of_classes(is_mixed):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 2, 2, 1, 3])
    other = torch.tensor([1, 4, 0, 3, 1, 2])
    share = torch.rand(6, 1)
    one_hot = torch.eye(5)
    mixed = share * one_hot[labels] + (1 - share) * one_hot[other]
    batch, weights = {"labels": labels}, one_hot[labels]
    if is_mixed:
        batch, weights = {**batch, "mixed_labels": other, "mix_weight": share.flatten()}, mixed
    loss, parts = ClassificationObjective(label_smoothing=0.2)(batch, logits)
    targets = 0.8 * weights + 0.2 / 5
    expected = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss, expected)
    right = logits.argmax(dim=1) == weights.argmax(dim=1)
    assert parts["accuracy"] == right.float().mean()


def test_a_run_on_labels_says_so_before_it_begins(tmp_path, labelled_colors, tower_config, capsys):
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config, max_steps=1)
    build_trainer(parse_arguments(["--config", str(recipe), "--report_to", "none"])).run()
    line = capsys.readouterr().out.splitlines()[-2]
    assert line.startswith("training on 32 rows (image: img; label: label): image tower 0.")


@pytest.mark.slow
def test_labels_alone_train_a_classifier(classifier):
    # Eight colours: guessing finds one in eight.
    assert read_metrics(classifier)["test/top1_accuracy"] >= 0.75


@pytest.mark.slow
def test_a_classifier_is_compared_with_the_most_frequent_class(classifier):
    assert read_metrics(classifier)["test/majority"] == 1 / 8


@pytest.mark.slow
def test_a_classifier_is_evaluated_on_the_way(classifier):
    log = [json.loads(line) for line in (classifier / "training_log.jsonl").open()]
    assert [line["step"] for line in log if "test/top1_accuracy" in line] == [30, 60]


@pytest.mark.slow
def test_a_classifier_knows_the_names_of_its_classes(classifier):
    config = json.loads((classifier / "config.json").read_text())
    assert config["label2id"] == {name: number for number, name in enumerate(NAMES)}


@pytest.mark.slow
def test_a_classifier_leaves_no_files_of_a_clip(classifier):
    names = {path.name for path in classifier.iterdir()}
    assert not names & {"tokenizer.json", "modules.json", "processor_config.json", "retrieval.png"}


@pytest.mark.slow
def test_the_auto_classes_load_a_classifier_that_is_as_accurate(classifier):
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    processor = AutoImageProcessor.from_pretrained(classifier)
    assert isinstance(processor, CLIPImageProcessor)
    found = model(**processor(make_pictures(), return_tensors="pt")).logits.argmax(dim=1)
    accuracy = (found == torch.arange(8)).float().mean().item()
    assert accuracy == pytest.approx(read_metrics(classifier)["test/top1_accuracy"])


@pytest.mark.slow
def test_a_pipeline_names_the_class_that_the_model_finds(classifier):
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    processor = AutoImageProcessor.from_pretrained(classifier)
    picture = draw_picture("red", 400)
    best = model(**processor(picture, return_tensors="pt")).logits.argmax()
    classify = pipeline("image-classification", model=str(classifier), trust_remote_code=True)
    assert classify(picture)[0]["label"] == NAMES[best]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "pipeline_tag: image-classification",
        "library_name: transformers",
        "32 images of 8 classes",
        "red, green, blue",
    ],
)
def test_the_card_of_a_classifier_describes_it(classifier, text):
    assert text in (classifier / "README.md").read_text()


@pytest.mark.slow
def test_the_card_of_a_classifier_has_its_accuracy(classifier):
    accuracy = read_metrics(classifier)["test/top1_accuracy"]
    text = f"Top-1 accuracy | test | {100 * accuracy:.1f} %"
    assert text in (classifier / "README.md").read_text()


@pytest.mark.slow
def test_the_code_on_the_card_of_a_classifier_runs(classifier, tmp_path):
    card = (classifier / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    draw_picture("red", 7).save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'label': '" in done.stdout


FEW = {"max_steps": 3, "logging_steps": 1, "evaluations": []}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, labelled_colors, tower_config) -> Path:
    """The output folder of a few updates with no option of the engine."""
    folder = tmp_path_factory.mktemp("plain")
    train(write_class_recipe(folder, labelled_colors, tower_config, **FEW))
    return folder / "out"


#: Options that change how a classifier's gradients are computed, and not what they are.
WITHOUT_EFFECT = {
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
    "recomputed blocks": {"gradient_checkpointing": True},
    "decoded when read": {"cache_images": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_classifier_has_the_same_gradients_with(
    name, plain, tmp_path, labelled_colors, tower_config
):
    fields = {**FEW, **WITHOUT_EFFECT[name]}
    train(write_class_recipe(tmp_path, labelled_colors, tower_config, **fields))
    norms, others = (
        [line["gradient_norm"] for line in read_log(folder)] for folder in (tmp_path / "out", plain)
    )
    assert norms == pytest.approx(others, rel=1e-3)


#: Options that change the weights.
WITH_EFFECT = {
    "average": {"ema_decay": 0.9},
    "muon": {"optim": "muon"},
    "layer decay": {"layer_decay": 0.5},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_EFFECT)
def test_a_classifier_has_other_weights_with(name, plain, tmp_path, labelled_colors, tower_config):
    train(write_class_recipe(tmp_path, labelled_colors, tower_config, **FEW, **WITH_EFFECT[name]))
    name = "vision_model.encoder.layers.0.attention.qkv_proj.weight"
    weights, others = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", plain)
    )
    assert (weights[name] - others[name]).abs().max() > 1e-4


@pytest.mark.slow
def test_a_classifier_trains_on_the_image_tower_of_a_joint_configuration(
    tmp_path, labelled_colors, linear_config
):
    train(write_class_recipe(tmp_path, labelled_colors, linear_config, **FEW))
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    tower = json.loads((linear_config / "config.json").read_text())["vision_config"]
    assert {name: fields[name] for name in tower} == tower


@pytest.fixture(scope="module", params=["dynamic", "weight_only"])
def rounded(request, tmp_path_factory, labelled_colors, tower_config) -> Path:
    """The output folder of a run with rounding."""
    folder = tmp_path_factory.mktemp(request.param)
    fields = {"quantization_mode": request.param, "quantization_smoothing": 0.5}
    train(write_class_recipe(folder, labelled_colors, tower_config, **fields))
    return folder / "out"


@pytest.mark.slow
def test_rounding_leaves_the_classifier_s_float_weights(rounded):
    weights = load_file(rounded / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in weights.values())


@pytest.mark.slow
def test_a_rounded_classifier_is_smaller(rounded):
    facts = json.loads((rounded / "int8" / "quantization.json").read_text())
    assert facts["bytes"] < facts["float_bytes"]


@pytest.mark.slow
def test_a_classifier_rounds_its_blocks_and_not_its_head(rounded):
    model = AutoModelForImageClassification.from_pretrained(rounded / "int8")
    block = model.vision_model.encoder.layers[0]
    assert type(block.attention.qkv_proj.weight) is not torch.nn.Parameter
    assert type(model.classifier.weight) is torch.nn.Parameter


@pytest.mark.slow
def test_a_rounded_classifier_is_as_accurate_as_was_measured(rounded):
    folder = rounded / "int8"
    facts = json.loads((folder / "quantization.json").read_text())
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    inputs = AutoImageProcessor.from_pretrained(folder)(make_pictures(), return_tensors="pt")
    found = model(**inputs).logits.argmax(dim=1) == torch.arange(8)
    accuracy = facts["metrics"]["test/top1_accuracy"]
    assert found.float().mean().item() == pytest.approx(accuracy)


@pytest.mark.slow
def test_a_resumed_classifier_has_the_weights_of_an_unbroken_run(
    tmp_path, labelled_colors, tower_config
):
    fields = {"max_steps": 8, "save_steps": 5, "save_total_limit": 2, "evaluations": []}
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config, **fields, ema_decay=0.9)
    train(recipe)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    path = tmp_path / "out" / "checkpoints" / "step-00000005"
    train(recipe, "--resume_from_checkpoint", str(path))
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


@pytest.mark.slow
def test_the_card_says_if_nothing_was_measured(plain):
    assert "Nothing was measured" in (plain / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_train_a_classifier(tmp_path, labelled_colors, tower_config):
    recipe = write_class_recipe(
        tmp_path, labelled_colors, tower_config, max_steps=30, per_device_train_batch_size=8
    )
    train_in_two_processes(recipe)
    assert read_metrics(tmp_path / "out")["test/top1_accuracy"] >= 0.35


#: One update that changes next to nothing.
STILL = {"max_steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "evaluations": []}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first"), [("clip", "vision_model."), ("classifier", ("vision_model.", "classifier."))]
)
def test_training_goes_on_from_the_weights_of(
    kind, first, request, tmp_path, labelled_colors, tower_config
):
    path = request.getfixturevalue("checkpoint" if kind == "clip" else "classifier")
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config, **STILL)
    train(recipe, "--model_name_or_path", str(path))
    before = load_file(path / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    kept = [name for name in after if name.startswith(first)]
    assert kept
    for name in kept:
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_head_of_other_classes_is_not_kept(classifier, tmp_path, tower_config):
    """Of the very same number."""
    other = tmp_path / "other"
    features = Features({"img": Image(), "label": ClassLabel(names=[f"x{n}" for n in range(8)])})
    rows = [{"img": draw_picture(color, n), "label": n} for n, color in enumerate(NAMES)] * 2
    Dataset.from_list(rows, features=features).to_parquet(other / "train.parquet")
    recipe = write_class_recipe(tmp_path, other, tower_config, **STILL)
    train(recipe, "--model_name_or_path", str(classifier))
    before, after = (
        load_file(folder / "model.safetensors")["classifier.weight"]
        for folder in (classifier, tmp_path / "out")
    )
    assert (after - before).abs().max() > 0.01


def test_only_the_head_learns_on_a_frozen_tower(tmp_path, labelled_colors, tower_config):
    from modeling_clip_vit.training.tasks.classification import prepare_classification

    recipe = write_class_recipe(
        tmp_path, labelled_colors, tower_config, frozen_towers=["vision"], evaluations=[]
    )
    preparation = prepare_classification(parse_arguments(["--config", str(recipe)]))
    learning = {name for name, p in preparation.model.named_parameters() if p.requires_grad}
    assert learning == {"classifier.weight", "classifier.bias"}


#: Options that only contrast knows, with a value.
CONTRASTIVE = {
    "loss": "siglip",
    "gradient_cache_batch_size": "8",
    "images_per_concept": "2",
    "caption_columns": "[a]",
    "stream_sources": "[a]",
    "teacher_name_or_path": "x",
    "label_templates": "[zh]",
    "quantization_mode": "static",
    "quantization_embeddings": "true",
}


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_what_only_contrast_knows_is_rejected(
    name, tmp_path, labelled_colors, tower_config, capsys
):
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config)
    assert main(["train", "--config", str(recipe), f"--{name}", CONTRASTIVE[name]]) == 1
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


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--label_column=kind", "no column 'kind': it has img, label"),
        ("--label_column=img", "column 'img' of .* holds dict, not classes"),
        ("--image_column=picture", "no column 'picture': it has img, label"),
        ("--evaluations=[{split: dev}]", "no split 'dev': .* with evaluations: \\[\\]"),
        ("--evaluations=[{tasks: [zero_shot]}]", "zero_shot on .* needs a CLIP"),
        ("--per_device_train_batch_size=64", "the dataset has 32"),
        ("--model_config=nowhere", "no model configuration 'nowhere'"),
        ("--tokenizer_name_or_path=a", "tokenizer_name_or_path=a is not allowed with task="),
        ('--vision_fields={"depth": 3}', "depth=3 is not allowed: .* has no such field"),
    ],
)
def test_bad_labels_and_models_end_in_one_sentence(
    option, message, tmp_path, labelled_colors, tower_config, capsys
):
    recipe = write_class_recipe(tmp_path, labelled_colors, tower_config)
    assert re.search(message, one_error(capsys, recipe, option))
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
        "bf16": False,
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


@pytest.mark.parametrize(
    "options",
    [
        [],
        # Also where the label column was only guessed.
        ["--label_column", "null", "--label_names", "{}", "--label_templates", "[en]"],
    ],
)
def test_a_pair_loss_with_labels_is_rejected(
    options, tmp_path, labelled_colors, linear_config, capsys
):
    recipe = cifar10_recipe(tmp_path, labelled_colors, linear_config, label_smoothing=0)
    message = one_error(capsys, recipe, "--loss", "clip", *options)
    assert "loss='clip' is not allowed with label_column" in message


def test_names_for_fewer_classes_than_there_are_are_rejected(
    tmp_path, labelled_colors, linear_config, capsys
):
    recipe = cifar10_recipe(tmp_path, labelled_colors, linear_config)
    message = one_error(capsys, recipe, "--label_names", '{"zh": ["a", "b"]}')
    assert "label_names has 2 names for 'zh', but 'label' has 8 classes" in message


def test_zero_shot_alone_is_evaluated_without_texts_for_the_rows(
    tmp_path, labelled_colors, model_config_folder
):
    evaluations = [{"split": "test", "tasks": ["zero_shot"]}]
    recipe = cifar10_recipe(
        tmp_path, labelled_colors, model_config_folder, evaluations=evaluations, max_steps=1
    )
    train(recipe)
    metrics = read_metrics(tmp_path / "out")
    assert {key.rsplit("/", 1)[0] for key in metrics} == {"test/zero_shot/label"}
