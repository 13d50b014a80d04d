"""Sums over the similarities of all pairs, tile by tile, without the matrix of them.

A loss over N x M logits needs only sums of them: `log sum exp` along rows and columns, or a sum of
softplus. These are accumulated tile by tile, and the backward pass recomputes each tile (Cheng et
al., 2024, section 3.2; as Dao et al., 2022, do for attention). Memory grows with N + M, and a tile
stays in the processor's cache, so that elementwise operations cost little.

Shape legend: `N` rows, `M` columns, `B` columns of a process, `P` projection (the embedding), `D`
other features, `r` rows and `c` columns of a tile.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch.autograd.function import once_differentiable

from .gather import log_sum_exp_over_processes
from .ring import Ring

#: Side of a tile, `auto` to choose it by the device, or None for the whole matrix at once.
TileSize = int | Literal["auto"] | None
#: On a CPU: 4 MB of float32, which stay in its cache.
TILE_SIZE = 1024
#: On an accelerator: 64 MB, so that starting the operations of a tile takes less than they do.
LARGE_TILE_SIZE = 4096


def log_sum_exp(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    tile_size: TileSize = "auto",
    row_ids: torch.Tensor | None = None,
    column_ids: torch.Tensor | None = None,
    ring: Ring | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`log sum exp` of `scale * rows @ columns.T` along both axes.

    Args:
        rows: this process's rows, (N, P).
        columns: the columns of all processes, (M, P); with a ring, this process's.
        scale: a scalar tensor.
        tile_size: side of a tile.
        row_ids, column_ids: pairs of equal ids are left out, (N,) and (M,); None keeps all pairs.
        ring: the ring that columns travel round.

    Returns:
        For each of this process's rows, over all columns, (N,); and for each column, over the rows
        of all processes, (M,). Minus infinity if every pair is left out.
    """
    ring = ring or Ring([len(columns)])
    tile_size = choose_tile_size(tile_size, rows.device)
    if tile_size is None and len(ring.sizes) == 1:
        logits_NM = scale * rows @ columns.t()
        if row_ids is not None and column_ids is not None:
            logits_NM = logits_NM.masked_fill(row_ids[:, None] == column_ids[None], -torch.inf)
        row_sums_N, column_sums_M = logits_NM.logsumexp(dim=1), logits_NM.logsumexp(dim=0)
    else:
        row_sums_N, column_sums_M = _TiledLogSumExp.apply(
            rows, columns, scale, row_ids, column_ids, tile_size, ring
        )
    return row_sums_N, log_sum_exp_over_processes(column_sums_M)


def softplus_sum(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    tile_size: TileSize = "auto",
    ring: Ring | None = None,
) -> torch.Tensor:
    """The sum of `log(1 + exp(scale * rows @ columns.T + bias))` over all pairs, a scalar.

    Args:
        rows, columns, ring: as in `log_sum_exp`.
        scale, bias: scalar tensors.
        tile_size: side of a tile.
    """
    ring = ring or Ring([len(columns)])
    tile_size = choose_tile_size(tile_size, rows.device)
    if tile_size is None and len(ring.sizes) == 1:
        return torch.nn.functional.softplus(scale * rows @ columns.t() + bias).sum()
    return _TiledSoftplusSum.apply(rows, columns, scale, bias, tile_size, ring)


def softmax_average(
    rows: torch.Tensor,
    columns: torch.Tensor,
    scale: torch.Tensor,
    sums: tuple[torch.Tensor, torch.Tensor],
    factors: tuple[torch.Tensor, torch.Tensor],
    values: torch.Tensor,
    tile_size: TileSize = "auto",
) -> torch.Tensor:
    """Averages of values, weighted by softmaxes of similarities along rows and along columns.

    `f_rows * softmax_rows(x) @ values + f_columns * softmax_columns(x) @ values` with `x = scale *
    rows @ columns.T`. Only the values have a gradient.

    Args:
        rows, columns: embeddings that the similarities are computed from, (N, P) and (M, P).
        scale: a scalar tensor.
        sums: `log_sum_exp` of the similarities, (N,) and (M,).
        factors: `f_rows` and `f_columns`, scalars.
        values: one row per column of the similarities, (M, D).
        tile_size: side of a tile.

    Returns:
        (N, D).
    """
    size = choose_tile_size(tile_size, rows.device)
    return _SoftmaxAverage.apply(rows * scale, columns, *sums, *factors, values, size)


