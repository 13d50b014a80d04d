"""Published models in processes of their own: all commands, two at once, and killed ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_clip_vit.inference.loading import load_encoder
from tests.support import REPOSITORY
from tests.support.peers import save_hf_clip, save_hf_siglip, save_open_clip, save_open_clip_siglip
from tests.support.processes import TWO_PROCESSES
from tests.support.runs import save_recipe

pytestmark = pytest.mark.slow

PROGRAM = REPOSITORY / "tests" / "support" / "programs" / "use_published.py"
#: Implementation -> what saves a small model of it.
PEERS = {
    "hf_clip": save_hf_clip,
    "hf_siglip": save_hf_siglip,
    "open_clip": save_open_clip,
    "open_clip of SigLIP's type": save_open_clip_siglip,
}


def start(folder: Path, *arguments: object) -> subprocess.Popen:
    """Start Python with a cache in this folder."""
    place = {"HF_HOME": str(folder / "hf"), "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **place},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def converted_folders(folder: Path) -> list[Path]:
    """What is in the cache, but the locks."""
    return sorted((folder / "hf" / "clip-vit" / "converted").glob("[!.]*"))


def last_line(printed: str) -> str:
    """What a program printed last; packages may print before it."""
    return printed.splitlines()[-1]


@pytest.mark.parametrize("peer", PEERS)
def test_every_command_takes_it_and_one_converts_it(tmp_path, color_dataset, peer):
    PEERS[peer](tmp_path / "peer")
    name = peer.split()[0]
    process = start(tmp_path, PROGRAM, tmp_path / "peer", color_dataset, tmp_path / "out", name)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    assert errors.count("was converted") == 1
    assert (tmp_path / "out" / "run" / name).is_dir()


CONVERT = """
import sys
from modeling_clip_vit.conversion.published import local_checkpoint
print(local_checkpoint(sys.argv[1]))
"""


def test_of_two_processes_one_converts(tmp_path):
    save_hf_clip(tmp_path / "peer")
    processes = [start(tmp_path, "-c", CONVERT, tmp_path / "peer") for _ in range(2)]
    results = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert len({last_line(printed) for printed, _ in results}) == 1
    assert sum(errors.count("was converted") for _, errors in results) == 1


CONVERT_IN_THE_SECOND = """
import sys
import torch.distributed as dist
from modeling_clip_vit.conversion.published import local_checkpoint
meeting = "file://" + sys.argv[2]
dist.init_process_group("gloo", init_method=meeting, rank=int(sys.argv[3]), world_size=2)
if dist.get_rank() == 1:
    print(local_checkpoint(sys.argv[1]))
dist.barrier()
"""


def test_a_process_of_a_run_that_is_not_the_first_writes_all_of_it(tmp_path):
    save_hf_clip(tmp_path / "peer")
    program = ("-c", CONVERT_IN_THE_SECOND, tmp_path / "peer", tmp_path / "meeting")
    processes = [start(tmp_path, *program, rank) for rank in range(2)]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    folder = Path(last_line(printed[1]))
    assert (folder / "config.json").is_file()
    assert (folder / "model.safetensors").is_file()


def test_of_the_processes_of_a_run_one_converts(tmp_path, color_dataset):
    save_hf_clip(tmp_path / "peer")
    recipe = {
        "dataset": str(color_dataset),
        "model_name_or_path": str(tmp_path / "peer"),
        "output_dir": str(tmp_path / "run"),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "report_to": "none",
    }
    path = save_recipe(tmp_path, recipe)
    launch = ["-m", "accelerate.commands.launch", *TWO_PROCESSES]
    process = start(tmp_path, *launch, REPOSITORY / "train.py", "--config", path)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]
    assert errors.count("was converted") == 1


KILLED = """
import os, signal, sys
from modeling_clip_vit.conversion import convert
from modeling_clip_vit.conversion.published import local_checkpoint
save = convert.Conversion.save
def save_and_die(self, folder):
    save(self, folder)
    os.kill(os.getpid(), signal.SIGKILL)
convert.Conversion.save = save_and_die
local_checkpoint(sys.argv[1])
"""


def test_a_killed_process_leaves_no_checkpoint_and_no_lock(tmp_path):
    save_hf_clip(tmp_path / "peer")
    killed = start(tmp_path, "-c", KILLED, tmp_path / "peer")
    killed.communicate(timeout=300)
    assert killed.returncode < 0
    assert converted_folders(tmp_path) == []
    again = start(tmp_path, "-c", CONVERT, tmp_path / "peer")
    printed, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors[-3000:]
    folder = last_line(printed)
    assert [str(path) for path in converted_folders(tmp_path)] == [folder]
    load_encoder(folder)
