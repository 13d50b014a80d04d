"""The options of a training run, by section, as a recipe and the command line set them.

Options that Transformers' `TrainingArguments` has keep their names.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import SchedulerType

from ..data.captions import CaptionOptions
from ..data.columns import Columns
from ..data.mixing import MixOptions
from ..data.native import NativeOptions
from ..data.streaming.options import StreamOptions
from ..data.transforms import AugmentOptions
from ..evaluation.options import EvaluationOptions
from ..hub.templates import check_template
from ..losses import LOSSES
from ..quantization.options import QuantizationOptions
from ..utils.errors import UserError, first_line
from .finetuning.checks import check_finetuning
from .finetuning.options import AdapterOptions, FinetuningOptions

logger = logging.getLogger(__name__)


@dataclass
class DataOptions:
    """Which dataset to train on, and which of its splits to evaluate on.

    Args:
        dataset: a folder of images (with `metadata.csv`, or one folder per class), of Parquet, CSV,
            TSV, JSON lines or WebDataset tars, or one written by `save_to_disk`; a single file or a
            glob pattern; or a dataset id on the Hub (see docs/data.md).
        train_split: split to train on.
        evaluations: what to evaluate on, a list. Each entry names a `split`, and if needed
            `tasks`, `dataset` and the other options of `clip-vit evaluate`; `name` is what its
            metrics are called, and `only_at_end` leaves it out on the way. `[]` evaluates nothing.
        image_column: column with the images or their paths; null guesses it.
        concept_column: column that groups rows: images and texts of rows with the same value are
            positives of each other. By default rows are grouped by class (`label_column`), or by
            identical captions where there are no classes.
        images_per_concept: images per concept in a batch. With 1, an epoch is one pass over the
            rows; with more, or with a loss that only knows pairs, one pass over the concepts.
        cache_images: decode all images into memory once instead of every time they are read; each
            process keeps all of them.
        dataloader_num_workers: worker processes that prepare batches; 0 uses the main process.
        max_bad_sample_ratio: stop if more than this share of the rows cannot be used.
    """

    dataset: str = ""
    train_split: str = "train"
    evaluations: list[EvaluationOptions] = field(
        default_factory=lambda: [EvaluationOptions(split="validation")]
    )
    image_column: str | None = None
    concept_column: str | None = None
    images_per_concept: int = 1
    cache_images: bool = True
    dataloader_num_workers: int = 0
    max_bad_sample_ratio: float = 0.01


@dataclass
class ModelOptions:
    """Which model to train.

    Args:
        model_config: architecture to train from scratch: a ready-made one by name, such as
            `clip-vit-base-patch32`, or a folder with a config.json. For classification, the
            configuration of an image tower, or of a CLIP, whose image tower is used.
        model_name_or_path: checkpoint to fine-tune instead, together with its tokenizer, also a
            published one of Transformers, open_clip or timm (see docs/conversion.md). For
            classification, a classifier, an image tower or a CLIP, whose image tower gets a new
            class head.
        vision_model_name_or_path: pretrained image encoder to use as the image tower, of
            Transformers or timm.
        text_model_name_or_path: pretrained text encoder to use as the text tower, together with its
            tokenizer.
        model_fields: fields to override in the joint configuration, such as
            `{logit_bias_init_value: -10}`.
        vision_fields: fields to override in the configuration of the image tower, such as
            `{patch_dropout: 0.25}`. With another `image_size`, the learned positions of a
            checkpoint are interpolated.
        text_fields: fields to override in the configuration of the text tower, such as
            `{pooling: mean, projection_type: mlp}`.
        frozen_towers: towers to freeze: `vision`, `text` (LiT: Zhai et al., 2022).
        frozen_vision_layers: number of blocks of the image tower to freeze, counted from the input;
            the embeddings before them are frozen too.
        frozen_text_layers: number of blocks of the text tower to freeze, in the same way.
        stored_views: number of views of each sample, each with its own augmentation and texts, that
            a frozen tower and the teacher embed once, before training, instead of in every step.
            Later runs over the same data find them again. null stores one view where nothing
            varies, and nothing otherwise; 0 never stores.
        attn_implementation: `eager`, `sdpa` or another attention kernel of Transformers. null uses
            its default, or `eager` where that trains faster (on a CPU in bfloat16, up to 256
            tokens).
        pack_texts: pack several texts into a row, which saves computing padding and does not change
            the embeddings. `auto` packs on a CPU.
        gradient_checkpointing: recompute the blocks in the backward pass to save memory.
        torch_compile: compile each block: faster steps, after some seconds of compilation.
    """

    model_config: str = "emoji"
    model_name_or_path: str | None = None
    vision_model_name_or_path: str | None = None
    text_model_name_or_path: str | None = None
    model_fields: dict[str, Any] = field(default_factory=dict)
    vision_fields: dict[str, Any] = field(default_factory=dict)
    text_fields: dict[str, Any] = field(default_factory=dict)
    frozen_towers: list[Literal["vision", "text"]] = field(default_factory=list)
    frozen_vision_layers: int = 0
    frozen_text_layers: int = 0
    stored_views: int | None = None
    attn_implementation: str | None = None
    pack_texts: bool | Literal["auto"] = "auto"
    gradient_checkpointing: bool = False
    torch_compile: bool = False


@dataclass
class LossOptions:
    """Which loss to minimise. Classification uses cross-entropy and only reads label_smoothing.

    Args:
        loss: `clip` (softmax; image i pairs with text i), `multi_positive` (softmax; all pairs of
            the same concept are positives), `siglip` (pairwise sigmoid) or `hard_negative`
            (softmax; similar negatives get a higher weight).
        label_smoothing: share of each target that is spread evenly over the batch; for `clip`,
            `multi_positive` and classification.
        hard_negative_beta: how strongly similar negatives are weighted, for `hard_negative`; 0
            weights all alike.
        matryoshka_dims: shorter embedding widths to train as well, so that an embedding can be
            truncated to them; empty trains the full width only.
        view_loss_weight: weight of the contrastive loss between images of the same concept; 0
            disables it.
        teacher_name_or_path: trained checkpoint whose similarities are distilled; `start` is the
            one that the run starts from (model_name_or_path), so that less of it is forgotten.
        distillation_weight: weight of the distillation loss, from 0 to 1.
    """

    loss: str = "multi_positive"
    label_smoothing: float = 0.0
    hard_negative_beta: float = 0.25
    matryoshka_dims: list[int] = field(default_factory=list)
    view_loss_weight: float = 0.0
    teacher_name_or_path: str | None = None
    distillation_weight: float = 0.5


@dataclass
class OptimizerOptions:
    """How to optimise.

    Args:
        max_steps: number of updates; 0 trains for `num_train_epochs`.
        num_train_epochs: passes over the data.
        per_device_train_batch_size: images per process and step.
        gradient_accumulation_steps: steps per update; each step contrasts its own batch only.
        gradient_cache_batch_size: images that go through the towers at a time while the loss
            contrasts the whole batch, for batches that do not fit in memory; 0 disables it.
        optim: `adamw`, `adafactor`, or `muon` for matrices and convolutions with AdamW for the
            other parameters.
        learning_rate: peak learning rate of AdamW.
        muon_learning_rate: peak learning rate of Muon.
        layer_decay: factor by which the learning rate shrinks from each block to the one before
            it; 1 disables it.
        weight_decay: decoupled weight decay, applied to matrices and convolutions only.
        adam_beta1: AdamW's decay rate of the gradient's running mean.
        adam_beta2: AdamW's decay rate of the squared gradient's running mean.
        max_grad_norm: clip gradients to this norm; 0 disables clipping.
        max_grad_spike: skip updates whose gradient norm exceeds this multiple of its running mean;
            0 disables. Updates with a gradient that is not finite are always skipped.
        max_skipped_updates: stop after this many skipped updates in a row.
        ema_decay: decay rate of a running mean of the weights, which is then evaluated and saved
            instead of the weights; 0 disables it.
        lr_scheduler_type: a learning-rate schedule of Transformers: cosine, linear, constant,
            constant_with_warmup, warmup_stable_decay (constant, then down to 0) and others.
        warmup_ratio: share of the updates over which the learning rate rises from 0.
        decay_ratio: share of the updates over which it falls to 0, for warmup_stable_decay.
    """

    max_steps: int = 0
    num_train_epochs: float = 10
    per_device_train_batch_size: int = 256
    gradient_accumulation_steps: int = 1
    gradient_cache_batch_size: int = 0
    optim: Literal["adamw", "adafactor", "muon"] = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.02
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    max_grad_norm: float = 1.0
    max_grad_spike: float = 0.0
    max_skipped_updates: int = 20
    ema_decay: float = 0.0
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.05
    decay_ratio: float = 0.2


@dataclass
class RunOptions:
    """Where to write, how often, and on what to compute.

    Args:
        task: `contrastive` trains a CLIP on images and texts, `classification` a ViT with a class
            head on images and the classes of `label_column`.
        output_dir: folder for the trained model and everything that belongs to it.
        seed: random seed of weights, data order and augmentation.
        bf16: use bfloat16 autocast; `auto` does so where it is measurably faster.
        fp16: use float16 autocast with loss scaling; needs a GPU.
        logging_steps: number of updates between two logs.
        eval_steps: number of updates between two evaluations; 0 evaluates at the end only.
        save_steps: number of updates between two checkpoints to resume from; 0 saves none.
        save_total_limit: number of checkpoints to keep.
        checkpoint_dir: folder or fsspec URL, such as `s3://bucket/run`, for the checkpoints; null
            uses `checkpoints` in output_dir. A folder is locked against a second run; a URL is not.
        resume_from_checkpoint: checkpoint folder to resume from, or `latest` for the newest
            complete one in checkpoint_dir; `auto` does the same, and starts a new run where there
            is none, so that one command serves the first start and every later one.
        save_as: other implementations to save the trained model for as well, each in a folder of
            its name in output_dir: hf_clip, open_clip, timm (the image tower alone) and others of
            `clip-vit convert`.
        report_to: trackers, by their name in Accelerate (tensorboard, wandb, ...), or none.
        energy_country: ISO code of the country, such as CHN or DEU, to have codecarbon estimate the
            energy and the emissions of the run for its card; null measures nothing.
        card_template: Jinja template for the model card, see docs/sharing.md; null uses the
            package's, in English and Chinese.
        push_to_hub: upload the trained model at the end.
        hub_model_id: repository to upload to, as `user/name`.
        hub_strategy: with push_to_hub, what to upload besides the model at the end: `end` nothing,
            `every_eval` the model of each evaluation, `best` that of each evaluation with the best
            mean of headline metrics so far; in the background, each a commit with a tag `step-N`.
        hub_private_repo: create a private repository; null creates a public one.
        hub_patience: seconds at the end of the run to go on trying an upload that fails.
        hub_dry_run: with push_to_hub, only list the files that would be uploaded.
    """

    task: str = "contrastive"
    output_dir: str = "outputs/run"
    seed: int = 0
    bf16: bool | Literal["auto"] = "auto"
    fp16: bool = False
    logging_steps: int = 10
    eval_steps: int = 0
    save_steps: int = 500
    save_total_limit: int = 1
    checkpoint_dir: str | None = None
    resume_from_checkpoint: str | None = None
    save_as: list[str] = field(default_factory=list)
    report_to: str = "tensorboard"
    energy_country: str | None = None
    card_template: str | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_strategy: Literal["end", "every_eval", "best"] = "end"
    hub_private_repo: bool | None = None
    hub_patience: float = 120.0
    hub_dry_run: bool = False

    @property
    def uploads_revisions(self) -> bool:
        """Whether models are uploaded on the way."""
        return self.push_to_hub and not self.hub_dry_run and self.hub_strategy != "end"


@dataclass
class DiagnosticOptions:
    """How to see what a run spends its time on, and that it hangs.

    Args:
        profile_steps: number of updates to profile, after the first few: traces and tables of
            operators, on CUDA the memory's history too, in `profile` in output_dir; 0 disables it.
        hang_timeout: seconds that an update may take, after the first; a process that takes longer
            writes the stacks of its threads to `hangs` in output_dir and ends. 0 disables it.
        ddp_timeout: seconds that processes wait for each other in an update, after the first;
            before it, in evaluations and while saving, they wait for two hours.
    """

    profile_steps: int = 0
    hang_timeout: float = 0.0
    ddp_timeout: float = 600.0


AT_LEAST_0: tuple[Callable[[Any], bool], str] = (
    lambda value: 0 <= value < float("inf"),
    "a number of at least 0",
)
AT_LEAST_1: tuple[Callable[[Any], bool], str] = (lambda value: value >= 1, "at least 1")
SHARE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value <= 1, "from 0 to 1")
PART: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1, "at least 0 and below 1")
#: Option -> a condition on its value, and its wording.
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "images_per_concept": AT_LEAST_1,
    "dataloader_num_workers": AT_LEAST_0,
    "max_bad_sample_ratio": SHARE,
    "image_seq_lens": (lambda lens: all(one >= 1 for one in lens), "numbers of at least 1"),
    "max_image_tokens": AT_LEAST_0,
    "frozen_vision_layers": AT_LEAST_0,
    "frozen_text_layers": AT_LEAST_0,
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
        if self.run.save_as:
            raise UserError(
                f"save_as={self.run.save_as} is not allowed with image_seq_lens: the processors of "
                "other implementations cut out squares"
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
