"""How well a search can tell that a collection lacks what is searched for.

    npm pack emoji-datasource-facebook && tar xzf emoji-datasource-facebook-*.tgz
    clip-vit train --config emoji --loss siglip --model_config … --max_steps 500 --label_smoothing 0
    python benchmarks/search_cut.py --models outputs/emoji outputs/siglip \
        --facebook package [--json search_cut.json]

Queries are names of emoji in English and Chinese, "a photo of a NAME" and single tags. Each is
searched twice: with the picture of that name in the collection, and with all pictures of its
subgroup taken out, so that nothing fits. Besides, 60 texts about other things fit nothing.
Collections: the artist of data/emoji that training never saw; the same concepts by a fourth artist
(Facebook's, from npm); draws of 100 pictures of the first; and data/digits, in which no name of an
emoji fits. Each method gives the best hit of a search a number. Even queries choose the threshold,
on the first model and the first collection; odd queries are measured, everywhere. The error is
the mean of the share of misses and the share of false alarms: 50 % is a guess.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_dataset

from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.inference.loading import Encoder, load_encoder
from modeling_clip_vit.search.cut import DEFAULT_MARGIN, Cut, background_texts
from modeling_clip_vit.search.query import EmbeddedQuery

DATA = Path(__file__).parents[1] / "data"
UNSEEN_ARTIST = "fluent"
#: The margin, with a threshold chosen as those of the other methods.
FIRST = "margin, threshold of the first"
#: A method of models with a logit bias alone.
SIGMOID = "sigmoid's probability"

OTHER_THINGS = """a mortgage application form|quarterly earnings of an insurance company
the second law of thermodynamics|a spreadsheet with pivot tables|my grandmother's kitchen in 1962
a blueprint of a hydroelectric dam|minutes of the parish council|a crossword puzzle
rice terraces in Yunnan from the air|X-ray of a fractured tibia|the periodic table
assembly instructions for a bookcase|tagliatelle on a checked tablecloth|a rental contract
a wiring diagram of a doorbell|graffiti on a railway carriage|source code in Fortran
a bar chart of unemployment rates|a cathedral's flying buttresses|a receipt from the supermarket
the floor plan of a flat with two bedrooms|a page of sheet music by Bach|a boarding pass
an oil painting of a windmill|a lecture hall full of students|a close-up of tree bark
a knitting pattern for a cardigan|a satellite image of the Aral Sea|a passport photograph
a steam locomotive crossing a viaduct|an electron micrograph of pollen|a tide table
traffic jam on the motorway at dusk|a bouquet at a funeral|the Mona Lisa|a Victorian wardrobe
a warning about asbestos|a half-timbered inn|moss on a gravestone|a chess endgame
一份抵押贷款申请表|季度财务报告|热力学第二定律|水电站的蓝图|云南梯田的航拍照片|骨折的X光片|书柜的安装说明书
元素周期表|门铃的电路图|租房合同|超市的小票|一页巴赫的乐谱|风车油画|坐满学生的教室|登机牌|蒙娜丽莎
黄昏时高速公路上的堵车|墓碑上的青苔|两室一厅的户型图|失业率柱状图""".replace("\n", "|").split("|")


@dataclass
class Collection:
    """Embedded pictures, and queries of which each has its picture among them.

    Args:
        pictures: (N, P).
        subgroups: of each picture.
        queries: (Q, P).
        targets: place of the picture of each query.
        others: queries that fit nothing, (O, P).
    """

    pictures: np.ndarray
    subgroups: np.ndarray
    queries: np.ndarray
    targets: np.ndarray
    others: np.ndarray


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["outputs/emoji"])
    parser.add_argument("--facebook", type=Path, help="unpacked npm package")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scores: dict[str, dict[str, list[np.ndarray]]] = {}
    for model in options.models:
        encoder = load_encoder(model)
        for name, collection in collections(encoder, options.facebook).items():
            key = f"{Path(model).name}, {name}"
            scores[key] = measure(collection, encoder)
            if encoder.similarity[1] is None:
                del scores[key][SIGMOID]
    results = {key: {} for key in scores}
    first = next(iter(scores))
    for method in METHODS:
        threshold = 0.0  # of a sigmoid's logit: a probability of one half
        if method in scores[first]:
            threshold = best_threshold(*scores[first][method][:2])
        if method == "margin":
            best = [best_threshold(*s[method][:2]) for s in scores.values() if len(s[method][0])]
            print(f"thresholds of the margin: {', '.join(f'{it:.2f}' for it in best)}")
            for key in scores:
                results[key][FIRST] = describe(scores[key][method], threshold)
            threshold = DEFAULT_MARGIN
        for key in scores:
            if method in scores[key]:
                results[key][method] = describe(scores[key][method], threshold)
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def collections(encoder: Encoder, facebook: Path | None) -> dict[str, Collection]:
    """The collections, embedded with a model."""
    files = {s: str(DATA / f"emoji/data/{s}-*.parquet") for s in ("train", "validation", "test")}
    emoji = load_dataset("parquet", data_files=files)
    artist = emoji["test"].features["artist"].str2int(UNSEEN_ARTIST)
    known, new = emoji["validation"], emoji["test"].filter(lambda row: row["artist"] == artist)
    others = encoder.encode_text(OTHER_THINGS).numpy()
    queries, targets = embed_names(encoder, known, np.arange(len(known)))
    pictures = embed_pictures(encoder, [*known["image"], *new["image"]])
    subgroups = np.array([*known["subgroup"], *new["subgroup"]])
    unseen = Collection(pictures, subgroups, queries, targets, others)
    found = {"unseen artist": unseen}
    if facebook is not None:
        found["fourth artist"] = fourth_artist(encoder, known, new, facebook, others)
    found["100 of the unseen"] = draw(unseen, 100)
    digits = load_dataset("parquet", data_files=str(DATA / "digits/data/validation-*.parquet"))
    absent = np.concatenate([queries[: len(known) : 3], others])
    pictures = embed_pictures(encoder, digits["train"]["image"])
    classes = np.zeros(len(pictures), int)
    found["digits"] = Collection(pictures, classes, queries[:0], classes[:0], absent)
    return found


def embed_names(encoder: Encoder, rows: Dataset, places: np.ndarray):
    """Four texts of each row, (4 N, P), and the places of their pictures."""
    tags = [row[number % len(row)] for number, row in enumerate(rows["tags_en"])]
    texts = [*rows["caption_en"], *rows["caption_zh"]]
    texts += [f"a photo of a {name}" for name in rows["caption_en"]] + tags
    return encoder.encode_text(texts).numpy(), np.tile(places, 4)


def embed_pictures(encoder: Encoder, images: list) -> np.ndarray:
    """Embeddings of encoded or decoded images, (N, P)."""
    parts = [
        encoder.encode_image([decode_image(image) for image in images[start : start + 256]])
        for start in range(0, len(images), 256)
    ]
    return torch.cat(parts).numpy()


def fourth_artist(encoder, known: Dataset, new: Dataset, package: Path, others) -> Collection:
    """The same concepts as drawn by Facebook."""

    def plain(code: str) -> str:
        return code.lower().replace("-fe0f", "")

    files = {plain(path.stem): path for path in (package / "img/facebook/64").glob("*.png")}
    chosen = [place for place, code in enumerate(known["hexcode"]) if plain(code) in files]
    rows = known.select(chosen)
    more = [row for row in new if plain(row["hexcode"]) in files]
    codes = [*rows["hexcode"], *(row["hexcode"] for row in more)]
    pictures = embed_pictures(encoder, [str(files[plain(code)]) for code in codes])
    subgroups = np.array([*rows["subgroup"], *(row["subgroup"] for row in more)])
    queries, targets = embed_names(encoder, rows, np.arange(len(rows)))
    return Collection(pictures, subgroups, queries, targets, others)


def draw(whole: Collection, size: int) -> list[Collection]:
    """Ten small collections, drawn from a large one."""
    drawn = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        kept = generator.choice(len(whole.pictures), size, replace=False)
        new_place = np.full(len(whole.pictures), -1)
        new_place[kept] = np.arange(size)
        chosen = new_place[whole.targets] >= 0
        drawn.append(
            Collection(
                whole.pictures[kept],
                whole.subgroups[kept],
                whole.queries[chosen],
                new_place[whole.targets[chosen]],
                whole.others,
            )
        )
    return drawn


def measure(collection: Collection | list[Collection], encoder: Encoder):
    """Each method's numbers: of fits and others among even queries, the same among odd ones."""
    if isinstance(collection, list):
        parts = [measure(part, encoder) for part in collection]
        return {
            name: [np.concatenate([part[name][kind] for part in parts]) for kind in range(4)]
            for name in parts[0]
        }
    background = encoder.encode_text(background_texts()).numpy()
    pictures, queries = collection.pictures, collection.queries
    judge = Judge(pictures, background, *encoder.similarity)
    with_it = queries @ pictures.T
    gone = collection.subgroups[None] == collection.subgroups[collection.targets][:, None]
    present = judge(queries, with_it)
    absent = judge(queries, np.where(gone, -np.inf, with_it))
    foreign = judge(collection.others, collection.others @ pictures.T)
    even, even_other = np.arange(len(queries)) % 2 == 0, np.arange(len(collection.others)) % 2 == 0
    return {
        name: [
            present[name][even],
            np.concatenate([absent[name][even], foreign[name][even_other]]),
            present[name][~even],
            np.concatenate([absent[name][~even], foreign[name][~even_other]]),
        ]
        for name in present
    }


