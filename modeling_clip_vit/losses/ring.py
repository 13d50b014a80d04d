"""Rows that travel round the processes, so that each sees all of them and keeps only its share.

Each process begins with the block of its own rows. It passes the block that it holds on to the
process before it and gets the next one from the process after it, until it has seen all; the next
block is on its way while this one is used (Liu et al., 2023, section 3; Cheng et al., 2024, section
3.3). Gradients of the rows travel the same way, one step behind, and arrive at their owner.

Shape legend: `B` this process's rows.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist

#: Rows and gradients are on their way at once, and must not be taken for each other.
ROWS, GRADIENTS = 0, 1


class Ring:
    """What a function over the rows of all processes iterates over, block by block.

    With a single block, nothing travels: the rows of all processes, once they are gathered.

    Args:
        sizes: number of rows of each block; block i belongs to process i.
        rank: the block that this process owns.
    """

    def __init__(self, sizes: list[int], rank: int = 0):
        self.sizes, self.rank = sizes, rank
        self.num_rows = sum(sizes)

    def blocks(self, rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """The place of each block among all rows, and its rows; this process's block comes first.

        Args:
            rows: this process's rows, (B, ...).
        """
        block = rows.contiguous()
        for turn in range(len(self.sizes)):
            travel = None
            if turn + 1 < len(self.sizes):
                travel = self.pass_on(block, self.owner(turn + 1), ROWS)
            yield self.place(self.owner(turn)), block
            if travel is not None:
                block = travel.wait()

    def blocks_with_gradients(
        self, rows: torch.Tensor, gradient: torch.Tensor
    ) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """As `blocks`, with zeros in the shape of each block, to add the gradient of its rows to.

        Args:
            rows: this process's rows, (B, ...).
            gradient: zeros of the same shape. At the end, it is the sum of what all processes have
                added for these rows.
        """
        blocks = self.blocks(rows)
        for (place, block), (_, partial) in zip(blocks, self.gradients(gradient), strict=True):
            yield place, block, partial

    def gradients(self, gradient: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """The place of each block among all rows, and zeros to add the gradient of its rows to.

        Args:
            gradient: as in `blocks_with_gradients`.
        """
        if len(self.sizes) == 1:
            yield self.place(0), gradient
            return
        travel = None
        for turn in range(len(self.sizes)):
            owner = self.owner(turn)
            partial = gradient.new_zeros(self.sizes[owner], *gradient.shape[1:])
            yield self.place(owner), partial
            if travel is not None:  # what the processes after this one have added
                partial += travel.wait()
                travel = None  # frees its blocks before the next are made
            travel = self.pass_on(partial, self.owner(turn + 1), GRADIENTS)
        assert travel is not None
        gradient.copy_(travel.wait())

    def owner(self, turn: int) -> int:
        """The process whose block is here in a turn."""
        return (self.rank + turn) % len(self.sizes)

    def place(self, owner: int) -> slice:
        """The place of a process's rows among all rows."""
        start = sum(self.sizes[:owner])
        return slice(start, start + self.sizes[owner])

    def pass_on(self, block: torch.Tensor, owner: int, tag: int) -> "Travel":
        """Begin to send a block to the process before this one, and to receive `owner`'s."""
        arriving = block.new_empty(self.sizes[owner], *block.shape[1:])
        before, after = self.owner(-1), self.owner(1)
        return Travel(
            block,
            arriving,
            dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, block, before, tag=tag),
                    dist.P2POp(dist.irecv, arriving, after, tag=tag),
                ]
            ),
        )


class Travel:
    """A block on its way out and another on its way in; both stay in memory until they arrived.

    Args:
        leaving, arriving: the blocks.
        works: what torch began.
    """

    def __init__(self, leaving: torch.Tensor, arriving: torch.Tensor, works: list[dist.Work]):
        self.leaving, self.arriving, self.works = leaving, arriving, works

    def wait(self) -> torch.Tensor:
        """The block that arrived."""
        for work in self.works:
            work.wait()
        return self.arriving
