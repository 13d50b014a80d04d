"""Processes that share the tasks of a run: those of `accelerate launch`, and Ray's workers."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..utils.models import import_models
from ..utils.packages import require
from .tasks import Task, TaskWorker


def share_with_ray(tasks: Iterable[Task], workers: int, options: dict[str, Any]) -> Iterator[str]:
    """Embed tasks as a Ray Data job; the names of their files, as they are done.

    A worker that dies is replaced, and its task done again. One processor of the cluster stays free
    for Ray's own tasks, without which a job can wait forever.

    Args:
        tasks: of the run.
        workers: most workers at a time; 0 for all processors but one.
        options: of `TaskWorker`. The index and the pictures must lie where every machine reaches
            them. A worker takes as many processors as it has threads, and in torch a GPU.

    Raises:
        MissingPackageError: Ray is not installed.
    """
    require(("ray",), "ray", "--ray")
    import ray
    import ray.data

    rows = [{"task": task} for task in tasks]
    if not rows:
        return
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    threads = options["threads"]
    most = max(1, int(ray.cluster_resources().get("CPU", 1) - 1) // threads)
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        RayWorker,
        fn_constructor_kwargs=options,
        batch_size=1,
        num_cpus=threads,
        num_gpus=1 if options["runtime"] == "torch" else 0,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(workers or most, len(rows))),
    )
    for row in done.iter_rows():
        yield row["file"]


class RayWorker:
    """A `TaskWorker` as Ray Data calls it: a batch of one task to a batch of one file's name."""

    def __init__(self, **options: Any):
        self.worker = TaskWorker(**options)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Embed the tasks of a batch."""
        return {"file": [self.worker(task) for task in batch["task"]]}


def launched_processes() -> tuple[int, int]:
    """The number of this process, and of all that `accelerate launch` started together."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def share_with_launched(tasks: Iterable[Task], options: dict[str, Any]) -> Iterator[str]:
    """Embed tasks with all processes of a launch; the main one gets the names of all files.

    Args:
        tasks: of the run.
        options: of `TaskWorker`.
    """
    everything = list(tasks)
    from_main((everything, options))
    embed_own_tasks(everything, options)
    yield from (task.staged for task in everything)


def help_main() -> int:
    """What the other processes of a launch do: embed their tasks; the exit code."""
    tasks, options = from_main(None)
    embed_own_tasks(tasks, options)
    return 0


def embed_own_tasks(tasks: Sequence[Task], options: dict[str, Any]):
    """Embed every n-th task, and wait until all processes have done so."""
    from ..utils.processes import start_processes

    state = start_processes()
    worker = TaskWorker(**options)
    for task in tasks[state.process_index :: state.num_processes]:
        worker(task)
    state.wait_for_everyone()


def from_main(value: Any) -> Any:
    """The main process's value, in all processes of a launch."""
    import_models()
    from ..utils.processes import from_main, start_processes

    start_processes()
    return from_main(value)
