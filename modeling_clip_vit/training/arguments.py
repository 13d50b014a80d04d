"""All options of a training run, as recipes and the command line set them, and their checks."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import SchedulerType

from ..data.captions import CaptionOptions
from ..data.columns import Columns
from ..data.mixing import MixOptions
from ..data.native import NativeOptions
from ..data.streaming.options import StreamOptions
from ..data.transforms import AugmentOptions
from ..hub.templates import check_template
from ..losses import LOSSES
from ..quantization.options import QuantizationOptions
from ..utils.errors import UserError, first_line
from .finetuning.checks import check_finetuning
from .finetuning.options import AdapterOptions, FinetuningOptions
from .options import (
    DataOptions,
    DiagnosticOptions,
    LossOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    ScheduleOptions,
)

logger = logging.getLogger(__name__)


AT_LEAST_0: tuple[Callable[[Any], bool], str] = (
    lambda value: 0 <= value < float("inf"),
    "a number of at least 0",
)
AT_LEAST_1: tuple[Callable[[Any], bool], str] = (lambda value: value >= 1, "at least 1")
SHARE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value <= 1, "from 0 to 1")
PART: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1, "at least 0 and below 1")
UNTIL: tuple[Callable[[Any], bool], str] = (
    lambda value: 0 < value <= 1,
    "a share of the run, above 0 and at most 1",
)
#: Option -> a condition on its value, and its wording.
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "images_per_concept": AT_LEAST_1,
    "dataloader_num_workers": AT_LEAST_0,
    "max_bad_sample_ratio": SHARE,
    "image_seq_lens": (lambda lens: all(one >= 1 for one in lens), "numbers of at least 1"),
    "max_image_tokens": AT_LEAST_0,
    "frozen_vision_layers": AT_LEAST_0,
    "frozen_text_layers": AT_LEAST_0,
    "text_pad_multiple": AT_LEAST_1,
    "stored_views": (lambda views: views is None or views >= 0, "null or at least 0"),
    "loss": (lambda name: name in LOSSES, f"one of {', '.join(LOSSES)}"),
    "label_smoothing": PART,
    "hard_negative_beta": AT_LEAST_0,
    "num_train_epochs": AT_LEAST_0,
    "learning_rate": AT_LEAST_0,
    "muon_learning_rate": AT_LEAST_0,
    "weight_decay": AT_LEAST_0,
    "adam_beta1": PART,
    "adam_beta2": PART,
    "seed": (lambda value: 0 <= value < 2**32, "at least 0 and below 2^32"),
    "eval_steps": AT_LEAST_0,
    "save_steps": AT_LEAST_0,
    "gradient_checkpointing_every": AT_LEAST_1,
    "matryoshka_dims": (lambda dims: all(dim >= 1 for dim in dims), "widths of at least 1"),
    "view_loss_weight": AT_LEAST_0,
    "distillation_weight": SHARE,
    "max_steps": AT_LEAST_0,
    "per_device_train_batch_size": (
        lambda size: size >= 2,
        "at least 2: a batch of one has nothing to contrast",
    ),
    "gradient_accumulation_steps": AT_LEAST_1,
    "gradient_cache_batch_size": AT_LEAST_0,
    "patch_dropout_until": UNTIL,
    "small_images_until": UNTIL,
    "layer_decay": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "max_grad_norm": AT_LEAST_0,
    "max_grad_spike": (lambda value: value == 0 or value > 1, "0, or above 1"),
    "max_skipped_updates": AT_LEAST_1,
    "ema_decay": PART,
    "lr_scheduler_type": (
        lambda name: name in {kind.value for kind in SchedulerType},
        f"one of {', '.join(sorted(kind.value for kind in SchedulerType))}",
    ),
    "warmup_ratio": SHARE,
    "decay_ratio": SHARE,
    "save_total_limit": AT_LEAST_1,
    "lora_rank": AT_LEAST_1,
    "lora_vision_rank": (lambda rank: rank is None or rank >= 0, "null or at least 0"),
    "lora_text_rank": (lambda rank: rank is None or rank >= 0, "null or at least 0"),
    "lora_alpha": (lambda alpha: alpha is None or alpha > 0, "null or above 0"),
    "lora_dropout": PART,
    "head_first_steps": AT_LEAST_0,
    "l2_sp_weight": AT_LEAST_0,
    "wise_ft": (lambda shares: all(0 <= share <= 1 for share in shares), "shares from 0 to 1"),
    "wise_ft_alpha": SHARE,
    "logging_steps": AT_LEAST_1,
    "hub_patience": AT_LEAST_0,
    "profile_steps": AT_LEAST_0,
    "hang_timeout": AT_LEAST_0,
    "ddp_timeout": (lambda seconds: 0 < seconds < float("inf"), "a number above 0"),
}


def check_repo_id(name: str):
    """Reject an invalid name of a repository on the Hub.

    Raises:
        UserError: with the reason.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"hub_model_id={name!r} is not allowed: {first_line(error)}") from error


