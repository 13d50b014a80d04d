"""Uploads in the background, over networks that fail."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeling_clip_vit.hub.uploads import UploadQueue
from tests.support.hub_server import HubServer

REPO = "user/run"


class Run:
    """A queue with the folder of a model to upload again and again."""

    def __init__(self, folder: Path, source: Path):
        self.folder, self.source = folder, source
        self.queue = UploadQueue(folder, REPO)

    def add(self, *steps: int):
        """Queue a model for each step, with a card that names it."""
        for step in steps:
            with self.queue.add(f"step-{step}", f"Step {step}") as partial:
                shutil.copytree(self.source, partial, dirs_exist_ok=True)
                (partial / "README.md").write_text(f"# Step {step}\n")


@pytest.fixture
def run(hub, tmp_path, checkpoint) -> Iterator[Run]:
    run = Run(tmp_path / "uploads", checkpoint)
    yield run
    # What it is still asking for would be counted in the next test.
    run.queue.finish(patience=0)
    run.queue.thread.join()


def read_tags(hub: HubServer) -> dict[str, bytes]:
    """The card that each tag leads to."""
    tags = hub.store.repositories["model", REPO].tags
    return {tag: hub.store.read("model", REPO, "README.md", tag) for tag in tags}


def test_each_folder_is_a_commit_with_a_tag(hub, run):
    run.add(2, 4)
    run.queue.finish(patience=10)
    assert run.queue.describe_rest() == ""
    assert read_tags(hub) == {"step-2": b"# Step 2\n", "step-4": b"# Step 4\n"}
    titles = [commit.title for commit in hub.store.repositories["model", REPO].history("main")]
    assert titles[:2] == ["Step 4 (clip-vit)", "Step 2 (clip-vit)"]


def test_what_has_arrived_is_removed(hub, run):
    run.add(2)
    run.queue.finish(patience=10)
    assert list(run.folder.iterdir()) == []


def test_an_upload_does_not_hold_up_what_comes_next(hub, run):
    is_over = threading.Event()
    hub.fail("POST", "/commit/", action=is_over.wait)
    run.add(2, 4, 6)
    assert len(run.queue.pending) == 3
    is_over.set()
    run.queue.finish(patience=10)
    assert list(read_tags(hub)) == ["step-2", "step-4", "step-6"]


@pytest.mark.parametrize(
    "fault",
    [
        ("POST", "/repos/create", {"status": 503, "times": 2}),
        ("POST", "/commit/", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("POST", "/commit/", {"cut": 50}),
        ("POST", "/tag/", {"status": 500}),
    ],
)
def test_what_fails_for_a_passing_reason_is_tried_again(hub, run, fault):
    method, pattern, fields = fault
    hub.fail(method, pattern, **fields)
    run.add(2)
    run.queue.finish(patience=20)
    assert list(read_tags(hub)) == ["step-2"]
    assert hub.faults[0].times == 0


def test_what_does_not_arrive_is_kept_and_named(hub, run):
    hub.fail("POST", "/repos/create", status=503, times=-1)
    run.add(2, 4)
    run.queue.finish(patience=1)
    rest = run.queue.describe_rest()
    assert str(run.folder / "step-2") in rest
    assert "has a fault (503)" in rest
    assert (run.folder / "step-4" / "model.safetensors").is_file()


def test_a_reason_that_does_not_pass_ends_the_uploads_at_once(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    run.add(2, 4)
    run.queue.finish(patience=600)
    assert "does not accept the token" in run.queue.describe_rest()
    assert len(hub.asked("POST", "/repos/create")) == 1


def test_what_an_earlier_process_left_is_uploaded_first(hub, run, tmp_path, checkpoint):
    hub.fail("POST", "/repos/create", status=503, times=-1)
    run.add(2)
    run.queue.finish(patience=0)
    hub.faults.clear()
    later = Run(tmp_path / "uploads", checkpoint)
    later.add(4)
    later.queue.finish(patience=10)
    titles = [commit.title for commit in hub.store.repositories["model", REPO].history("main")]
    assert [title.split(" (")[0] for title in titles[:2]] == ["Step 4", "Step 2"]


def test_a_tag_of_an_earlier_run_is_moved(hub, run, tmp_path, checkpoint):
    run.add(2)
    run.queue.finish(patience=10)
    first = dict(hub.store.repositories["model", REPO].tags)
    (tmp_path / "changed").mkdir()
    changed = shutil.copytree(checkpoint, tmp_path / "changed", dirs_exist_ok=True)
    (changed / "metrics.json").write_text("{}")
    later = Run(tmp_path / "others", changed)
    later.add(2)
    later.queue.finish(patience=10)
    assert later.queue.describe_rest() == ""
    assert hub.store.repositories["model", REPO].tags != first
