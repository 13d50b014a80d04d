"""Transformers' own model tests pass on our models.

They are in the source archive of the installed release, which pip downloads when the test runs; the
cases are in `tests/support/programs/mixin_cases.py`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.transformers_tests import DownloadError, find_tests

#: Cases that passed when they were last counted; Transformers skips the others.
CASES = 350


@pytest.fixture(scope="module")
def transformers_tests() -> Path:
    """The folder of the package with Transformers' tests, from the network the first time."""
    try:
        return find_tests()
    except DownloadError as error:
        pytest.skip(str(error))


def test_the_model_tests_of_transformers_pass(transformers_tests):
    environment = {**os.environ, "PYTHONPATH": str(transformers_tests)}
    cases = REPOSITORY / "tests" / "support" / "programs" / "mixin_cases.py"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-o",
        "addopts=",
        "-p",
        "no:cacheprovider",
        str(cases),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= CASES, done.stdout[-500:]
