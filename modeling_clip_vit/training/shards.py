"""Tensors in safetensors files: whole ones, or the parts of them that each process has.

The header of a file says where in the whole tensor each of its parts begins, under the name that
torch's `HuggingFaceStorageWriter` gives it, so that torch reads these files too. Reading asks for
any part of a tensor, whichever files it lies in. Nothing is pickled.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from ..utils.devices import copies_pinned

#: Key of the header with the offsets of parts, as torch writes it.
OFFSETS_KEY = "DCP_SHARDING_INFO"
#: Names of number formats in a header.
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Shard:
    """A process's part of a tensor.

    Args:
        tensor: the part.
        offset: where in the whole tensor it begins, in each dimension.
    """

    tensor: torch.Tensor
    offset: tuple[int, ...]

    def staged(self) -> "Shard":
        """A copy on the CPU, which later changes of the tensor do not reach.

        On a device that copies while the processor goes on, it is complete only once the device is
        synchronised.
        """
        is_pinned = copies_pinned(self.tensor.device.type)
        copy = torch.empty(self.tensor.shape, dtype=self.tensor.dtype, pin_memory=is_pinned)
        copy.copy_(self.tensor, non_blocking=is_pinned)
        return Shard(copy, self.offset)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process has: all of it, unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def local_offset(tensor: torch.Tensor) -> tuple[int, ...]:
    """Where in the whole tensor this process's part begins."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.dim()
    _, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tuple(offset)


def is_written_here(tensor: torch.Tensor, is_main: bool) -> bool:
    """Whether this process writes its part: of processes with the same part, one does.

    Args:
        tensor: sharded, or the same on all processes.
        is_main: whether this is the main process.
    """
    if not isinstance(tensor, DTensor):
        return is_main
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None
    is_first = all(
        place == 0
        for place, placement in zip(coordinate, tensor.placements, strict=True)
        if placement.is_replicate()
    )
    return is_first and tensor.to_local().numel() > 0


def own_shards(tensors: Mapping[str, torch.Tensor], is_main: bool) -> dict[str, Shard]:
    """The parts of tensors that this process writes; they are views, not copies."""
    return {
        name: Shard(local_part(tensor.detach()), local_offset(tensor))
        for name, tensor in tensors.items()
        if is_written_here(tensor, is_main)
    }


def write_shards(path: Path, shards: Mapping[str, Shard]) -> list[int]:
    """Write parts of tensors to a safetensors file, one after the other.

    No more than one of them is copied to the CPU at a time.

    Returns:
        Size and CRC-32 of the file.
    """
    # The widest numbers first, so that all of them are aligned.
    names = sorted(shards, key=lambda name: (-shards[name].tensor.element_size(), name))
    header = encode_header({name: shards[name] for name in names})
    checksum = zlib.crc32(header)
    with open(path, "wb") as file:
        file.write(header)
        for name in names:
            block = as_bytes(shards[name].tensor)
            file.write(block)
            checksum = zlib.crc32(block, checksum)
        size = file.tell()
    return [size, checksum]


