"""Muon against timm's, and against what its update should be."""

import copy

import pytest
import torch
from timm.optim.muon import _COEFFICIENTS, zeropower_via_newtonschulz
from torch import nn

from modeling_clip_vit.training.muon import NEWTON_SCHULZ, Muon, as_matrix, orthogonalize

BETAS = (0.9, 0.95)


def reference(matrices: torch.Tensor, dtype=torch.float64) -> torch.Tensor:
    """timm's iterations."""
    coefficients = _COEFFICIENTS["quintic"]
    return zeropower_via_newtonschulz(matrices, len(coefficients), coefficients, dtype=dtype)


def test_the_coefficients_are_those_of_timm():
    assert list(NEWTON_SCHULZ) == _COEFFICIENTS["quintic"]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 20), (4, 8, 24), (1, 16, 300)])
def test_a_batch_is_orthogonalised_as_timm_does_it(shape):
    """On either side of the width from which on the iteration is on XXᵀ."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = reference(matrices.double())
    exact = orthogonalize(matrices.double(), torch.float64)
    torch.testing.assert_close(exact, expected, atol=1e-11, rtol=1e-9)
    single = orthogonalize(matrices, torch.float32)
    assert (single - expected).norm() < 1e-4 * expected.norm()
    values = torch.linalg.svdvals(single.double())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_float32_keeps_a_gradient_of_low_rank_where_bfloat16_loses_it():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in ((32, 4), (4, 128)))
    matrices = (left @ right)[None]
    expected = reference(matrices.double())
    errors = {
        dtype: (orthogonalize(matrices, dtype).double() - expected).norm() / expected.norm()
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert errors[torch.float32] < 1e-3
    assert errors[torch.bfloat16] > 0.05


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_is_that_of_timm(layout):
    from timm.optim import Muon as TimmMuon

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 8), nn.Linear(8, 4))
    model = model.double().to(memory_format=layout)
    other = copy.deepcopy(model)

    def groups(of: nn.Module, field: str, values: tuple) -> list[dict]:
        matrices = [p for p in of.parameters() if p.ndim > 1]
        rest = [p for p in of.parameters() if p.ndim == 1]
        return [
            {"params": matrices, "lr": 0.02, "weight_decay": 0.1, field: values[0]},
            {"params": rest, "lr": 0.01, "weight_decay": 0.0, field: values[1]},
        ]

    ours = Muon(groups(model, "use_muon", (True, False)), product_dtype=torch.float64)
    # With its own Nesterov momentum, timm takes NAdamW for the rest: both are compared apart.
    theirs = TimmMuon(
        groups(other, "use_fallback", (False, True))[:1],
        nesterov=True,
        adjust_lr_fn="original",
    )
    rest = torch.optim.AdamW([p for p in other.parameters() if p.ndim == 1], lr=0.01, betas=BETAS)
    rest.param_groups[0]["weight_decay"] = 0.0
    for step in range(3):
        images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
        for one, optimizers in ((model, [ours]), (other, [theirs, rest])):
            one.zero_grad()
            one(images).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
        for mine, yours in zip(model.parameters(), other.parameters(), strict=True):
            # timm multiplies in bfloat16: a step agrees in its direction and length.
            largest = 0.02 * 0.1 * (step + 1) if mine.ndim > 1 else 1e-3 * (step + 1)
            assert (mine - yours).abs().max() < largest


def test_matrices_of_one_shape_either_way_up_share_a_product(monkeypatch):
    from modeling_clip_vit.training import muon

    seen = []

    def watch(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        seen.append(tuple(matrices.shape))
        return orthogonalize(matrices, dtype)

    monkeypatch.setattr(muon, "orthogonalize", watch)
    shapes = ((8, 16), (16, 8), (8, 16), (8, 8))
    weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    optimizer = Muon([{"params": weights, "lr": 0.1, "weight_decay": 0.0, "use_muon": True}])
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert sorted(seen) == [(1, 8, 8), (3, 8, 16)]


def test_a_matrix_of_a_kernel_is_a_view_in_both_layouts():
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = torch.randn(4, 3, 2, 2).contiguous(memory_format=layout)
        matrix = as_matrix(kernel)
        assert matrix.shape == (4, 12)
        assert matrix.data_ptr() == kernel.data_ptr()
        matrix.zero_()
        assert not kernel.any()


def test_a_state_goes_on_where_it_stopped():
    def build() -> tuple[nn.Module, Muon]:
        torch.manual_seed(0)
        model = nn.Linear(6, 4)
        of_matrix = {"params": [model.weight], "lr": 0.1, "weight_decay": 0.1, "use_muon": True}
        of_bias = {"params": [model.bias], "lr": 0.1, "weight_decay": 0.0, "use_muon": False}
        return model, Muon([of_matrix, of_bias])

    def step(model: nn.Module, optimizer: Muon, seed: int):
        inputs = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        model(inputs).square().sum().backward()
        optimizer.step()

    whole, optimizer = build()
    for seed in range(4):
        if seed == 2:
            weights = copy.deepcopy(whole.state_dict())
            state = copy.deepcopy(optimizer.state_dict())
        step(whole, optimizer, seed)
    again, resumed = build()
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    for seed in (2, 3):
        step(again, resumed, seed)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_loaded_counter_of_steps_is_where_the_weight_is():
    """A checkpoint is read into memory, but AdamW's fused kernel takes what is on one device."""

    def build(weight):
        group = {"params": [weight], "lr": 0.1, "weight_decay": 0.0, "use_muon": False}
        return Muon([group])

    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    saved = build(weight)
    saved.step()
    weight = nn.Parameter(torch.ones(3, device="meta"))
    resumed = build(weight)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.state[weight]["step"].device == weight.device
