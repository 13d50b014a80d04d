"""Transformers' own model tests pass on our models.

They come out of the source archive of the installed release, which pip downloads when the test is
run; the cases are in `mixin_cases.py`.
"""

import os
import re
import subprocess
import sys

from tests.support import REPOSITORY
from tests.support.transformers_tests import find_tests

#: So many cases passed when they were last counted; the others are skipped by Transformers.
CASES = 350


def test_the_model_tests_of_transformers_pass():
    environment = {**os.environ, "PYTHONPATH": str(find_tests())}
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