@dataclass
class TrainArguments:
    """All sections of a run. No two sections have an option of the same name."""

    data: DataOptions = field(default_factory=DataOptions)
    stream: StreamOptions = field(default_factory=StreamOptions)
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    native: NativeOptions = field(default_factory=NativeOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    mix: MixOptions = field(default_factory=MixOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    finetuning: FinetuningOptions = field(default_factory=FinetuningOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    run: RunOptions = field(default_factory=RunOptions)
    diagnostics: DiagnosticOptions = field(default_factory=DiagnosticOptions)

    def __post_init__(self):
        values = self.to_flat_dict()
        for name, (holds, allowed) in CHECKS.items():
            if not holds(values[name]):
                raise UserError(f"{name}={values[name]} is not allowed: it must be {allowed}")
        optimizer, run, data = self.optimizer, self.run, self.data
        self.check_evaluations()
        self.check_stored_views()
        self.check_tokenizer()
        if optimizer.max_steps == 0 and optimizer.num_train_epochs <= 0:
            raise UserError(
                "max_steps=0 is not allowed: it must be above 0 where num_train_epochs is 0"
            )
        if optimizer.per_device_train_batch_size % data.images_per_concept:
            raise UserError(
                f"per_device_train_batch_size={optimizer.per_device_train_batch_size} is not "
                f"allowed: it must be a multiple of images_per_concept={data.images_per_concept}"
            )
        if LOSSES[self.loss.loss].pairs_only:
            self.check_pairs()
        if optimizer.gradient_cache_batch_size and optimizer.gradient_accumulation_steps > 1:
            raise UserError(
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps} is not "
                "allowed with gradient_cache_batch_size: raise per_device_train_batch_size "
                "instead, so that all of it is contrasted"
            )
        if self.mix.is_on:
            self.check_mix()
        self.check_native()
        if self.stream.stream_sources:
            self.check_stream()
        if self.loss.view_loss_weight > 0 and data.images_per_concept == 1:
            raise UserError(
                f"view_loss_weight={self.loss.view_loss_weight} is not allowed with "
                "images_per_concept=1: there is no other view to contrast; set it to 0"
            )
        if run.card_template:
            check_template(Path(run.card_template))
        if run.push_to_hub and not run.hub_model_id:
            raise UserError("push_to_hub needs hub_model_id: the repository to upload to")
        if run.hub_strategy != "end" and not run.eval_steps:
            raise UserError(
                f"hub_strategy={run.hub_strategy!r} is not allowed with eval_steps=0, which "
                "evaluates at the end only: set eval_steps, or hub_strategy to end"
            )
        if run.hub_model_id:
            check_repo_id(run.hub_model_id)
        check_finetuning(self)
        if optimizer.learning_rate == 0:
            logger.warning("learning_rate=0: the weights that AdamW trains will not change")

    def check_evaluations(self):
        """Reject evaluations whose metrics would have the same names.

        Raises:
            UserError: two entries have the same name.
        """
        names = set()
        for evaluation in self.data.evaluations:
            name = evaluation.name or evaluation.split
            if name in names:
                raise UserError(
                    f"evaluations has two entries called {name!r}: give one of them another name"
                )
            names.add(name)

    def check_pairs(self):
        """Reject options that give an image other positives than its own text.

        Raises:
            UserError: with the option or the loss to change.
        """
        if self.data.images_per_concept > 1:
            raise UserError(
                f"loss={self.loss.loss!r} is not allowed with images_per_concept > 1: use "
                "multi_positive"
            )
        if self.captions.label_column:
            raise UserError(
                f"loss={self.loss.loss!r} is not allowed with label_column, where images of one "
                "class share their texts: use multi_positive"
            )
        if self.captions.caption_sampling == "each" and len(self.captions.sources()) > 1:
            raise UserError(
                f"caption_sampling='each' is not allowed with loss={self.loss.loss!r}, which pairs "
                "each image with one text: use 'one'"
            )

    def check_dataset(self):
        """Reject a run without data to train on or to evaluate on.

        Raises:
            UserError: with the missing option.
        """
        if self.data.dataset:
            return
        if not self.stream.stream_sources:
            raise UserError(
                "there is nothing to train on: pass --dataset (a folder of images, a table, tars, "
                "or an id on the Hub), or --config emoji for the bundled example"
            )
        for evaluation in self.data.evaluations:
            if not evaluation.dataset:
                raise UserError(
                    f"the evaluation on split={evaluation.split!r} needs a dataset: give --dataset "
                    "or the entry's own, or set evaluations to [] to evaluate nothing"
                )

    def why_nothing_is_stored(self) -> str | None:
        """The option with which features of frozen towers are computed in every step, if any."""
        if self.stream.stream_sources:
            return "stream_sources, which has no numbered rows"
        if self.mix.is_on:
            return "mixup_probability or cutmix_probability, as every mixture is new"
        if self.native.is_on:
            return "image_seq_lens"
        if self.quantization.quantization_mode != "none":
            return f"quantization_mode={self.quantization.quantization_mode!r}"
        return None

    def check_stored_views(self):
        """Reject stored features where there are none, or where they would not stay the same.

        Raises:
            UserError: with the option to change.
        """
        views, reason = self.model.stored_views, self.why_nothing_is_stored()
        if not views:
            return
        if reason:
            raise UserError(f"stored_views={views} is not allowed with {reason}: leave it at null")
        if not self.model.frozen_towers and self.loss.teacher_name_or_path is None:
            raise UserError(
                f"stored_views={views} is not allowed without frozen_towers or "
                "teacher_name_or_path: everything else changes with each step"
            )

    def check_tokenizer(self):
        """Reject another tokenizer than that of a pretrained text tower.

        Raises:
            UserError: with the option to leave out.
        """
        model = self.model
        if model.tokenizer_name_or_path is None:
            return
        for name in ("model_name_or_path", "text_model_name_or_path"):
            if getattr(model, name):
                raise UserError(
                    f"tokenizer_name_or_path={model.tokenizer_name_or_path!r} is not allowed with "
                    f"{name}, whose text tower knows the tokens of its own tokenizer alone: leave "
                    "it at null"
                )

    def check_mix(self):
        """Reject mixing that the loss or the batches do not support.

        Raises:
            UserError: with the option to change.
        """
        if self.mix.mix_partners == "any" and LOSSES[self.loss.loss].pairs_only:
            raise UserError(
                f"loss={self.loss.loss!r} is not allowed with mixup_probability or "
                "cutmix_probability, as a mixed image belongs to two texts: use multi_positive "
                "or siglip"
            )
        if self.mix.mix_partners == "concept" and self.data.images_per_concept == 1:
            raise UserError(
                "mix_partners='concept' is not allowed with images_per_concept=1: there is no "
                "other image of a concept to mix with"
            )

    def check_native(self):
        """Reject options that images in their own aspect ratio do not support.

        Raises:
            UserError: with the option to change.
        """
        native, budget = self.native, self.native.max_image_tokens
        if budget and not native.is_on:
            raise UserError(
                f"max_image_tokens={budget} is not allowed without image_seq_lens, which says how "
                "many patches an image has"
            )
        if not native.is_on:
            return
        fewest = max(2, self.data.images_per_concept)
        if budget and budget < fewest * native.longest:
            raise UserError(
                f"max_image_tokens={budget} is not allowed with image_seq_lens="
                f"{native.image_seq_lens}: a batch has at least {fewest} images, and "
                f"{fewest} of {native.longest} patches are {fewest * native.longest}"
            )
        if self.mix.is_on:
            raise UserError(
                "mixup_probability and cutmix_probability are not allowed with image_seq_lens: "
                "images of different shapes cannot be mixed"
            )
        if self.quantization.quantization_mode != "none":
            raise UserError(
                f"quantization_mode={self.quantization.quantization_mode!r} is not allowed with "
                "image_seq_lens: it is calibrated on squares"
            )
        if self.schedule.small_image_size is not None:
            raise UserError(
                f"small_image_size={self.schedule.small_image_size} is not allowed with "
                "image_seq_lens, which has sizes of its own: give it smaller numbers"
            )
        squares = [name for name in self.run.save_as if name != "hf_siglip2"]
        if squares:
            raise UserError(
                f"save_as={squares} is not allowed with image_seq_lens: the processors of "
                "implementations other than hf_siglip2 cut out squares"
            )

    def check_stream(self):
        """Reject options that a stream does not support.

        Raises:
            UserError: with the option to change.
        """
        if not self.stream.samples_per_epoch and not self.optimizer.max_steps:
            raise UserError(
                "stream_sources needs samples_per_epoch or max_steps: a stream has no length"
            )
        if self.data.images_per_concept > 1:
            raise UserError("images_per_concept > 1 is not allowed with stream_sources")
        if LOSSES[self.loss.loss].pairs_only:
            raise UserError(
                f"loss={self.loss.loss!r} is not allowed with stream_sources, where equal captions "
                "are positives of each other: use multi_positive, which is the same where none are"
            )

    def with_columns(self, columns: Columns) -> "TrainArguments":
        """The same run, reading these columns.

        Raises:
            UserError: other options are not allowed with them.
        """
        captions = {name: getattr(columns, name) for name in ("caption_columns", "label_column")}
        return replace(
            self,
            data=replace(self.data, image_column=columns.image_column),
            captions=replace(self.captions, **captions),
        )

    def to_flat_dict(self) -> dict:
        """Every option of every section by name, as a recipe file has them."""
        return {
            option.name: getattr(section, option.name)
            for section in vars(self).values()
            for option in fields(section)
        } | {"evaluations": [one.changed_fields() for one in self.data.evaluations]}
