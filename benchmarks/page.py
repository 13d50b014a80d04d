"""How fast the static page is in Chromium: ready, a search, a dropped picture, an explanation.

    clip-vit index outputs/emoji data/emoji emoji.index --split validation
    python benchmarks/page.py emoji.index --json page.json

Needs Chromium and selenium, as tests/README.md says. The browser reaches no host but this
machine, has never seen the page before, and computes with one thread.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from modeling_clip_vit.page.site import SiteOptions, write_site
from modeling_clip_vit.search.index import PictureIndex
from tests.support.browsers import Browser, serve, to_base64

NUM_QUERIES = 400
SCRIPT = """
const { Computer, LocalBackend } = await import("./backend.js");
const site = await (await fetch("data/site.json")).json();
const computer = new Computer();
const backend = new LocalBackend(site, computer);
await Promise.all([backend.open(), computer.call("load", site)]);
const time = async (run) => {
  const started = performance.now();
  const result = await run();
  return [performance.now() - started, result];
};
"""
SEARCHES = """
const times = [], rows = [];
for (const text of values[0]) {
  const [milliseconds, found] = await time(() => backend.search([{ text, weight: 1 }], 36, []));
  times.push(milliseconds);
  rows.push(found.hits.slice(0, 10).map(({ key }) => key));
}
return { times, rows };
"""
PICTURES = """
const { readPixels } = await import("./pictures.js");
const bytes = Uint8Array.from(atob(values[0]), (character) => character.charCodeAt(0));
const drop = async () => backend.embedPicture(await readPixels(new Blob([bytes]), "picture"));
const [first] = await time(drop);
const times = [];
for (let i = 0; i < 20; i++) times.push((await time(drop))[0]);
const pixels = await readPixels(new Blob([bytes]), "picture");
const terms = [{ text: "a slice of pizza", weight: 1 }];
const [explanation] = await time(() => computer.call("explain", pixels, terms));
return { first, times, explanation };
"""


def read_queries(count: int) -> list[str]:
    """Names of emoji in English and Chinese."""
    path = Path(__file__).parents[1] / "data/emoji/data/validation-00000-of-00001.parquet"
    rows = pq.read_table(path, columns=["caption_en", "caption_zh"]).to_pylist()
    return [row[name] for row in rows for name in ("caption_en", "caption_zh")][:count]


def measure_start(address: str, runs: int) -> list[float]:
    """Milliseconds from opening the address until a text can be searched for."""
    times = []
    for _ in range(runs):
        with Browser() as browser:
            browser.open(address)
            times.append(browser.run("return Number(document.documentElement.dataset.readyAfter)"))
    return times


def share_equal(index: PictureIndex, site: Path, queries: list[str], rows: list) -> float:
    """The share of queries whose ten best pictures are those of Python, in the same order."""
    size = index.settings.model.embedding_size
    vectors = np.fromfile(site / "data/vectors.bin", np.float32).reshape(-1, size)
    scores = index.text_encoder()(queries) @ vectors.T
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :10].tolist()
    return sum(map(list.__eq__, expected, rows)) / len(queries)


def measure(index: PictureIndex, site: Path, runs: int, picture: bytes) -> dict[str, Any]:
    """All figures of a site."""
    queries = read_queries(NUM_QUERIES)
    with serve(site) as address:
        starts = measure_start(address, runs)
        with Browser() as browser:
            browser.open(address)
            searches = browser.compute(SCRIPT + SEARCHES, queries)
            pictures = browser.compute(SCRIPT + PICTURES, to_base64(picture))
    description = json.loads((site / "data/site.json").read_text(encoding="utf-8"))
    return {
        "pictures": description["count"],
        "loaded before the first search, MB": description["load_bytes"] / 1e6,
        "ready, ms": statistics.median(starts),
        "search, median, ms": statistics.median(searches["times"]),
        "search, 95th percentile, ms": float(np.quantile(searches["times"], 0.95)),
        "dropped picture, first, ms": pictures["first"],
        "dropped picture, median, ms": statistics.median(pictures["times"]),
        "explanation, ms": pictures["explanation"],
        "queries ranked as by Python, %": 100 * share_equal(index, site, queries, searches["rows"]),
    }


def main():
    """Write the site, measure it, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("--runs", type=int, default=5, help="number of browsers to start")
    parser.add_argument("--json", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    index = PictureIndex.open(options.index)
    with tempfile.TemporaryDirectory() as place:
        site = Path(place) / "site"
        write_site(index, site, SiteOptions())
        picture = (site / "data/thumbnails/0/0.webp").read_bytes()
        figures = measure(index, site, options.runs, picture)
    for name, value in figures.items():
        print(
            f"| {name} | {value:,.1f} |" if isinstance(value, float) else f"| {name} | {value:,} |"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
