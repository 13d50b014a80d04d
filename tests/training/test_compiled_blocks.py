"""Blocks that are compiled one by one share their graphs."""

import copy

import pytest
import torch
from torch.testing import assert_close

from modeling_clip_vit.data.batches import TokenIds
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.training.blocks import CompiledDropPath, compile_blocks
from tests.support.models import make_images, make_texts, small_model

BLOCKS = 10


class CountingBackend:
    """Runs graphs as they are; counts those that are made, and how often one is run."""

    def __init__(self):
        self.made = self.runs = 0

    def __call__(self, graph, example_inputs):
        self.made += 1

        def run(*inputs):
            self.runs += 1
            return graph.forward(*inputs)

        return run


@pytest.fixture(scope="module")
def counted():
    """Two deep towers with drop path, trained on texts of mixed lengths and evaluated.

    What the blocks of images do besides adds no graph.
    """
    torch._dynamo.reset()
    deep = {"num_hidden_layers": BLOCKS, "drop_path_rate": 0.2}
    images = {**deep, "attention_gate": "headwise", "value_residual": True}
    model, backend = small_model(images, deep).train(), CountingBackend()
    for tower in (model.vision_model, model.text_model):
        compile_blocks(tower, backend=backend)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for lengths in ([4, 6], [5, 3], [8, 8], [3, 2], [9, 4]):
            outputs = model(pixel_values=make_images(2), **make_texts(lengths))
            outputs.logits_per_image.sum().backward()
    return backend


def test_every_block_runs_a_graph_in_every_step(counted):
    assert counted.runs == 5 * 2 * BLOCKS


def test_blocks_share_graphs_whatever_their_rates_and_the_lengths_of_texts(counted):
    """The first block, without drop path, and the others; of texts, three kinds of batches."""
    kinds = ("one length", "any length", "no padding")
    assert counted.made == 2 + 2 * len(kinds)


def test_padding_to_a_multiple_bounds_lengths_and_graphs_and_changes_no_embedding():
    """200 batches of texts of 3 to 40 tokens."""
    torch._dynamo.reset()
    token_ids = TokenIds(train_tokenizer(["a"], 300, 40))
    model, backend = small_model(text={"max_position_embeddings": 40}), CountingBackend()
    plain = copy.deepcopy(model.text_model)
    compile_blocks(model.text_model, backend=backend)
    generator, lengths = torch.Generator().manual_seed(0), set()
    for _ in range(200):
        texts = [
            " ".join("a" * int(count)) for count in torch.randint(1, 60, (2,), generator=generator)
        ]
        token_ids.pad_multiple = 1
        exact = token_ids(texts)
        token_ids.pad_multiple = 16
        padded = token_ids(texts)
        lengths.add(padded["input_ids"].shape[1])
        with torch.no_grad():
            given, expected = model.text_model(**padded), plain(**exact)
        assert_close(given.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-5)
    assert lengths == {16, 32, 40}
    assert backend.made <= 4


def test_rows_are_dropped_at_their_rate_and_others_scaled():
    torch.manual_seed(0)
    dropped = CompiledDropPath(0.25).train()(torch.ones(4000, 3))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float((dropped[:, 0] == 0).float().mean()) == pytest.approx(0.25, abs=0.03)


def test_nothing_is_dropped_in_evaluation():
    values = torch.rand(8, 3)
    assert torch.equal(CompiledDropPath(0.25).eval()(values), values)


def test_the_weights_keep_their_names():
    model = small_model({"drop_path_rate": 0.2})
    names = list(model.state_dict())
    compile_blocks(model.vision_model)
    assert list(model.state_dict()) == names
