"""Learn from a frozen teacher's similarities."""

import torch
from torch import nn

from ..normalization import upcast
from .contrastive_loss import Contrast, ContrastiveLoss
from .gather import gather_with_gradient, own_rows
from .targets import Targets
from .tiles import TileSize, log_sum_exp, softmax_average

#: A teacher's embeddings of a process's images and texts, of length 1, and its scale.
Teacher = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class DistillationLoss(ContrastiveLoss):
    r"""A loss, and how far the student's similarities are from a teacher's.

    .. math:: (1 - \lambda)\,\mathcal L + \frac{\lambda}{2} \sum_d \frac1n \sum_i
              \mathrm{KL}\big(\mathrm{softmax}(s' a'_i \cdot b'_j) \,\|\,
              \mathrm{softmax}(s\,a_i \cdot b_j)\big)

    over the images and texts of all processes (Yang et al., 2024, section 3.2: CLIP-KD's
    contrastive relational distillation; Wu et al., 2023, section 3.1: TinyCLIP's affinity
    mimicking). Only similarities are compared, so the teacher's width is free.

    Args:
        loss: what the student learns without the teacher.
        weight: share of the teacher, from 0 to 1.
        tile_size: as in `ContrastiveLoss`.

    Example:
        >>> loss = DistillationLoss(ClipLoss(), weight=0.5)
        >>> loss(image_embeds, text_embeds, scale, teacher=(their_images, their_texts, their_scale))
    """

    def __init__(self, loss: nn.Module, weight: float = 0.5, tile_size: TileSize = "auto"):
        super().__init__(tile_size)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight} is not allowed: it must be from 0 to 1")
        self.loss, self.weight = loss, weight

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        targets: Targets | None = None,
        teacher: Teacher | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """The loss, a scalar; other arguments as in `ContrastiveLoss`.

        Args:
            teacher: its embeddings of the same images and texts, of length 1, (B_image, P') and
                (B_text, P'), and its scale, already exponentiated.

        Raises:
            ValueError: there is no teacher, or it saw other numbers of images and texts.
        """
        numbers = len(image_embeds), len(text_embeds)
        if teacher is None or (len(teacher[0]), len(teacher[1])) != numbers:
            raise ValueError(
                "DistillationLoss needs teacher=(image_embeds, text_embeds, logit_scale) for the "
                f"same {numbers[0]} images and {numbers[1]} texts"
            )
        loss = self.loss(image_embeds, text_embeds, logit_scale, logit_bias, targets)
        distance = super().forward(image_embeds, text_embeds, logit_scale, teacher=teacher)
        return (1 - self.weight) * loss + self.weight * distance

    def share(
        self, contrast: Contrast, targets: Targets | None, teacher: Teacher | None = None, **kwargs
    ) -> torch.Tensor:
        """This process's share of the distance: the student's cross-entropy, less the teacher's."""
        assert teacher is not None
        their_images, their_texts, their_scale = (upcast(part.detach()) for part in teacher)
        their_texts = gather_with_gradient(their_texts, contrast.text_sizes)
        sums = log_sum_exp(their_images, their_texts, their_scale, self.tile_size)
        factors = (
            their_texts.new_tensor(1 / sum(contrast.image_sizes)),
            their_texts.new_tensor(1 / sum(contrast.text_sizes)),
        )
        aims = softmax_average(
            their_images,
            their_texts,
            their_scale,
            sums,
            factors,
            torch.cat((contrast.all_texts, their_texts.to(contrast.all_texts)), dim=1),
            self.tile_size,
        )
        width = contrast.all_texts.shape[1]
        own_sums = log_sum_exp(contrast.images, contrast.all_texts, contrast.scale, self.tile_size)
        student = contrast.scale * (contrast.images * aims[:, :width]).sum()
        own = self.mean(own_sums, factors, contrast) - student
        teacher_similarity = their_scale * (their_images * aims[:, width:]).sum()
        theirs = self.mean(sums, factors, contrast) - teacher_similarity
        return (own - theirs) / 2

    def mean(self, sums, factors, contrast: Contrast) -> torch.Tensor:
        """This process's share of the means over images and over texts."""
        text_sums = own_rows(sums[1], contrast.text_sizes)
        return sums[0].sum() * factors[0] + text_sums.sum() * factors[1]
