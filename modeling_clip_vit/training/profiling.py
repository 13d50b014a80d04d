"""Record what a few updates spend their time and memory on."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..utils.errors import warn_only
from ..utils.folders import replaced_file

logger = logging.getLogger(__name__)

#: Updates that come first: they start kernels and workers, and fill caches.
WARM_UP = 5
#: Operators in the summary.
TOP_OPERATORS = 40


class UpdateProfiler:
    """Profiles some updates of a run with torch's profiler; in its context.

    Args:
        folder: for the files.
        process_index: of this process, for their names.
        num_updates: to profile; 0 profiles none.
        most_updates: of this process in all.
        device: of this process.
    """

    def __init__(
        self,
        folder: Path,
        process_index: int,
        num_updates: int,
        most_updates: int,
        device: torch.device,
    ):
        self.folder, self.process_index, self.device = folder, process_index, device
        self.first = min(WARM_UP, max(0, most_updates - num_updates))
        self.last = self.first + num_updates
        self.done = 0
        self.profile: profile | None = None

    def __enter__(self) -> "UpdateProfiler":
        self.begin()
        return self

    def __exit__(self, *error: Any):
        """Write what there is, also of a run that is stopped."""
        self.end()

    def update_done(self):
        """Begin or end after an update."""
        self.done += 1
        if self.done == self.last:
            self.end()
        self.begin()

    def begin(self):
        """Start the profiler, once its first update is next."""
        if self.done != self.first or self.first == self.last:
            return
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=200_000)
        self.profile = profile(activities=activities, record_shapes=True)
        self.profile.start()

    def end(self):
        """Stop the profiler and write its files."""
        if self.profile is None:
            return
        recorded, self.profile = self.profile, None
        recorded.stop()
        with warn_only("writing the profile"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.write(recorded)

    def write(self, recorded: profile):
        """Write the trace, a summary, and on CUDA the memory's history."""
        number = self.process_index
        with replaced_file(self.folder / f"trace-{number}.json") as partial:
            recorded.export_chrome_trace(str(partial))
        is_cuda = self.device.type == "cuda"
        order = "self_device_time_total" if is_cuda else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=TOP_OPERATORS)
        with replaced_file(self.folder / f"operators-{number}.txt") as partial:
            partial.write_text(table, encoding="utf-8")
        if is_cuda:
            with replaced_file(self.folder / f"memory-{number}.pickle") as partial:
                torch.cuda.memory._dump_snapshot(str(partial))
            torch.cuda.memory._record_memory_history(enabled=None)
