"""Save checkpoints: each process its own part, in the background if asked."""

import copy
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.checkpointing import save_accelerator_state
from accelerate.utils import RNG_STATE_NAME, DistributedType
from torch import nn

from ..utils.devices import synchronize
from ..utils.folders import SaveError, partial_path, sync_file
from ..utils.processes import gather_all, new_cpu_group
from .checkpoints import CheckpointStore, size_and_crc32
from .restart import PROCESSOR_FOLDER
from .sharding import SHARDED
from .shards import Shard, own_shards, write_shards
from .states import model_tensors, optimizer_index, optimizer_tensors

logger = logging.getLogger(__name__)

Value = TypeVar("Value")
#: What is not a tensor of the optimiser's states; only checkpoints of this module have it.
INDEX_FILE = "optimizer.json"


def reader_file(process: int) -> str:
    """Name of the file that tells where a process reads a stream."""
    return f"reader_{process}.json"


def has_own_files(accelerator: Accelerator) -> bool:
    """Whether the strategy writes model and optimiser in files of its own, as DeepSpeed does."""
    return accelerator.distributed_type in SHARDED and not accelerator.is_fsdp2


@dataclass
class Snapshot:
    """What a run needs to resume.

    Args:
        model: without what Accelerate wrapped around it.
        optimizer: of the model, without what Accelerate wrapped around it.
        progress: plain values; `progress["step"]` names the checkpoint.
        average: the running mean of the weights by name; empty if there is none.
        reader: plain values that tell where this process reads a stream, if it does.
        processor: with the tokenizer that the model knows.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    progress: dict[str, Any]
    average: Mapping[str, torch.Tensor]
    reader: dict | None
    processor: Any


class CheckpointWriter:
    """Saves the checkpoints of a run; all processes call each method together.

    A run that dies while saving leaves the older checkpoints as they were.

    Args:
        store: where they go.
        accelerator: holds scaler and random states.
        keep: number of checkpoints to keep.
        in_background: copy the states, and write the copies while training goes on.
    """

    def __init__(
        self, store: CheckpointStore, accelerator: Accelerator, keep: int, in_background: bool
    ):
        self.store, self.accelerator = store, accelerator
        self.keep, self.in_background = keep, in_background
        self.is_main, self.process_index = accelerator.is_main_process, accelerator.process_index
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future | None = None
        # Processes agree through it in the background, while they exchange gradients elsewhere.
        self.group = new_cpu_group()

    def save(self, snapshot: Snapshot, is_awaited: bool) -> str:
        """Save a checkpoint as `step-N`.

        Args:
            snapshot: what it keeps.
            is_awaited: return only once it is complete.

        Returns:
            The path or URL of the checkpoint; in the background, it is complete later.

        Raises:
            SaveError: there is no room, or no permission; what was saved before is untouched. Of a
                checkpoint in the background, the next call raises it, unless that one is awaited,
                which replaces it: then it is a warning.
        """
        if is_awaited:
            self.close()
        else:
            self.wait()
        name = f"step-{snapshot.progress['step']:08d}"
        partial = partial_path(self.store.folder / name)
        is_staged = self.in_background and not is_awaited
        parts: dict[str, dict[str, Shard]] = {}

        def prepare():
            self.write_small_files(partial, snapshot)
            parts.update(self.own_parts(snapshot, is_staged))

        self.agree(lambda: self.store.begin(name) if self.is_main else None, partial, name)
        self.agree(prepare, partial, name)
        # It grows while a thread writes.
        work = (partial, name, copy.deepcopy(snapshot.progress), parts)
        if is_staged:
            self.pending = self.thread.submit(self.publish, *work)
        else:
            self.publish(*work)
        return f"{self.store.place}/{name}"

    def wait(self):
        """Wait until the checkpoint in the background is complete.

        Raises:
            SaveError: it could not be written.
        """
        pending, self.pending = self.pending, None
        if pending:
            pending.result()

    def close(self):
        """Wait until the checkpoint in the background is complete; only warn if it is not."""
        try:
            self.wait()
        except SaveError as error:
            logger.warning("%s", error)

    def agree(self, work: Callable[[], None], partial: Path, name: str):
        """Do a part of the work, and wait for the others to have done theirs.

        Raises:
            SaveError: one of them could not; all raise it, and nothing stays of the checkpoint.
        """
        failure: Exception | None = None
        try:
            work()
        except Exception as error:
            failure = error
        # A checkpoint that one process could not write to must not count.
        if any(self.gather(failure is not None, name)):
            shutil.rmtree(partial, ignore_errors=True)
            refusal = OSError("another process could not write its part")
            self.store.raise_error(failure or refusal, name)

    def gather(self, value: Value, name: str) -> list[Value]:
        """The values of all processes.

        Raises:
            SaveError: another process has ended.
        """
        try:
            return gather_all(value, self.group)
        except RuntimeError as error:
            return self.store.raise_error(OSError(f"no answer from others, {error}"), name)

    def write_small_files(self, partial: Path, snapshot: Snapshot):
        """Write what is no tensor of model, optimiser and mean."""
        partial.mkdir(exist_ok=True)  # on a machine with a disk of its own
        accelerator = self.accelerator
        if has_own_files(accelerator):
            accelerator.save_state(str(partial))
        else:
            scaler = accelerator.scaler if self.is_main else None
            step = accelerator.step
            save_accelerator_state(str(partial), [], [], [], [], self.process_index, step, scaler)
        if snapshot.reader is not None:
            path = partial / reader_file(self.process_index)
            path.write_text(json.dumps(snapshot.reader), encoding="utf-8")
        if not self.is_main:
            return
        snapshot.processor.save_pretrained(partial / PROCESSOR_FOLDER)
        if not has_own_files(accelerator):
            index = optimizer_index(snapshot.optimizer, snapshot.model)
            (partial / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")

    def own_parts(self, snapshot: Snapshot, is_staged: bool) -> dict[str, dict[str, Shard]]:
        """The parts of all tensors that this process writes, by the file that they go to.

        Args:
            snapshot: has the tensors.
            is_staged: copy them, because training goes on.
        """
        tensors = {"average": snapshot.average}
        if not has_own_files(self.accelerator):
            tensors["model"] = model_tensors(snapshot.model)
            tensors["optimizer"] = optimizer_tensors(snapshot.optimizer, snapshot.model)
        is_sharded = self.accelerator.distributed_type == DistributedType.FSDP
        end = f"_{self.process_index}.safetensors" if is_sharded else ".safetensors"
        parts = {f"{kind}{end}": own_shards(named, self.is_main) for kind, named in tensors.items()}
        if is_staged:
            parts = {
                file: {name: shard.staged() for name, shard in shards.items()}
                for file, shards in parts.items()
            }
            synchronize(self.accelerator.device.type)
        return {file: shards for file, shards in parts.items() if shards}

    def publish(self, partial: Path, name: str, progress: dict, parts: dict[str, dict[str, Shard]]):
        """Write this process's parts; once all are written, the main process completes it.

        Raises:
            SaveError: one of the processes could not write.
        """
        written: dict[str, list[int]] = {}

        def write():
            for file, shards in parts.items():
                written[file] = write_shards(partial / file, shards)
            for file in self.own_small_files():
                if (partial / file).is_file():
                    written[file] = size_and_crc32(partial / file)
            for file in written:
                sync_file(partial / file)
            self.store.upload(partial, name, list(written))

        def complete():
            if self.is_main:
                self.store.commit(partial, name, progress, all_written)
                self.store.prune(name, self.keep)

        self.agree(write, partial, name)
        all_written: dict[str, list[int]] = {}
        for files in self.gather(written, name):
            all_written |= files
        self.agree(complete, partial, name)
        shutil.rmtree(partial, ignore_errors=True)  # on a machine with a disk of its own

    def own_small_files(self) -> list[str]:
        """Names of files without tensors that this process alone writes."""
        return [f"{RNG_STATE_NAME}_{self.process_index}.pkl", reader_file(self.process_index)]
