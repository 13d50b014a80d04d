"""What several processes draw alike, and what each draws for itself."""

import subprocess
import sys

from tests.support import REPOSITORY
from tests.support.processes import PATIENCE, TWO_PROCESSES
from tests.support.runs import write_recipe


def test_each_process_drops_its_own(tmp_path, color_dataset, model_config_folder):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder, report_to="none")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *TWO_PROCESSES]
    program = ["--module", "tests.support.programs.check_randomness", str(recipe)]
    done = subprocess.run(
        [*launcher, *program], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-2000:]
