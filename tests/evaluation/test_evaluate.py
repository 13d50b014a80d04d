"""The command `clip-vit evaluate`: on checkpoints of every kind, on good data and bad."""

import gc
import io
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, load_dataset
from PIL import Image as PillowImage
from transformers import AutoModel, AutoProcessor, PreTrainedModel

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.data.templates import load_templates
from modeling_clip_vit.evaluation.evaluate import EvaluationReport, evaluate, open_evaluation
from modeling_clip_vit.evaluation.images import ImageRows, ImagesOnDisk
from modeling_clip_vit.evaluation.options import EvaluationOptions
from modeling_clip_vit.evaluation.sharing import SharedEncoder
from modeling_clip_vit.evaluation.tasks import TASKS
from modeling_clip_vit.inference.embedding import embed_texts
from modeling_clip_vit.inference.loading import TorchEncoder, load_clip, load_encoder
from modeling_clip_vit.runtimes import RUNTIMES
from tests.support import REPOSITORY
from tests.support.peers import save_hf_clip, save_hf_siglip
from tests.support.pictures import COLORS, draw_picture

ALL_BUT_CLASSIFICATION = [name for name in TASKS if name != "classification"]
#: No processes that decode: starting them takes longer than these datasets.
QUICK = ["--num_workers", "0"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, checkpoint):
    """A folder for each kind of checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_hf_clip(folder / "clip")
    save_hf_siglip(folder / "siglip")
    return {"clip_vit": checkpoint, "clip": folder / "clip", "siglip": folder / "siglip"}


def of_images(features: dict) -> dict:
    return {"image": Image(), **features}


def write_dataset(folder, rows: list[dict], features: dict, split: str = "validation"):
    """A dataset of parquet; every row gets a picture unless it has one."""
    for number, row in enumerate(rows):
        row.setdefault("image", draw_picture(list(COLORS)[number % 8], number))
    folder.mkdir(exist_ok=True)
    given = Features(of_images(features))
    Dataset.from_list(rows, features=given).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def run(checkpoint, dataset, out, *arguments: str) -> dict:
    command = ["evaluate", str(checkpoint), "--dataset", str(dataset), "--output_dir", str(out)]
    assert main([*command, *QUICK, *arguments]) == 0
    return json.loads((out / "metrics.json").read_text())


@dataclass
class Peer:
    """What the command measured, and what Transformers computes of all images and texts at once."""

    metrics: dict[str, float]
    model: PreTrainedModel
    logits: dict[str, torch.Tensor]
    cosines: torch.Tensor
    labels: torch.Tensor


@pytest.fixture(scope="module", params=["clip_vit", "clip", "siglip"])
def peer(request, checkpoints, color_dataset, tmp_path_factory) -> Peer:
    path = checkpoints[request.param]
    tasks = ["--tasks", "retrieval", "zero_shot", "calibration"]
    report = run(path, color_dataset, tmp_path_factory.mktemp("peer"), *tasks)
    model, processor = AutoModel.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path)
    rows = load_dataset(str(color_dataset), split="validation")
    options = {"return_tensors": "pt", "truncation": True}
    options["padding"] = "max_length" if request.param == "siglip" else True
    inputs = processor(text=list(rows["caption_en"]), images=list(rows["image"]), **options)
    texts = [text.replace("{}", name) for name in ("warm", "cold") for text in load_templates("en")]
    with torch.no_grad():
        outputs = model(**inputs)
        embeds = model.get_text_features(**processor(text=texts, **options)).pooler_output
    embeds = torch.nn.functional.normalize(embeds, dim=-1).unflatten(0, (2, -1)).mean(dim=1)
    class_embeds = torch.nn.functional.normalize(embeds, dim=-1)
    logits = {"text_to_image": outputs.logits_per_text, "image_to_text": outputs.logits_per_image}
    cosines, labels = outputs.image_embeds @ class_embeds.t(), torch.tensor(rows["kind"])
    return Peer(report["metrics"], model, logits, cosines, labels)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_recall_is_that_of_the_models_own_logits(direction, k, peer):
    hits = zeroshot_retrieval.recall_at_k(peer.logits[direction], torch.eye(8).bool(), k) > 0
    measured = peer.metrics[f"retrieval/caption_en/{direction}/R@{k}"]
    assert measured == pytest.approx(hits.float().mean().item(), abs=1e-6)


def test_zero_shot_accuracy_is_that_of_the_models_own_embeddings(peer):
    right = peer.cosines.gather(1, peer.labels[:, None])
    # A tie counts against the model: cut to its length, SigLIP's templates are all alike here.
    accuracy = ((peer.cosines >= right).sum(dim=1) == 1).float().mean().item()
    assert peer.metrics["zero_shot/kind/accuracy"] == pytest.approx(accuracy)


def test_calibration_is_that_of_the_models_own_scale_and_bias(peer):
    similarity = getattr(peer.model, "similarity", peer.model)
    logits = peer.cosines * similarity.logit_scale.exp().detach()
    if peer.model.config.model_type == "siglip":
        logits = logits + similarity.logit_bias.detach()
        targets = torch.eye(2)[peer.labels]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, targets, reduction="none"
        )
        likelihood = loss.sum(dim=1).mean().item()
    else:
        likelihood = torch.nn.functional.cross_entropy(logits, peer.labels).item()
    assert peer.metrics["calibration/kind/NLL"] == pytest.approx(likelihood, rel=1e-4)


def test_a_siglip_text_embeds_the_same_beside_a_longer_one(checkpoints):
    model, processor = load_clip(str(checkpoints["siglip"]))
    texts = ["red", "a red square and a green one"]
    together = embed_texts(model, processor.tokenizer, texts)
    apart = torch.cat([embed_texts(model, processor.tokenizer, [text]) for text in texts])
    torch.testing.assert_close(together, apart)


@dataclass
class Everything:
    """What the command wrote and printed with all tasks of a CLIP."""

    report: dict
    table: str
    folder: Path
    printed: str

    @property
    def metrics(self) -> dict[str, float]:
        return self.report["metrics"]


@pytest.fixture(scope="module")
def everything(checkpoint, color_dataset, tmp_path_factory) -> Everything:
    folder = tmp_path_factory.mktemp("everything")
    printed = io.StringIO()
    with redirect_stdout(printed):
        report = run(checkpoint, color_dataset, folder, "--tasks", *ALL_BUT_CLASSIFICATION)
    table = (folder / "evaluation.md").read_text()
    return Everything(report, table, folder, printed.getvalue())


def test_every_task_that_is_asked_for_is_measured(everything):
    tasks = {name.split("/")[0] for name in everything.metrics}
    assert tasks == set(ALL_BUT_CLASSIFICATION)


def test_what_takes_long_is_measured_only_if_asked_for(checkpoint, color_dataset, tmp_path):
    metrics = run(checkpoint, color_dataset, tmp_path)["metrics"]
    tasks = {name.split("/")[0] for name in metrics}
    assert tasks == {*ALL_BUT_CLASSIFICATION} - {"robustness", "few_shot"}


def test_the_tables_are_printed_as_they_are_written(everything):
    assert everything.table.strip() in everything.printed


def test_a_table_has_shares_in_percent(everything):
    percent = f"{100 * everything.metrics['zero_shot/kind/accuracy']:.1f}"
    assert f"| kind | {percent} |" in everything.table


def test_the_panels_of_a_report_are_drawn_next_to_each_other(everything):
    with PillowImage.open(everything.folder / "evaluation.png") as picture:
        assert picture.width > 1000  # of three


def test_a_report_says_what_was_evaluated(everything):
    assert everything.report["num_images"] == 8
    assert everything.report["columns"]["captions"] == ["caption_en", "caption_zh"]


def test_nothing_temporary_is_left(everything):
    files = {path.name for path in everything.folder.iterdir()}
    assert files == {"metrics.json", "evaluation.md", "evaluation.png"}


def test_robustness_without_corruption_is_the_zero_shot_accuracy(everything):
    clean = everything.metrics["robustness/kind/accuracy/none/mean"]
    assert clean == everything.metrics["zero_shot/kind/accuracy"]


def test_the_robustness_of_a_corruption_is_its_mean_over_severities(everything):
    name = "robustness/kind/accuracy/pixelate"
    five = [everything.metrics[f"{name}/{severity}"] for severity in range(1, 6)]
    assert everything.metrics[f"{name}/mean"] == pytest.approx(sum(five) / 5)


@pytest.mark.parametrize("names", [RUNTIMES, TASKS], ids=["runtimes", "tasks"])
def test_help_lists_every_runtime_and_task(names, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    words = set(re.split(r"[^a-z_]+", capsys.readouterr().out))
    assert set(names) <= words


@pytest.fixture(scope="module")
def listed_captions(checkpoint, tmp_path_factory):
    """Metrics of images with a list of captions each; scores of texts and images, and the pairs."""
    folder = tmp_path_factory.mktemp("listed")
    captions = [
        [f"a {c} square", f"{c}", f"see a {c} thing"][: 1 + n % 3] for n, c in enumerate(COLORS)
    ]
    rows = [{"text": texts} for texts in captions]
    data = write_dataset(folder / "data", rows, {"text": List(Value("string"))})
    metrics = run(checkpoint, data, folder / "out", "--tasks", "retrieval")["metrics"]
    model, processor = load_clip(str(checkpoint))
    split = open_dataset(str(data))["validation"]
    encoder = SharedEncoder(TorchEncoder(model, processor), batch_size=3)
    images = ImagesOnDisk(ImageRows(split, "image", "data")).embed(encoder).embeds
    texts = [text for listed in captions for text in listed]
    image_of_text = torch.tensor([row for row, listed in enumerate(captions) for _ in listed])
    scores = embed_texts(model, processor.tokenizer, texts) @ images.t()
    return metrics, scores, image_of_text[:, None] == torch.arange(8)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_each_of_several_captions_is_right(direction, k, listed_captions):
    """As for COCO: an image has a list of captions, and each of them finds it."""
    metrics, scores, pairs = listed_captions
    if direction == "image_to_text":
        scores, pairs = scores.t(), pairs.t()
    hits = zeroshot_retrieval.recall_at_k(scores, pairs, k) > 0
    measured = metrics[f"retrieval/text/{direction}/R@{k}"]
    assert measured == pytest.approx(hits.float().mean().item())


def test_average_precision_is_measured_where_a_query_has_several_right_items(listed_captions):
    metrics, _, _ = listed_captions
    with_map = {name for name in metrics if name.endswith("/mAP")}
    assert with_map == {"retrieval/text/image_to_text/mAP"}


def test_rows_of_one_concept_are_right_for_each_other(checkpoint, tmp_path):
    rows = [{"caption": f"a {c} square", "key": "same"} for c in COLORS]
    features = {"caption": Value("string"), "key": Value("string")}
    data = write_dataset(tmp_path / "data", rows, features)
    arguments = ["--tasks", "retrieval", "--concept_column", "key"]
    metrics = run(checkpoint, data, tmp_path / "out", *arguments)["metrics"]
    assert metrics["retrieval/caption/text_to_image/R@1"] == 1
    assert metrics["retrieval/caption/text_to_image/mAP"] == 1


ALLOWED = ["--tasks", "retrieval", "--max_bad_sample_ratio", "0.2"]


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory) -> Path:
    """A dataset whose fourth image cannot be read, and next to it the same without that row."""
    folder, features = tmp_path_factory.mktemp("unreadable"), {"caption": Value("string")}
    rows = [{"caption": f"a {color} square"} for color in COLORS]
    rows[3]["image"] = {"bytes": b"no image", "path": "third.png"}
    data = write_dataset(folder / "data", rows, features)
    write_dataset(folder / "without", rows[:3] + rows[4:], features)
    return data


def test_unreadable_images_are_counted_and_named(unreadable, checkpoint, tmp_path, capsys):
    report = run(checkpoint, unreadable, tmp_path, *ALLOWED)
    assert (report["num_images"], report["num_unreadable"]) == (7, 1)
    assert report["unreadable"][0].startswith("row 3, third.png (UnidentifiedImageError")
    assert "skipped row 3, third.png" in capsys.readouterr().err


def test_unreadable_images_are_left_out(unreadable, checkpoint, tmp_path):
    left_out = run(checkpoint, unreadable, tmp_path / "one", *ALLOWED)
    without = run(checkpoint, unreadable.parent / "without", tmp_path / "other", *ALLOWED)
    assert left_out["metrics"] == without["metrics"]


def test_too_many_unreadable_images_are_rejected(unreadable, checkpoint, capsys):
    command = ["evaluate", str(checkpoint), "--dataset", str(unreadable), *QUICK]
    assert main([*command, "--max_bad_sample_ratio", "0"]) == 1
    assert "1 of 8 rows" in capsys.readouterr().err


def test_images_are_not_kept(checkpoint, color_dataset):
    """However many rows there are, a batch of images is alive at a time."""
    model, processor = load_clip(str(checkpoint))
    encoder = SharedEncoder(TorchEncoder(model, processor), batch_size=4)
    split = open_dataset(str(color_dataset))["train"]
    prepare, alive = processor.image_processor, []

    def count() -> int:
        return sum(issubclass(type(one), PillowImage.Image) for one in gc.get_objects())

    def count_and_prepare(images, **options):
        alive.append(count())
        return prepare(images, **options)

    gc.collect()
    before = count()
    processor.image_processor = count_and_prepare
    try:
        ImagesOnDisk(ImageRows(split, "image", "colors")).embed(encoder)
    finally:
        processor.image_processor = prepare
    assert len(alive) == 4
    assert max(alive) - before <= 8


def drawn_captions(dataset, seed: int) -> list:
    """The captions of three rows that are drawn from a dataset."""
    options = EvaluationOptions(str(dataset), max_samples=3, seed=seed, num_workers=0)
    splits = open_dataset(str(dataset))
    return open_evaluation(options, splits, ImagesOnDisk).captions["caption_en"]


def test_max_samples_bounds_the_rows(color_dataset):
    assert len(drawn_captions(color_dataset, 0)) == 3


def test_a_draw_of_rows_is_the_seeds(color_dataset):
    assert drawn_captions(color_dataset, 0) == drawn_captions(color_dataset, 0)


def test_seeds_draw_different_rows(color_dataset):
    assert len({tuple(drawn_captions(color_dataset, seed)) for seed in range(4)}) > 1


def labelled(names: list[str] | None = None) -> dict:
    return {"label": ClassLabel(names=names or ["warm", "cold"])}


#: What is wrong -> rows, features, arguments, and what the sentence says.
WRONG = {
    "no such column": (
        [{"label": 0}] * 2,
        labelled(),
        ["--label_columns", "kind"],
        "has no column 'kind'",
    ),
    "no such image column": ([{}] * 2, {}, ["--image_column", "photo"], "has no column 'photo'"),
    "nothing to measure": ([{}] * 2, {}, [], "no column of captions and none of class labels"),
    "labels out of range": (
        [{"label": 0}, {"label": -1}],
        labelled(),
        [],
        "1 of 2 rows of DATA cannot be used, .*row 1 \\(its 'label' has the class -1, of 0 to 1",
    ),
    "no label": (
        [{"label": 0}, {"label": None}],
        labelled(),
        [],
        "1 of 2 rows of DATA cannot be used, .*row 1 \\(its 'label' has no class",
    ),
    "fractions as labels": (
        [{"label": 0.5}] * 2,
        {"label": Value("float64")},
        ["--label_columns", "label"],
        "holds float, not classes",
    ),
    "numbers as captions": (
        [{"number": 0}] * 2,
        {"number": Value("int64")},
        ["--caption_columns", "number"],
        "not captions",
    ),
    "an empty caption": (
        [{"caption": "red"}, {"caption": ""}],
        {"caption": Value("string")},
        [],
        "1 of 2 rows of DATA cannot be used, .*row 1 \\(its 'caption' is empty",
    ),
    "one sample": (
        [{"caption": "red"}],
        {"caption": Value("string")},
        ["--tasks", "retrieval"],
        "has one usable image",
    ),
    "no captions for retrieval": (
        [{"label": 0}] * 2,
        labelled(),
        ["--tasks", "retrieval"],
        "retrieval on DATA needs a column of captions",
    ),
    "no labels for a probe": (
        [{"caption": "red"}] * 2,
        {"caption": Value("string")},
        ["--tasks", "linear_probe"],
        "linear_probe on DATA needs a column of class labels",
    ),
    "no split to learn from": (
        [{"label": 0}] * 2,
        labelled(),
        ["--tasks", "knn"],
        "knn on DATA needs another split to learn from",
    ),
    "learning from what is measured": (
        [{"label": 0}] * 2,
        labelled(),
        ["--train_split", "validation"],
        "train_split='validation' is not allowed",
    ),
    "no such split": ([{"label": 0}] * 2, labelled(), ["--split", "dev"], "has no split 'dev'"),
    "no such templates": (
        [{"label": 0}] * 2,
        labelled(),
        ["--templates", "german"],
        "no set of templates 'german'",
    ),
    "no batch": ([{"label": 0}] * 2, labelled(), ["--batch_size", "0"], "batch_size=0 is not"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_what_cannot_be_measured_is_one_sentence(what, checkpoint, tmp_path, capsys):
    rows, features, arguments, sentence = WRONG[what]
    data = write_dataset(tmp_path / "data", [dict(row) for row in rows], features)
    command = ["evaluate", str(checkpoint), "--dataset", str(data), *QUICK, *arguments]
    assert main([*command, "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(sentence.replace("DATA", repr(str(data))), error), error
    assert not (tmp_path / "out").exists()


def test_an_empty_split_is_one_sentence(checkpoint, tmp_path, capsys):
    data = write_dataset(tmp_path / "data", [{"label": 0}] * 2, labelled(), "train")
    features = Features(of_images(labelled()))
    nothing = Dataset.from_dict({"image": [], "label": []}, features=features)
    nothing.to_parquet(data / "validation-00000-of-00001.parquet")
    assert main(["evaluate", str(checkpoint), "--dataset", str(data), *QUICK]) == 1
    assert f"split 'validation' of {str(data)!r} is empty" in capsys.readouterr().err


def evaluate_all(checkpoint, options: EvaluationOptions) -> EvaluationReport:
    source = open_evaluation(options, open_dataset(options.dataset), ImagesOnDisk)
    report = evaluate(source, load_encoder(str(checkpoint)))
    assert report is not None
    return report


def write_labelled_splits(folder: Path, train_classes: list[str]) -> EvaluationOptions:
    """Two splits that number their classes otherwise; cold is blue in both."""
    splits = DatasetDict()
    for split, classes, cold in (("train", train_classes, 1), ("validation", ["cold", "warm"], 0)):
        colors = {cold: "blue", 1 - cold: "red"}
        labels = [row % 2 for row in range(12)]
        rows = {"image": [draw_picture(colors[n], 0) for n in labels], "label": labels}
        splits[split] = Dataset.from_dict(rows, features=Features(of_images(labelled(classes))))
    splits.save_to_disk(folder)
    return EvaluationOptions(str(folder), tasks=["knn"], num_workers=0)


def test_classes_of_two_splits_are_matched_by_name(checkpoint, tmp_path):
    report = evaluate_all(checkpoint, write_labelled_splits(tmp_path, ["warm", "cold"]))
    values = {metric.task_key: metric.value for metric in report.metrics}
    assert values["knn/label/accuracy"] == 1


def test_a_class_that_the_evaluated_split_lacks_is_rejected(checkpoint, tmp_path):
    options = write_labelled_splits(tmp_path, ["mild", "cold"])
    with pytest.raises(DataError, match="'mild', which is none of the classes"):
        evaluate_all(checkpoint, options)


def test_a_checkpoint_that_is_no_clip_is_one_sentence(color_dataset, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert main(["evaluate", str(tmp_path), "--dataset", str(color_dataset)]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--num_workers", "1", "--tasks", "retrieval", "zero_shot"]])
def test_two_processes_measure_what_one_does(more, checkpoint, tmp_path):
    """An odd number of rows, one of them unreadable, so that the shares do not come out even."""
    rows = [{"caption": f"{c} {n}", "label": n % 2} for n in range(3) for c in COLORS][:21]
    rows[4]["image"] = {"bytes": b"no image", "path": "fourth.png"}
    features = {"caption": Value("string"), **labelled()}
    data = write_dataset(tmp_path / "data", rows, features)
    write_dataset(
        tmp_path / "data", [{"caption": "x", "label": n % 2} for n in range(15)], features, "train"
    )
    arguments = ["--batch_size", "4", "--max_bad_sample_ratio", "0.1", *QUICK, *more]
    one = run(checkpoint, data, tmp_path / "one", *arguments)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = "import sys; from modeling_clip_vit.cli import main; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"),
            *("--master_port", port, str(tmp_path / "program.py"), "evaluate", str(checkpoint)),
            *("--dataset", str(data), "--output_dir", str(tmp_path / "two"), *arguments),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("on 20 images") == 1
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert two["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    assert (two["num_images"], two["unreadable"]) == (one["num_images"], one["unreadable"])
