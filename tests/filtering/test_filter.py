"""The command `clip-vit filter`: what is kept, what is dropped and why."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.inference.loading import load_encoder
from tests.support.runs import write_recipe
from tests.support.stream_files import noisy_image, write_parquet, write_tars


def draw(seed: int, width: int = 64, height: int = 64) -> Image.Image:
    """A smooth picture of its own."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def write_table(folder: Path, rows: list[tuple[str, Image.Image | None, str]]) -> Path:
    """Picture files and their captions in metadata.csv."""
    folder.mkdir()
    for name, image, _ in rows:
        if image is not None:
            image.save(folder / name)
    lines = [(name, caption) for name, _, caption in rows]
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "caption"), *lines])
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A row for each reason, and three good ones."""
    small = draw(0).resize((40, 40))
    return write_table(
        tmp_path_factory.mktemp("pictures") / "rows",
        [
            ("0.png", draw(0), "a red square"),
            ("1.png", draw(1), "a green square"),
            ("2.png", draw(2), "a blue square"),
            ("copy.png", draw(0), "a red square once more"),
            ("small copy.png", small, "a red square"),
            ("tiny.png", draw(3, 16, 16), "a square"),
            ("wide.png", draw(4, 200, 40), "a square"),
            ("short.png", draw(5), "a"),
            ("missing.png", None, "a square"),
            ("no caption.png", draw(6), ""),
        ],
    )


def run(checkpoint, dataset, output: Path, *options: str) -> dict[str, dict[str, str]]:
    """Filter; returns the dropped rows by the start of their names."""
    assert main(["filter", str(checkpoint), str(dataset), str(output), *options]) == 0
    with (output / "dropped.csv").open(newline="") as file:
        return {row["row"]: row for row in csv.DictReader(file)}


def rows_of(output: Path) -> list[dict]:
    """The rows that are kept, as `datasets` loads them."""
    return load_dataset(str(output), split="train", cache_dir=str(output / "cache")).to_list()


def test_each_row_is_dropped_for_its_reason(pictures, tmp_path, capsys):
    options = ["--min_side", "32", "--max_aspect", "3", "--min_characters", "4"]
    options += ["--drop_duplicates", "true", "--reasons", "bytes,pixels"]
    dropped = run("none", pictures, tmp_path / "out", *options)
    reasons = {int(name.split()[-1]): row["reason"] for name, row in dropped.items()}
    assert reasons == {
        3: "duplicate",
        5: "side",
        6: "aspect",
        7: "length",
        8: "unreadable",
        9: "no_caption",
    }
    assert "kept 4 of 10 rows (40.0 %)" in capsys.readouterr().out


def test_a_duplicate_names_the_row_that_is_kept(pictures, checkpoint, tmp_path):
    dropped = run(checkpoint, pictures, tmp_path / "out", "--drop_duplicates", "true")
    copies = {name: row for name, row in dropped.items() if row["reason"] == "duplicate"}
    assert sorted(name.split()[-1] for name in copies) in (["0", "4"], ["3", "4"])
    [kept] = {row["duplicate_of"] for row in copies.values()}
    assert kept not in copies


def test_scores_are_cosines_of_image_and_caption(pictures, checkpoint, tmp_path):
    run(checkpoint, pictures, tmp_path / "out", "--batch_size", "2")
    encoder = load_encoder(str(checkpoint))
    rows = rows_of(tmp_path / "out")
    images = [Image.open(row["image"]["path"]).convert("RGB") for row in rows]
    texts = encoder.encode_text([row["caption"] for row in rows])
    cosines = (encoder.encode_image(images) * texts).sum(dim=1)
    assert torch.allclose(torch.tensor([row["clip_score"] for row in rows]), cosines, atol=1e-5)


def test_the_best_share_is_kept(pictures, checkpoint, tmp_path):
    run(checkpoint, pictures, tmp_path / "all")
    scores = sorted((row["clip_score"] for row in rows_of(tmp_path / "all")), reverse=True)
    run(checkpoint, pictures, tmp_path / "half", "--keep_share", "0.5")
    kept = sorted((row["clip_score"] for row in rows_of(tmp_path / "half")), reverse=True)
    assert kept == scores[: len(scores) // 2]


def test_rows_below_the_smallest_score_are_dropped(pictures, checkpoint, tmp_path):
    run(checkpoint, pictures, tmp_path / "all")
    scores = sorted(row["clip_score"] for row in rows_of(tmp_path / "all"))
    least = (scores[2] + scores[3]) / 2
    dropped = run(checkpoint, pictures, tmp_path / "out", "--min_score", str(least))
    assert [row["reason"] for row in dropped.values()].count("score") == 3


def test_images_that_are_files_are_named_and_not_copied(pictures, tmp_path):
    run("none", pictures, tmp_path / "out")
    images = [row["image"] for row in rows_of(tmp_path / "out")]
    assert all(image["bytes"] is None for image in images)
    assert images[0]["path"] == str(pictures / "0.png")


def test_copied_images_are_the_bytes_of_the_files(pictures, tmp_path):
    run("none", pictures, tmp_path / "out", "--copy_images", "true")
    images = [row["image"] for row in rows_of(tmp_path / "out")]
    assert images[0]["bytes"] == (pictures / "0.png").read_bytes()


def test_tars_keep_their_images_once(tmp_path):
    tars = write_tars(tmp_path / "tars", [5, 1, 4])
    run("none", tars, tmp_path / "out", "--min_characters", "12")
    rows = rows_of(tmp_path / "out")
    assert set(rows[0]) <= {"image", "caption", "txt"}
    for row in rows:
        number = int(row["caption"].split()[1])
        kind = ("PNG", "JPEG", "WEBP")[number % 3]
        assert row["image"]["bytes"] == noisy_image(number, kind)


def test_columns_of_parquet_keep_their_types(tmp_path):
    data = write_parquet(tmp_path / "data", [7, 3])
    run("none", data, tmp_path / "out", "--max_characters", "20")
    before, after = (open_dataset(str(folder))["train"] for folder in (data, tmp_path / "out"))
    assert before.features == after.features
    kept = [row for row in before.to_list() if len(row["caption"]) <= 20]
    assert 0 < len(kept) < len(before)
    assert after.to_list() == kept


def test_class_labels_stay_class_labels(color_dataset, tmp_path):
    run("none", color_dataset, tmp_path / "out", "--caption_columns", "caption_en")
    before, after = (
        open_dataset(str(folder))["train"] for folder in (color_dataset, tmp_path / "out")
    )
    assert after.features["kind"] == before.features["kind"]
    assert after["kind"] == before["kind"]


def test_batches_change_nothing(color_dataset, checkpoint, tmp_path):
    options = ["--keep_share", "0.5", "--drop_duplicates", "true"]
    for size in ("3", "100"):
        run(checkpoint, color_dataset, tmp_path / size, "--batch_size", size, *options)
    small, large = (rows_of(tmp_path / size) for size in ("3", "100"))
    assert [row["image"] for row in small] == [row["image"] for row in large]


def test_captions_in_another_language_are_dropped(tmp_path):
    pytest.importorskip("py3langid")
    captions = [
        "a small red house by the sea in the evening",
        "ein kleines rotes Haus am Meer am Abend, mit einem Boot davor",
        "海边的一座红色小房子",
    ]
    rows = [(f"{number}.png", draw(number), text) for number, text in enumerate(captions)]
    data = write_table(tmp_path / "data", rows)
    dropped = run("none", data, tmp_path / "out", "--languages", "en,zh")
    [row] = dropped.values()
    assert (row["reason"], row["language"]) == ("language", "de")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep_share", "0"], "keep_share=0.0 is not allowed: it must be above 0, up to 1"),
        (["--keep_share", "0.5"], "keep_share needs a model: give a checkpoint in place of none"),
        (["--drop_duplicates", "true"], "reasons: perceptual needs a model"),
        (["--reasons", "looks"], "reasons=['looks'] is not allowed"),
        (["--max_aspect", "0.5"], "max_aspect=0.5 is not allowed: it must be at least 1"),
        (["--min_side", "1000"], "no row of"),
        (["--split", "tset"], "has no split 'tset'"),
        (["--caption_columns", "captoin"], "has no column 'captoin'"),
    ],
)
def test_what_cannot_be_done_is_rejected_and_nothing_is_written(
    options, message, color_dataset, tmp_path, capsys
):
    output = tmp_path / "out"
    assert main(["filter", "none", str(color_dataset), str(output), *options]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_overwritten(color_dataset, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["filter", "none", str(color_dataset), str(tmp_path)]) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_what_is_kept_trains(color_dataset, model_config_folder, checkpoint, tmp_path):
    options = ["--keep_share", "0.75", "--caption_columns", "caption_en,caption_zh"]
    run(checkpoint, color_dataset, tmp_path / "kept", *options)
    evaluations = [{"dataset": str(color_dataset), "split": "validation", "tasks": ["retrieval"]}]
    fields = {"max_steps": 2, "per_device_train_batch_size": 4, "evaluations": evaluations}
    recipe = write_recipe(tmp_path, tmp_path / "kept", model_config_folder, **fields)
    assert main(["train", "--config", str(recipe), "--report_to", "none"]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    assert any(name.endswith("R@1") for name in metrics)
