"""Explanations of trained models point at what matches: halves, deletion, insertion."""

from collections.abc import Iterator

import pytest
import torch

from modeling_clip_vit.explain.match import Match, prepare
from modeling_clip_vit.explain.methods import METHODS
from modeling_clip_vit.inference.loading import TorchEncoder
from tests.support.models import small_model
from tests.support.pictures import COLORS, draw_picture

pytestmark = pytest.mark.slow

#: Pooling of the image tower -> its other fields.
POOLINGS = {"cls": {"use_cls_token": True}, "mean": {}, "map": {}, "flatten": {}}
METHODS_OF_ALL = ("integrated_gradients", "occlusion")


def learn_colors(encoder: TorchEncoder, steps: int = 150):
    """Train on squares of eight colours with their names."""
    model, processor = encoder.model, encoder.processor
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    texts = processor.tokenizer(
        [f"a {color} square" for color in COLORS], return_tensors="pt", padding=True
    )
    for step in range(steps):
        pictures = [draw_picture(color, 8 * step + place) for place, color in enumerate(COLORS)]
        pixels = processor.image_processor(pictures, return_tensors="pt")
        loss = model(**texts, **pixels, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module", params=POOLINGS)
def encoder(request, processor) -> TorchEncoder:
    """A small model that knows the colours."""
    vision = {"pooling": request.param, **POOLINGS[request.param]}
    model = small_model(vision=vision, text={"pooling": "mean", "is_causal": False})
    encoder = TorchEncoder(model.train(), processor)
    learn_colors(encoder)
    model.eval()
    return encoder


def halves(encoder: TorchEncoder) -> Iterator[tuple[Match, bool]]:
    """Half of one square beside half of another; the text names the left one, or the right one."""
    for number, color in enumerate(COLORS):
        for other in COLORS:
            if color == other:
                continue
            is_left = number % 2 == 0
            left, right = (color, other) if is_left else (other, color)
            whole = draw_picture(right, 1)
            whole.paste(draw_picture(left, 2).crop((0, 0, 16, 32)))
            yield prepare(encoder, whole, f"a {color} square", grid=8), is_left


@pytest.mark.parametrize("method", METHODS_OF_ALL)
def test_the_half_that_the_text_names_has_more(encoder, method):
    right = []
    for match, is_left in halves(encoder):
        values = METHODS[method].explain_picture(match).values
        left_sum, right_sum = values[:, :4].sum(), values[:, 4:].sum()
        right.append(bool(left_sum > right_sum) == is_left)
    assert sum(right) / len(right) >= 0.9


def area(match: Match, values: torch.Tensor, is_deleted: bool) -> float:
    """Mean cosine while cells disappear, or appear, from the largest value to the smallest."""
    count = len(match.cells)
    ranks = values.flatten().argsort(descending=True).argsort()
    shown = ranks < torch.arange(count + 1).unsqueeze(1)
    pixels = match.cells.mix(match.pixels, match.blank_pixels, ~shown if is_deleted else shown)
    return match.cosines_of_pictures(pixels).mean().item() / match.cosine


@pytest.mark.parametrize("method", METHODS_OF_ALL)
def test_what_has_large_values_changes_the_cosine_most(encoder, method):
    generator = torch.Generator().manual_seed(0)
    deleted, inserted = [], []
    for seed, color in enumerate(COLORS):
        text = f"a {color} square"
        match = prepare(encoder, draw_picture(color, seed), text, grid=8, blank="white")
        values = METHODS[method].explain_picture(match).values
        noise = torch.rand(values.shape, generator=generator)
        deleted.append(area(match, noise, True) - area(match, values, True))
        inserted.append(area(match, values, False) - area(match, noise, False))
    assert sum(deleted) / len(deleted) >= 0.1
    assert sum(inserted) / len(inserted) >= 0.1
