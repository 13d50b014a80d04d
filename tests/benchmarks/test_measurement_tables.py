"""The tables of the documents are those of docs/measurements."""

import pytest

from benchmarks.measurement_tables import PAGES, fill, read_measurements
from tests.support import REPOSITORY
from tests.support.documents import twin

ENGLISH = [(REPOSITORY / name, "en") for name in PAGES]
CHINESE = [(twin(path), "zh") for path, _ in ENGLISH]


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