def encode_header(shards: Mapping[str, Shard]) -> bytes:
    """The header of a safetensors file, with its length; tensors follow in the order given."""
    offsets = {name: {"saved_offsets": list(shard.offset)} for name, shard in shards.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", OFFSETS_KEY: json.dumps(offsets)}}
    begin = 0
    for name, shard in shards.items():
        end = begin + shard.tensor.numel() * shard.tensor.element_size()
        header[name] = {
            "dtype": DTYPE_NAMES[shard.tensor.dtype],
            "shape": list(shard.tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The numbers of a tensor, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


@dataclass(frozen=True)
class StoredShard:
    """A part of a tensor in a file.

    Args:
        file: open.
        name: of the tensor.
        offset: where in the whole tensor the part begins.
        shape: of the part.
    """

    file: Any
    name: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def copy_into(self, part: torch.Tensor, offset: Sequence[int]) -> int:
        """Copy what is also in another part of the same tensor to it.

        Args:
            part: to copy to.
            offset: where in the whole tensor it begins.

        Returns:
            The number of elements copied.
        """
        ends = [begin + length for begin, length in zip(self.offset, self.shape, strict=True)]
        others = [begin + length for begin, length in zip(offset, part.shape, strict=True)]
        first = [max(pair) for pair in zip(self.offset, offset, strict=True)]
        last = [min(pair) for pair in zip(ends, others, strict=True)]
        if any(begin >= end for begin, end in zip(first, last, strict=True)):
            return 0
        here, there = (
            tuple(slice(b - o, e - o) for b, e, o in zip(first, last, origin, strict=True))
            for origin in (self.offset, offset)
        )
        if (tuple(first), tuple(last)) == (self.offset, tuple(ends)):
            values = self.file.get_tensor(self.name)
        else:
            values = self.file.get_slice(self.name)[here]
        part[there] = values
        return values.numel()


class ShardReader:
    """Reads parts of tensors from the files that hold them together; a context that closes them.

    Args:
        folder: of the files.
        name: of the files: `NAME.safetensors` has whole tensors, `NAME_*.safetensors` have parts.
    """

    def __init__(self, folder: Path, name: str):
        self.shards: dict[str, list[StoredShard]] = {}
        self.open_files = ExitStack()
        for path in [*folder.glob(f"{name}.safetensors"), *folder.glob(f"{name}_*.safetensors")]:
            self.add(self.open_files.enter_context(safe_open(path, framework="pt")))

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *error: Any):
        self.open_files.close()

    def add(self, file: Any):
        """Note which parts an open file has."""
        offsets = json.loads((file.metadata() or {}).get(OFFSETS_KEY, "{}"))
        for name in file.keys():  # noqa: SIM118, it is not a dict
            shape = tuple(file.get_slice(name).get_shape())
            place = offsets[name]["saved_offsets"] if name in offsets else [0] * len(shape)
            stored = StoredShard(file, name, tuple(place), shape)
            self.shards.setdefault(name, []).append(stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole tensor."""
        ends = [
            [begin + length for begin, length in zip(stored.offset, stored.shape, strict=True)]
            for stored in self.shards[name]
        ]
        return tuple(max(column) for column in zip(*ends, strict=True))

    def read(self, name: str, like: torch.Tensor) -> torch.Tensor:
        """The part of a tensor that this process has of `like`, on the CPU.

        Args:
            name: of the tensor.
            like: of the same shape; the result is laid out in memory as its part is.

        Raises:
            ValueError: the shapes differ, or no file has a part of it.
        """
        if self.shape(name) != tuple(like.shape):
            raise ValueError(f"{name} has shape {self.shape(name)}, not {tuple(like.shape)}")
        local = local_part(like)
        part = torch.empty_like(local, dtype=self.dtype(name), device="cpu")
        self.fill(name, part, local_offset(like))
        return part

    def read_whole(self, name: str) -> torch.Tensor:
        """A whole tensor, on the CPU.

        Raises:
            ValueError: no file has a part of it.
        """
        whole = torch.empty(self.shape(name), dtype=self.dtype(name))
        self.fill(name, whole, (0,) * whole.dim())
        return whole

    def dtype(self, name: str) -> torch.dtype:
        """Number format of a tensor."""
        kind = self.shards[name][0].file.get_slice(name).get_dtype()
        return next(dtype for dtype, known in DTYPE_NAMES.items() if known == kind)

    def fill(self, name: str, part: torch.Tensor, offset: Sequence[int]):
        """Fill a part of a tensor.

        Raises:
            ValueError: the files do not have all of it.
        """
        filled = sum(stored.copy_into(part, offset) for stored in self.shards[name])
        if filled != part.numel():
            raise ValueError(f"{part.numel() - filled} numbers of {name} are in no file")