def choose_tile_size(tile_size: TileSize, device: torch.device) -> int | None:
    """The side of a tile on a device."""
    if tile_size != "auto":
        return tile_size
    return TILE_SIZE if device.type == "cpu" else LARGE_TILE_SIZE


def tiles(num_rows: int, num_columns: int, size: int | None) -> Iterator[tuple[slice, slice]]:
    """The rows and the columns of each tile; without a size, of the only one."""
    size = size or max(num_rows, num_columns, 1)
    for row in range(0, num_rows, size):
        for column in range(0, num_columns, size):
            yield slice(row, row + size), slice(column, column + size)


class _TiledLogSumExp(torch.autograd.Function):
    @staticmethod
    def logits(scaled_rP, columns_cP, row_ids_r, column_ids_c):
        """The logits of one tile, minus infinity where ids are equal."""
        logits_rc = scaled_rP @ columns_cP.t()
        if row_ids_r is not None:
            logits_rc.masked_fill_(row_ids_r[:, None] == column_ids_c, -torch.inf)
        return logits_rc

    @staticmethod
    def forward(ctx, rows_NP, columns_BP, scale, row_ids, column_ids, tile_size, ring):
        sums_N = rows_NP.new_full((len(rows_NP),), -torch.inf)
        sums_M = rows_NP.new_full((ring.num_rows,), -torch.inf)
        scaled_NP = rows_NP * scale
        for place, block_BP in ring.blocks(columns_BP):
            sums_B = sums_M[place]
            ids_B = None if column_ids is None else column_ids[place]
            for r, c in tiles(len(rows_NP), len(block_BP), tile_size):
                ids = (None, None) if ids_B is None else (row_ids[r], ids_B[c])
                logits_rc = _TiledLogSumExp.logits(scaled_NP[r], block_BP[c], *ids)
                sums_N[r] = torch.logaddexp(sums_N[r], logits_rc.logsumexp(dim=1))
                sums_B[c] = torch.logaddexp(sums_B[c], logits_rc.logsumexp(dim=0))
        ctx.tile_size, ctx.ring = tile_size, ring
        ctx.save_for_backward(rows_NP, columns_BP, scale, row_ids, column_ids, sums_N, sums_M)
        return sums_N, sums_M

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N, grad_M):
        rows_NP, columns_BP, scale, row_ids, column_ids, sums_N, sums_M = ctx.saved_tensors
        # An empty sum has no gradient; minus infinity would make it NaN.
        sums_N, sums_M = (sums.masked_fill(sums.isneginf(), 0) for sums in (sums_N, sums_M))
        grad_rows_NP, grad_columns_BP = torch.zeros_like(rows_NP), torch.zeros_like(columns_BP)
        scaled_NP = rows_NP * scale
        blocks = ctx.ring.blocks_with_gradients(columns_BP, grad_columns_BP)
        for place, block_BP, grad_block_BP in blocks:
            sums_B, grad_B = sums_M[place], grad_M[place]
            ids_B = None if column_ids is None else column_ids[place]
            for r, c in tiles(len(rows_NP), len(block_BP), ctx.tile_size):
                ids = (None, None) if ids_B is None else (row_ids[r], ids_B[c])
                logits_rc = _TiledLogSumExp.logits(scaled_NP[r], block_BP[c], *ids)
                weights_rc = (logits_rc - sums_N[r, None]).exp_().mul_(grad_N[r, None])
                weights_rc.addcmul_(logits_rc.sub_(sums_B[None, c]).exp_(), grad_B[None, c])
                grad_rows_NP[r].addmm_(weights_rc, block_BP[c])
                grad_block_BP[c].addmm_(weights_rc.t(), scaled_NP[r])
        grad_scale = (rows_NP * grad_rows_NP).sum()
        return grad_rows_NP.mul_(scale), grad_columns_BP, grad_scale, None, None, None, None


