"""Batches that are copied to an accelerator while it computes on the ones before them.

The next batch is copied on a stream of its own, one batch ahead: a step neither waits for the copy,
nor does the copy wait for what the step has left to compute. A batch knows where reading stood when
it was read, because reading is further on when the batch is trained on.
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate.utils import send_to_device


class Copier(Protocol):
    """Copies batches to a device."""

    def start(self, batch: dict) -> Any:
        """Begin to copy a batch, without waiting for it."""

    def finish(self, started: Any) -> dict:
        """The batch on the device, for what is computed from now on."""


class SideStreamCopier:
    """Copies pinned batches on a stream of its own.

    Args:
        device: to copy to.
        backend: torch's module of that device, such as `torch.cuda`.
    """

    def __init__(self, device: torch.device, backend: Any = None):
        self.device = device
        self.backend = backend or torch.get_device_module(device)
        self.stream = self.backend.Stream(device=device)

    def start(self, batch: dict) -> tuple[dict, Any]:
        """Begin to copy; returns the batch, and an event that comes when it is there."""
        with self.backend.stream(self.stream):
            return send_to_device(batch, self.device, non_blocking=True), self.stream.record_event()

    def finish(self, started: tuple[dict, Any]) -> dict:
        """Let what computes wait for the copy, and the batch's memory for what computes."""
        batch, is_copied = started
        computing = self.backend.current_stream(self.device)
        computing.wait_event(is_copied)
        for value in batch.values():
            if isinstance(value, torch.Tensor):
                value.record_stream(computing)
        return batch


class Reader(Protocol):
    """What reads batches, and can be put back to where it stood."""

    def place(self) -> Any:
        """Where reading stands after the last batch."""

    def is_last(self, place: Any) -> bool:
        """Whether that batch is known to be the last of its pass."""

    def stand_at(self, place: Any):
        """Let everything that asks see this place."""


def copy_ahead(batches: Iterator[dict], copier: Copier, reader: Reader) -> Iterator[dict]:
    """Batches on the device, each copied while the one before it is computed on.

    Args:
        batches: on the host.
        copier: copies them.
        reader: of the batches; it stands behind each when that is given away.
    """
    waiting: list[tuple[Any, Any]] = []

    def deliver() -> dict:
        started, place = waiting.pop(0)
        reader.stand_at(place)
        return copier.finish(started)

    for batch in batches:
        place = reader.place()
        waiting.append((copier.start(batch), place))
        if len(waiting) > 1:
            yield deliver()
        if reader.is_last(place):  # reading on would end the pass before its last batch
            yield deliver()
    while waiting:
        yield deliver()
