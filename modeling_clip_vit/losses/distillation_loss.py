"""Learn from a frozen teacher's similarities."""

import torch
from torch import nn

from ..normalization import upcast
from .contrast import Contrast
from .contrastive_loss import ContrastiveLoss
from .gather import EarlyGather, gather_with_gradient, local_rows
from .targets import Targets
from .tiles import TileSize, log_sum_exp, softmax_average

#: A teacher's normalised embeddings of a process's images and texts, and its scale.
Teacher = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class DistillationLoss(ContrastiveLoss):
    r"""A loss, and the divergence of the student's similarities from a teacher's.

    .. math:: (1 - \lambda)\,\mathcal L + \frac{\lambda}{2} \sum_d \frac1n \sum_i
              \mathrm{KL}\big(\mathrm{softmax}(s' a'_i \cdot b'_j) \,\|\,
              \mathrm{softmax}(s\,a_i \cdot b_j)\big)

    over the images and texts of all processes (Yang et al., 2024, section 3.2: CLIP-KD's
    contrastive relational distillation; Wu et al., 2023, section 3.1: TinyCLIP's affinity
    mimicking). Only similarities are compared, so the teacher's width is free.

    Args:
        loss: the loss without a teacher.
        weight: weight of the divergence, from 0 to 1; the loss has the rest.
        tile_size: as in `ContrastiveLoss`.

    Example:
        >>> loss = DistillationLoss(ClipLoss(), weight=0.5)
        >>> loss(image_embeds, text_embeds, scale, teacher=(images, texts, teacher_scale))
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
        has_equal_shares: bool = False,
        early: EarlyGather | None = None,
        teacher: Teacher | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """The loss, a scalar; other arguments as in `ContrastiveLoss`.

        Args:
            teacher: its normalised embeddings of the same images and texts, (B_image, P') and
                (B_text, P'), and its scale, already exponentiated.

        Raises:
            ValueError: there is no teacher, or its numbers of images and texts differ.
        """
        numbers = len(image_embeds), len(text_embeds)
        if teacher is None or (len(teacher[0]), len(teacher[1])) != numbers:
            raise ValueError(
                "DistillationLoss needs teacher=(image_embeds, text_embeds, logit_scale) for the "
                f"same {numbers[0]} images and {numbers[1]} texts"
            )
        embeds = image_embeds, text_embeds, logit_scale
        loss = self.loss(*embeds, logit_bias, targets, has_equal_shares, early)
        divergence = super().forward(*embeds, has_equal_shares=has_equal_shares, teacher=teacher)
        return (1 - self.weight) * loss + self.weight * divergence

    def local_loss(
        self, contrast: Contrast, targets: Targets | None, teacher: Teacher | None = None, **kwargs
    ) -> torch.Tensor:
        """This process's part of the divergence: the student's cross-entropy, minus the teacher's.

        With a softmax as target, cross-entropy is the mean `log sum exp` minus the dot products of
        embeddings with the averages that `softmax_average` gives.
        """
        assert teacher is not None
        teacher_images, local_texts, teacher_scale = (upcast(part.detach()) for part in teacher)
        teacher_texts = gather_with_gradient(local_texts, contrast.text_sizes)
        teacher_sums = log_sum_exp(teacher_images, teacher_texts, teacher_scale, self.tile_size)
        factors = (
            teacher_texts.new_full((), 1 / sum(contrast.image_sizes)),
            teacher_texts.new_full((), 1 / sum(contrast.text_sizes)),
        )
        averages_BP = softmax_average(
            teacher_images,
            teacher_texts,
            teacher_scale,
            teacher_sums,
            factors,
            torch.cat((contrast.all_texts, teacher_texts.to(contrast.all_texts)), dim=1),
            self.tile_size,
        )
        width = contrast.all_texts.shape[1]
        student_sums = log_sum_exp(
            contrast.images, contrast.all_texts, contrast.scale, self.tile_size
        )
        student_dots = contrast.scale * (contrast.images * averages_BP[:, :width]).sum()
        student_entropy = self.mean(student_sums, factors, contrast) - student_dots
        teacher_dots = teacher_scale * (teacher_images * averages_BP[:, width:]).sum()
        teacher_entropy = self.mean(teacher_sums, factors, contrast) - teacher_dots
        return (student_entropy - teacher_entropy) / 2

    def mean(
        self,
        sums: tuple[torch.Tensor, torch.Tensor],
        factors: tuple[torch.Tensor, torch.Tensor],
        contrast: Contrast,
    ) -> torch.Tensor:
        """This process's part of the mean over images plus the mean over texts."""
        text_sums = local_rows(sums[1], contrast.text_sizes)
        return sums[0].sum() * factors[0] + text_sums.sum() * factors[1]
