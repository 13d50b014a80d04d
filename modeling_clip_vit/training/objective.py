"""What a training step minimises."""

import torch
from torch import nn

from ..losses import ClipLoss, MultiPositiveLoss, SigLipLoss
from ..modeling_clip_vit import ClipVitModel
from .arguments import OptimizerOptions

#: `loss` -> the module that computes it, and whether it takes targets.
LOSSES: dict[str, type[nn.Module]] = {
    "clip": ClipLoss,
    "multi_positive": MultiPositiveLoss,
    "siglip": SigLipLoss,
}


class ContrastiveObjective:
    """Image-text contrast, and contrast between the images of a concept."""

    def __init__(self, options: OptimizerOptions):
        self.loss = LOSSES[options.loss]()
        self.takes_targets = options.loss != "clip"
        self.view_loss = MultiPositiveLoss()
        self.view_loss_weight = options.view_loss_weight

    def __call__(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        batch: dict,
        model: ClipVitModel,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and its parts to log."""
        scale, bias = model.get_logit_scale(), model.get_logit_bias()
        image_ids = batch["image_ids"]
        targets = (image_ids, batch["text_ids"]) if self.takes_targets else None
        loss = self.loss(image_embeds, text_embeds, scale, bias, targets)
        parts = {"loss/text": loss.detach()}
        if self.view_loss_weight > 0:
            is_first = batch["is_first_view"]
            first, other = image_embeds[is_first], image_embeds[~is_first]
            ids = (image_ids[is_first], image_ids[~is_first])
            view_loss = self.view_loss(first, other, scale, targets=ids)
            parts["loss/view"] = view_loss.detach()
            loss = loss + self.view_loss_weight * view_loss
        return loss, parts