class Judge:
    """Says by several methods how well the best hit of a query fits.

    Args:
        pictures: of a collection, (N, P).
        background: embeddings of texts about everything, (T, P).
        scale: the factor on cosines that makes them logits.
        bias: what is added to them; None for a softmax model.
    """

    def __init__(self, pictures, background, scale: float, bias: float | None):
        self.pictures, self.background, self.scale, self.bias = pictures, background, scale, bias
        self.by_texts = pictures @ background.T
        self.cut = Cut.measure(background, pictures)

    def __call__(self, queries: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Each method's number for each query, (Q,).

        Args:
            queries: (Q, P).
            scores: cosines, (Q, N); minus infinity for pictures that are not there.
        """
        rows = np.arange(len(queries))
        if not len(rows):
            return {name: np.zeros(0) for name in METHODS}
        known = np.where(np.isfinite(scores), scores, np.nan)
        best, counts = scores.argmax(axis=1), np.isfinite(scores).sum(axis=1)
        top, second = scores[rows, best], np.sort(scores, axis=1)[:, -2]
        mean, deviation = np.nanmean(known, axis=1), np.nanstd(known, axis=1)
        texts = self.by_texts[best]
        # The background's nearest texts say the same as the query, and are left out.
        near = np.argsort(-(queries @ self.background.T), axis=1)[:, :10]
        others = texts.copy()
        np.put_along_axis(others, near, np.nan, axis=1)
        high = np.nanpercentile(known, 95, axis=1)
        excess = np.where(known > high[:, None], known - high[:, None], np.nan)
        excess[rows, best] = np.nan
        margins = [
            self.cut.margins(EmbeddedQuery(query), self.pictures[[place]], count)[0]
            for query, place, count in zip(queries, best, counts, strict=True)
        ]
        return {
            "cosine": top,
            SIGMOID: top * self.scale + (self.bias or 0),
            "z over the collection": (top - mean) / deviation,
            "z, less its expected maximum": (top - mean) / deviation - np.sqrt(2 * np.log(counts)),
            "distance to the second": top - second,
            "extreme-value tail": (top - high) / np.nanmean(excess, axis=1),
            "z over background texts": (top - np.nanmean(others, 1)) / np.nanstd(others, 1),
            "softmax over background texts": self.scale * top
            - np.log(np.nanmean(np.exp(self.scale * others), axis=1)),
            "both z": (top - mean) / deviation
            + (top - np.nanmean(others, 1)) / np.nanstd(others, 1),
            "margin": np.array(margins),
        }


METHODS = (
    *("cosine", SIGMOID, "z over the collection", "z, less its expected maximum"),
    *("distance to the second", "extreme-value tail", "z over background texts"),
    *("softmax over background texts", "both z", "margin"),
)


def best_threshold(fits: np.ndarray, others: np.ndarray) -> float:
    """The threshold of the least error."""
    tried = np.quantile(np.concatenate([fits, others]), np.linspace(0.01, 0.99, 197))
    return float(tried[np.argmin([error(fits, others, it) for it in tried])])


def error(fits: np.ndarray, others: np.ndarray, threshold: float) -> float:
    """Mean of the share of misses and the share of false alarms."""
    return float((np.mean(fits < threshold) + np.mean(others >= threshold)) / 2)


def area(fits: np.ndarray, others: np.ndarray) -> float:
    """Area under the ROC curve; ties count half."""
    values = np.concatenate([others, fits])
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places][len(others) :]
    return float((ranks.mean() - (len(fits) + 1) / 2) / len(others))


def describe(numbers: list[np.ndarray], threshold: float) -> dict[str, float]:
    """Area, errors and the least possible error on odd queries."""
    _, _, fits, others = numbers
    result = {"threshold": threshold, "false_alarms": float(np.mean(others >= threshold))}
    if len(fits):
        result |= {
            "area": area(fits, others),
            "misses": float(np.mean(fits < threshold)),
            "error": error(fits, others, threshold),
            "least_error": error(fits, others, best_threshold(fits, others)),
        }
    return result


def show(results: dict[str, dict[str, dict[str, float]]]):
    """Print a table for each model and collection, and the mean of the errors."""
    for key, methods in results.items():
        print(f"\n{key}")
        print("| method | AUC | error | misses | false alarms | least error |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name, it in methods.items():
            numbers = [
                it.get(field) for field in ("error", "misses", "false_alarms", "least_error")
            ]
            shown = [" " if number is None else f"{number:.1%}" for number in numbers]
            print(f"| {name} | {it['area']:.3f} |" if "area" in it else f"| {name} | |", end=" ")
            print(" | ".join(shown), "|")
    print("\n| method | mean error over models and collections |\n| --- | --- |")
    for name in (*METHODS, FIRST):
        errors = [it[name]["error"] for it in results.values() if "error" in it.get(name, {})]
        print(f"| {name} | {np.mean(errors):.1%} |")


if __name__ == "__main__":
    main()
