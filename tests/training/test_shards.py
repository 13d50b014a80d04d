"""Parts of tensors in files, against safetensors and torch's own reader of them."""

import zlib

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

from modeling_clip_vit.training.shards import Shard, ShardReader, write_shards

#: One of each number format, of each number of dimensions, and not contiguous.
TENSORS = {
    "counter": torch.tensor(7.0),
    "rows": torch.randn(7, 3),
    "column": torch.randn(5, 4).mT[2],
    "half": torch.randn(3, 5).bfloat16(),
    "double": torch.randn(2, 2).double(),
    "numbers": torch.arange(9).reshape(3, 3),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "mask": torch.tensor([True, False, True]),
    "kernel": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
    "nothing": torch.empty(0, 3),
}


def whole(tensor: torch.Tensor) -> Shard:
    return Shard(tensor, (0,) * tensor.dim())


@pytest.fixture
def file(tmp_path):
    """A file with all of them, and what was returned for it."""
    path = tmp_path / "model.safetensors"
    return path, write_shards(path, {name: whole(tensor) for name, tensor in TENSORS.items()})


def test_safetensors_reads_what_is_written(file):
    torch.testing.assert_close(load_file(file[0]), TENSORS, rtol=0, atol=0)


def test_size_and_checksum_are_those_of_the_file(file):
    content = file[0].read_bytes()
    assert file[1] == [len(content), zlib.crc32(content)]


def test_a_whole_tensor_is_read_as_it_was(file):
    with ShardReader(file[0].parent, "model") as reader:
        for name, tensor in TENSORS.items():
            assert torch.equal(reader.read_whole(name), tensor), name


def test_what_is_read_is_laid_out_as_what_it_is_for(file):
    with ShardReader(file[0].parent, "model") as reader:
        part = reader.read("kernel", TENSORS["kernel"])
    assert part.stride() == TENSORS["kernel"].stride()


#: A matrix that three processes cut into uneven parts, and one that they cut both ways.
ROWS, GRID = torch.randn(7, 3), torch.randn(5, 6)


@pytest.fixture
def folder(tmp_path):
    """Files of three processes; the last has no row of the first matrix."""
    places = {0: (0, 4), 1: (4, 7)}
    for process in range(3):
        shards = {}
        if process in places:
            begin, end = places[process]
            shards["rows"] = Shard(ROWS[begin:end], (begin, 0))
            shards["grid"] = Shard(GRID[: 3 - process, 4 * process :][:, :4], (0, 4 * process))
        else:
            shards["grid"] = Shard(GRID[3:], (3, 0))
        write_shards(tmp_path / f"model_{process}.safetensors", shards)
    return tmp_path


def test_parts_are_read_in_any_other_cut(folder):
    with ShardReader(folder, "model") as reader:
        assert reader.shape("rows") == (7, 3)
        for begin in range(7):
            for end in range(begin, 8):
                part = torch.empty(end - begin, 3)
                reader.fill("rows", part, (begin, 0))
                assert torch.equal(part, ROWS[begin:end]), (begin, end)


def test_parts_that_no_file_has_are_said(folder):
    refusal = pytest.raises(ValueError, match="2 numbers of grid are in no file")
    with ShardReader(folder, "model") as reader, refusal:
        reader.read_whole("grid")


def test_another_shape_is_said(folder):
    refusal = pytest.raises(ValueError, match=r"rows has shape \(7, 3\), not \(7, 4\)")
    with ShardReader(folder, "model") as reader, refusal:
        reader.read("rows", torch.empty(7, 4))


def test_torch_reads_the_parts(folder):
    state = {"rows": torch.zeros(7, 3)}
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert torch.equal(state["rows"], ROWS)


def test_a_staged_part_does_not_follow_later_updates():
    tensor = torch.ones(3)
    staged = whole(tensor).staged()
    tensor.add_(1)
    assert torch.equal(staged.tensor, torch.ones(3))
