"""Wrong captions in the training data: are they found, and what is it worth to drop them?

    python benchmarks/filtering.py [--wrong 0.2] [--steps 100] [--batch_size 96] [--seed 0]
        [--cross_fit] [--json filtering.json]

A share of the pictures of data/emoji's training split get the texts, tags and concept of another
concept. A model is trained on that data from scratch, by the default recipe with fewer and smaller
updates, and scores the pairs of the same data (`filtered`). With `--cross_fit`, two more models are
trained, each on a random half, and each scores the half that it has not seen (`cross-fitted`). Of
the scores, prints the area under the ROC curve for finding the wrong pairs. `clip-vit filter` keeps
as large a share as is right, and models are trained alike on the noisy, the filtered and the clean
data, for equally many updates; prints R@1 on the validation split.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset
from training_runs import ROOT, train

from modeling_clip_vit.filtering.filter import filter_dataset
from modeling_clip_vit.filtering.options import FilterOptions
from modeling_clip_vit.inference.loading import load_encoder

#: What a picture gets from another concept.
TEXT_SIDE = ["caption_en", "caption_zh", "tags_en", "tags_zh", "hexcode", "group", "subgroup"]
CAPTIONS = ["caption_en", "caption_zh"]


def spoil(rows: Dataset, share: float, seed: int) -> Dataset:
    """The rows, a share of them with the text side of another concept, as `is_wrong` says."""
    rng = np.random.default_rng(seed)
    concepts = np.array(rows["hexcode"])
    chosen = rng.choice(len(rows), round(share * len(rows)), replace=False)
    others = rng.permutation(chosen)
    while (same := concepts[chosen] == concepts[others]).any():
        partners = rng.choice(len(chosen), same.sum())
        for place, partner in zip(np.flatnonzero(same), partners, strict=True):
            others[[place, partner]] = others[[partner, place]]
    source = np.arange(len(rows))
    source[chosen] = others
    texts = rows.select_columns(TEXT_SIDE).select(source)
    pictures = rows.remove_columns(TEXT_SIDE)
    is_wrong = np.isin(np.arange(len(rows)), chosen)
    return concatenate_datasets([pictures, texts], axis=1).add_column("is_wrong", is_wrong.tolist())


def train_and_report(data: Path, output: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train on a dataset; the R@1 of the validation split of data/emoji."""
    evaluation = {"dataset": str(ROOT / "data/emoji"), "split": "validation"}
    evaluation |= {"tasks": ["retrieval"], "caption_columns": CAPTIONS, "concept_column": "hexcode"}
    arguments = {
        "dataset": data,
        "output_dir": output,
        "evaluations": json.dumps([evaluation]),
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "seed": options.seed,
        "eval_steps": 0,
        "save_steps": 0,
        "report_to": "none",
    }
    metrics = train("emoji", arguments)
    return {name: value for name, value in metrics.items() if name.endswith("R@1")}


def write(rows: Dataset, folder: Path) -> Path:
    """A dataset of one file."""
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "train.parquet")
    return folder


def filtered(model: Path, data: Path, output: Path, share: float | None) -> Dataset:
    """What `clip-vit filter` keeps of a dataset."""
    options = FilterOptions(caption_columns=CAPTIONS, keep_share=share)
    filter_dataset(load_encoder(str(model)), str(data), output, options)
    return load_dataset(str(output), split="train", cache_dir=str(output / "cache"))


def area_under_curve(scores: np.ndarray, is_wrong: np.ndarray) -> float:
    """How often a wrong pair has a lower score than a right one; a tie counts half."""
    wrong, right = scores[is_wrong], np.sort(scores[~is_wrong])
    above = len(right) - np.searchsorted(right, wrong, side="right")
    ties = np.searchsorted(right, wrong, side="right") - np.searchsorted(right, wrong)
    return float((above + ties / 2).mean() / len(right))


def describe(kept: Dataset, scored: Dataset) -> dict[str, float]:
    """How well wrong pairs are found, and how many are left."""
    scores, is_wrong = np.array(scored["clip_score"]), np.array(scored["is_wrong"])
    return {
        "area_under_curve": area_under_curve(scores, is_wrong),
        "wrong_left": float(np.mean(kept["is_wrong"])),
        "rows": len(kept),
    }


def measure(options: argparse.Namespace, work: Path) -> dict[str, dict[str, float]]:
    """The figures of every dataset."""
    clean = load_dataset(str(ROOT / "data/emoji"), split="train")
    noisy = spoil(clean, options.wrong, options.seed)
    noisy_data, model = write(noisy, work / "noisy"), work / "noisy_model"
    results = {
        "noisy": {"wrong_left": options.wrong, **train_and_report(noisy_data, model, options)}
    }
    scored = filtered(model, noisy_data, work / "scored", None)
    kept = filtered(model, noisy_data, work / "filtered", 1 - options.wrong)
    results["filtered"] = describe(kept, scored)
    results["filtered"] |= train_and_report(work / "filtered", work / "filtered_model", options)
    if options.cross_fit:
        kept, scored = cross_fit(noisy, work, options)
        results["cross-fitted"] = describe(kept, scored)
        data = write(kept, work / "cross_fitted")
        results["cross-fitted"] |= train_and_report(data, work / "cross_fitted_model", options)
    data = write(clean, work / "clean")
    recalls = train_and_report(data, work / "clean_model", options)
    results["clean"] = {"wrong_left": 0.0, **recalls}
    return results


def cross_fit(noisy: Dataset, work: Path, options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """The rows that are kept, and all with scores, where a model has not seen what it scores."""
    order = np.random.default_rng(options.seed + 1).permutation(len(noisy))
    halves = [noisy.select(np.sort(order[start::2])) for start in (0, 1)]
    kept, scored = [], []
    for number, half in enumerate(halves):
        folder = work / f"half_{number}"
        data, model = write(half, folder / "scored"), folder / "model"
        train_and_report(write(halves[1 - number], folder / "train"), model, options)
        scored.append(filtered(model, data, folder / "all", None))
        kept.append(filtered(model, data, folder / "kept", 1 - options.wrong))
    return concatenate_datasets(kept), concatenate_datasets(scored)


def write_table(results: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each dataset."""
    columns = list(dict.fromkeys(name for row in results.values() for name in row))
    lines = [f"| trained on | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for name, row in results.items():
        cells = [f"{row[column]:.4g}" if column in row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrong", type=float, default=0.2, help="share of wrong captions")
    parser.add_argument("--steps", type=int, default=100, help="updates of each training run")
    parser.add_argument("--batch_size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cross_fit", action="store_true", help="score by two more models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(options, Path(folder))
    print(write_table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