class _TiledSoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows_NP, columns_BP, scale, bias, tile_size, ring):
        total = rows_NP.new_zeros(())
        scaled_NP = rows_NP * scale
        for _, block_BP in ring.blocks(columns_BP):
            for r, c in tiles(len(rows_NP), len(block_BP), tile_size):
                logits_rc = torch.addmm(bias, scaled_NP[r], block_BP[c].t())
                total += torch.nn.functional.softplus(logits_rc).sum()
        ctx.tile_size, ctx.ring = tile_size, ring
        ctx.save_for_backward(rows_NP, columns_BP, scale, bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        rows_NP, columns_BP, scale, bias = ctx.saved_tensors
        grad_rows_NP, grad_columns_BP = torch.zeros_like(rows_NP), torch.zeros_like(columns_BP)
        grad_bias = torch.zeros_like(bias)
        scaled_NP = rows_NP * scale
        blocks = ctx.ring.blocks_with_gradients(columns_BP, grad_columns_BP)
        for _, block_BP, grad_block_BP in blocks:
            for r, c in tiles(len(rows_NP), len(block_BP), ctx.tile_size):
                weights_rc = torch.addmm(bias, scaled_NP[r], block_BP[c].t()).sigmoid_()
                weights_rc.mul_(gradient)
                grad_bias += weights_rc.sum()
                grad_rows_NP[r].addmm_(weights_rc, block_BP[c])
                grad_block_BP[c].addmm_(weights_rc.t(), scaled_NP[r])
        grad_scale = (rows_NP * grad_rows_NP).sum()
        return grad_rows_NP.mul_(scale), grad_columns_BP, grad_scale, grad_bias, None, None


class _SoftmaxAverage(torch.autograd.Function):
    @staticmethod
    def weigh(scaled_rP, columns_cP, sums_r, sums_c, row_factor, column_factor):
        """The weights of one tile."""
        logits_rc = scaled_rP @ columns_cP.t()
        weights_rc = (logits_rc - sums_r[:, None]).exp_().mul_(row_factor)
        return weights_rc.add_(logits_rc.sub_(sums_c).exp_().mul_(column_factor))

    @staticmethod
    def forward(
        ctx, scaled_NP, columns_MP, sums_N, sums_M, row_factor, column_factor, values_MD, size
    ):
        averages_ND = values_MD.new_zeros(len(scaled_NP), values_MD.shape[1])
        for r, c in tiles(len(scaled_NP), len(columns_MP), size):
            weights_rc = _SoftmaxAverage.weigh(
                scaled_NP[r], columns_MP[c], sums_N[r], sums_M[c], row_factor, column_factor
            )
            averages_ND[r].addmm_(weights_rc, values_MD[c])
        ctx.size = size
        ctx.save_for_backward(scaled_NP, columns_MP, sums_N, sums_M, row_factor, column_factor)
        return averages_ND

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_ND):
        scaled_NP, columns_MP, sums_N, sums_M, row_factor, column_factor = ctx.saved_tensors
        grad_values_MD = grad_ND.new_zeros(len(columns_MP), grad_ND.shape[1])
        for r, c in tiles(len(scaled_NP), len(columns_MP), ctx.size):
            weights_rc = _SoftmaxAverage.weigh(
                scaled_NP[r], columns_MP[c], sums_N[r], sums_M[c], row_factor, column_factor
            )
            grad_values_MD[c].addmm_(weights_rc.t(), grad_ND[r])
        return None, None, None, None, None, None, grad_values_MD, None
