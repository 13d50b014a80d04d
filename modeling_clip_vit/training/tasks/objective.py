"""What a training step minimises."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedTokenizerBase

from ...conversion.published import local_checkpoint
from ...losses import LOSSES, DistillationLoss, MatryoshkaLoss, MixedIds, MultiPositiveLoss
from ...losses.gather import EarlyGather
from ...losses.targets import Ids
from ...modeling_clip_vit import ClipVitModel
from ...runtimes.runtime import IMAGE_INPUTS
from ...utils.errors import UserError
from ...utils.from_pretrained import load_config, load_model
from ..gradient_cache import cut
from ..options import LossOptions
from ..stored_features import TEACHER_IMAGES, TEACHER_TEXTS
from .task import EQUAL_SHARES

#: The accuracy in a batch is computed on at most this many images.
ACCURACY_IMAGES = 1024
#: What any model of two towers takes of a batch.
MODEL_INPUTS = (
    *IMAGE_INPUTS,
    *("input_ids", "attention_mask"),
)


def build_loss(options: LossOptions) -> nn.Module:
    """The contrastive loss for the options.

    Raises:
        UserError: an option is set that the loss does not take.
    """
    kind = LOSSES[options.loss]
    refuse_options_of_others(options)
    check_exchange(options)
    arguments = {name: getattr(options, option) for name, option in kind.options.items()}
    if options.loss_exchange == "ring":
        arguments["exchange"] = "ring"
    loss: nn.Module = kind(**arguments)
    if options.matryoshka_dims:
        loss = MatryoshkaLoss(loss, options.matryoshka_dims)
    if options.teacher_name_or_path:
        loss = DistillationLoss(loss, options.distillation_weight)
    return loss


def refuse_options_of_others(options: LossOptions):
    """Reject an option that only other losses take.

    Raises:
        UserError: one is not at its default.
    """
    takers: dict[str, list[str]] = {}
    for name, kind in LOSSES.items():
        for option in kind.options.values():
            takers.setdefault(option, []).append(name)
    defaults = {option.name: option.default for option in fields(LossOptions)}
    for option, names in takers.items():
        value = getattr(options, option)
        if options.loss not in names and value != defaults[option]:
            raise UserError(
                f"{option}={value} is not allowed with loss={options.loss!r}: use "
                f"{' or '.join(names)}"
            )


def check_exchange(options: LossOptions):
    """Reject a ring for a loss that needs the texts of all processes at once.

    Raises:
        UserError: with what needs them.
    """
    if options.loss_exchange != "ring":
        return
    reason = ""
    if not LOSSES[options.loss].takes_ring:
        reason = f"loss={options.loss!r}"
    elif options.teacher_name_or_path:
        reason = "teacher_name_or_path"
    if reason:
        raise UserError(
            f"loss_exchange='ring' is not allowed with {reason}, which needs the texts of all "
            "processes at once: use 'gather'"
        )


def check_loss(options: LossOptions, model: ClipVitModel):
    """Reject a loss that does not fit a model.

    Raises:
        UserError: with the field and what it must be.
    """
    if LOSSES[options.loss].needs_logit_bias and model.get_logit_bias() is None:
        raise UserError(
            f"loss={options.loss!r} is not allowed with a model without logit bias: set "
            "logit_bias_init_value in its config.json; -10 is usual"
        )
    size = model.config.projection_dim
    if max(options.matryoshka_dims, default=0) > size:
        raise UserError(
            f"matryoshka_dims={options.matryoshka_dims} is not allowed: the embeddings have "
            f"projection_dim={size} numbers"
        )


def load_teacher(path: str) -> ClipVitModel:
    """A frozen model to learn from.

    Raises:
        UserError: it is no CLIP.
    """
    checkpoint = local_checkpoint(path)
    model_type = load_config(checkpoint).model_type
    if model_type != ClipVitModel.config_class.model_type:
        raise UserError(
            f"teacher_name_or_path={path!r} is not allowed: it holds a model of type "
            f"{model_type!r}, which cannot be converted"
        )
    return load_model(AutoModel, checkpoint, dtype=torch.float32).eval().requires_grad_(False)


def check_teacher(
    path: str, teacher: ClipVitModel, student: ClipVitModel, tokenizer: PreTrainedTokenizerBase
):
    """Reject a teacher that cannot take the batches of its student.

    Raises:
        UserError: it was made for other images or other tokens.
    """
    expected = student.config.vision_config.image_size, len(tokenizer)
    actual = teacher.config.vision_config.image_size, teacher.config.text_config.vocab_size
    if actual != expected:
        raise UserError(
            f"teacher_name_or_path={path!r} is not allowed: it is made for images of {actual[0]} "
            f"pixels and {actual[1]} tokens, but the batches have {expected[0]} and {expected[1]}; "
            "with stored_views, it embeds the data beforehand and may be of any size"
        )


class ContrastiveObjective:
    """Image-text contrast, and contrast between the images of a concept.

    A mixed image (`mixed_ids` and `mix_weight` in the batch) belongs to the texts of both of its
    concepts by their weights, and to another view by the chance that both show the same.

    Args:
        options: of the loss.
        teacher: with `teacher_name_or_path`, the model it names.
        autocast: makes the context that the teacher computes in, such as `Accelerator.autocast`.
        part_size: number of images that the teacher embeds at a time; 0 for all of a batch.
    """

    def __init__(
        self,
        options: LossOptions,
        teacher: ClipVitModel | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        part_size: int = 0,
    ):
        self.loss = build_loss(options)
        self.pairs_only = LOSSES[options.loss].pairs_only
        #: Whether the loss gathers the text embeddings as the model returns them.
        self.gathers_texts = options.loss_exchange == "gather" and not options.matryoshka_dims
        self.view_loss = MultiPositiveLoss(exchange=options.loss_exchange)
        self.view_loss_weight = options.view_loss_weight
        self.teacher, self.autocast, self.part_size = teacher, autocast, part_size

    def __call__(
        self,
        batch: dict,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        with_accuracy: bool = True,
        early: EarlyGather | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and values to log.

        Args:
            batch: of this process.
            image_embeds, text_embeds: embeddings of the whole batch, (B_image, P) and (B_text, P).
            scale, bias: scale and bias of the logits.
            with_accuracy: whether to log the share of images whose closest text is a positive.
            early: a gather of the text embeddings that has begun.
        """
        image_ids: Ids = batch["image_ids"]
        if "mixed_ids" in batch:
            image_ids = MixedIds(batch["image_ids"], batch["mixed_ids"], batch["mix_weight"])
        targets = None if self.pairs_only else (image_ids, batch["text_ids"])
        extras: dict[str, Any] = {}
        if self.teacher is not None:
            extras["teacher"] = self.embed_with_teacher(batch)
        extras |= {"has_equal_shares": batch.get(EQUAL_SHARES, False), "early": early}
        loss = self.loss(image_embeds, text_embeds, scale, bias, targets, **extras)
        parts = {"loss/text": loss.detach()}
        if self.view_loss_weight > 0:
            rows = batch["first_views"], batch["other_views"]
            first, other = (image_embeds[some] for some in rows)
            ids = (image_ids[rows[0]], image_ids[rows[1]])
            view_loss = self.view_loss(first, other, scale, targets=ids)
            parts["loss/view"] = view_loss.detach()
            loss = loss + self.view_loss_weight * view_loss
        if with_accuracy:
            shown = image_ids.heaviest() if isinstance(image_ids, MixedIds) else image_ids
            parts["accuracy"] = accuracy(image_embeds, text_embeds, shown, batch["text_ids"])
        return loss, parts

    @torch.no_grad()
    def embed_with_teacher(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The teacher's embeddings of a batch, and its scale."""
        assert self.teacher is not None
        scale = self.teacher.get_logit_scale()
        if TEACHER_IMAGES in batch:
            return batch[TEACHER_IMAGES], batch[TEACHER_TEXTS], scale.to(batch[TEACHER_IMAGES])
        inputs = {name: batch[name] for name in MODEL_INPUTS if name in batch}
        parts = cut(inputs, self.part_size) if self.part_size else [inputs]
        with self.autocast():
            outputs = [self.teacher(**part, return_logits=False) for part in parts]
        images = torch.cat([part.image_embeds for part in outputs])
        return images, torch.cat([part.text_embeds for part in outputs]), scale


@torch.no_grad()
def accuracy(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_ids: torch.Tensor,
    text_ids: torch.Tensor,
) -> torch.Tensor:
    """Share of the images whose closest text, of this process's, is one of theirs; a scalar.

    Of a larger batch, only the first `ACCURACY_IMAGES` images count.
    """
    closest = (image_embeds[:ACCURACY_IMAGES] @ text_embeds.t()).argmax(dim=1)
    return (text_ids[closest] == image_ids[:ACCURACY_IMAGES]).float().mean()
