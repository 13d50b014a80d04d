"""Several measurements in one command."""

import json
from argparse import Namespace

import pytest
from sections import Section, run_sections

GOOD = Section('-c \'open("{file}", "w").write("[3]")\'', "", 60)
BAD = Section("-c 'print(\"no such kernel\"); raise SystemExit(1)'", "", 60)
SLOW = Section("-c 'import time; time.sleep(60)'", "", 1)


@pytest.fixture
def measure(tmp_path):
    """Runs sections with options; returns how many failed and what the file has."""

    def run(sections, **changes):
        given = {"only": None, "missing": False, "small": False, "minutes": 1.0, **changes}
        path = tmp_path / "figures.json"
        failures = run_sections(sections, Namespace(**given), path, {"device": "here"})
        return failures, json.loads(path.read_text())["sections"]

    return run


def test_a_section_leaves_its_figures_and_where_they_are_from(measure):
    failures, found = measure({"good": GOOD})
    assert failures == 0
    assert (found["good"]["figures"], found["good"]["on"]) == ([3], {"device": "here"})


@pytest.mark.parametrize(
    ("section", "said"), [(BAD, "no such kernel"), (SLOW, "stopped after 1 s")]
)
def test_a_section_that_fails_leaves_what_it_said_and_the_next_one_runs(measure, section, said):
    failures, found = measure({"bad": section, "good": GOOD})
    assert failures == 1
    assert said in found["bad"]["failed"]
    assert found["good"]["figures"] == [3]


def test_a_section_that_fails_keeps_its_former_figures(measure):
    measure({"one": GOOD})
    failures, found = measure({"one": BAD})
    assert (failures, found["one"]["figures"]) == (1, [3])


def test_only_missing_sections_run_again(measure):
    measure({"one": GOOD, "two": BAD})
    failures, found = measure({"one": BAD, "two": GOOD}, missing=True)
    assert failures == 0
    assert found["two"]["figures"] == [3]


def test_the_file_has_the_sections_that_ran_earlier(measure):
    measure({"one": GOOD, "two": GOOD}, only=["one"])
    _, found = measure({"one": GOOD, "two": GOOD}, only=["two"])
    assert found.keys() == {"one", "two"}
