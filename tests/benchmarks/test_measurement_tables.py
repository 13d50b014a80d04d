"""The tables of the documents are those of docs/measurements."""

import pytest
from measurement_tables import CPU, GPU, PAGES, TABLES, fill, read_measurements, write_table
from measurement_words import Language

from tests.support import REPOSITORY
from tests.support.documents import twin

ENGLISH = [(REPOSITORY / name, "en") for name in PAGES]
CHINESE = [(twin(path), "zh") for path, _ in ENGLISH]


def multiplied(value):
    """The same figures, each number 3 times as large."""
    if isinstance(value, dict):
        return {key: multiplied(child) for key, child in value.items()}
    if isinstance(value, list):
        return [multiplied(child) for child in value]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return 3 * value if is_number else value


@pytest.mark.parametrize(
    ("page", "language"), ENGLISH + CHINESE, ids=lambda value: getattr(value, "name", value)
)
def test_the_tables_of_a_page_are_those_of_the_figures(page, language):
    text = page.read_text(encoding="utf-8")
    assert "<!-- table: " in text
    assert fill(text, read_measurements(), language) == text


def test_a_changed_figure_changes_the_page():
    measurements = read_measurements()
    for metric in measurements["default_run"]["metrics"]:
        metric["value"] = 0.123
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert fill(text, measurements, "en").count("| 12.3 % | 12.3 % | 12.3 % |") == 3


@pytest.mark.parametrize("file", ["default_run", CPU, GPU, "padding_texts", "padding_images"])
def test_every_table_follows_the_figures_of_its_file(file):
    measurements = read_measurements()
    say, changed = Language("en"), {**measurements, file: multiplied(measurements[file])}
    names = [name for name in TABLES if TABLES[name].file == file]
    names = [name for name in names if write_table(name, measurements, say) != "not measured"]
    assert names
    for name in names:
        assert write_table(name, measurements, say) != write_table(name, changed, say), name


@pytest.mark.parametrize(
    ("file", "section", "keys"),
    [
        (CPU, "steps", ("fp32", "ours")),
        (CPU, "loss_memory", ("ours, tiled",)),
        (CPU, "inference", ("models", "base-patch32", -1)),
        (GPU, "b32", ("bf16", "ours")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_comparison_in_the_readme_follows_each_of_its_measurements(file, section, keys):
    measurements, say = read_measurements(), Language("en")
    before = write_table("why", measurements, say)
    figures = measurements[file]["sections"][section]["figures"]
    for key in keys[:-1]:
        figures = figures[key]
    figures[keys[-1]] = multiplied(figures[keys[-1]])
    assert write_table("why", measurements, say) != before


def test_a_section_that_was_not_measured_says_so():
    measurements = {**read_measurements(), GPU: {"sections": {}}}
    assert write_table("gpu_b32", measurements, Language("en")) == "not measured"
    assert write_table("gpu_b32", measurements, Language("zh")) == "没有测量"
