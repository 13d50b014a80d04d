"""Traces of a few updates."""

import json

import pytest
import torch

from modeling_clip_vit.training.profiling import UpdateProfiler
from tests.support.trainers import build

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_a_run_writes_the_trace_of_as_many_updates(tmp_path):
    trainer = build(tmp_path, max_steps=4, profile_steps=2, save_steps=0)
    trainer.fit()
    folder = tmp_path / "out" / "profile"
    events = json.loads((folder / "trace-0.json").read_text())["traceEvents"]
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step")]
    assert len(steps) == 2
    assert "aten::" in (folder / "operators-0.txt").read_text()


def test_a_run_that_is_stopped_writes_what_there_is(tmp_path):
    with UpdateProfiler(tmp_path, 1, 3, 3, torch.device("cpu")) as profiler:
        torch.ones(2, 2) @ torch.ones(2, 2)
        profiler.update_done()
    assert "aten::mm" in (tmp_path / "trace-1.json").read_text()


def test_without_the_option_there_is_no_profile(tmp_path):
    build(tmp_path, max_steps=2, save_steps=0).fit()
    assert not (tmp_path / "out" / "profile").exists()
