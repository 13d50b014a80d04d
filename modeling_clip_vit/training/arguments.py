"""Everything a training run can be told, by section. A recipe and the command line set fields.

Where Transformers' `TrainingArguments` has an option, it keeps its name here.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import SchedulerType

from ..data.captions import CaptionOptions
from ..data.mixing import MixOptions
from ..data.streams import StreamOptions
from ..data.transforms import AugmentOptions
from ..quantization.options import QuantizationOptions
from ..utils.errors import UserError, first_line

logger = logging.getLogger(__name__)


@dataclass
class DataOptions:
    """Which data set, and which part of it is for what.

    Args:
        dataset: a folder of images (with `metadata.csv`, or a folder for each class), of
            parquet, of CSV, TSV or JSON lines, of WebDataset tars, or of `save_to_disk`; a file of
            these, or a pattern of files; or the id of a data set on the Hub (docs/data.md).
        train_split: the split to train on.
        eval_split: the split to measure retrieval on; null for none.
        image_column: column of images, or of paths to them; null for a guess.
        concept_column: rows with an equal value belong together: their images and texts are
            positives of each other; null where those of an equal class are (label_column), or
            without classes those of equal captions.
        images_per_concept: images of one concept in a batch. With 1, an epoch is a pass over the
            rows; with more, or with a loss that knows pairs alone, over the concepts.
        cache_images: decode all images once into memory, rather than whenever a row is read.
        dataloader_num_workers: processes that prepare batches; 0 prepares them in the main one.
        max_bad_sample_ratio: stop when a larger share of images cannot be decoded.
        zero_shot_columns: class-label columns whose names are tried as zero-shot classes.
        zero_shot_templates: sets of phrases around those names: plain, en, zh or a file of them.
        new_concepts_split: a split of concepts that are not in training; its captions search
            among its images and those of eval_split; null for none.
        new_concepts_filter: use only the rows of new_concepts_split with these values.
    """

    dataset: str = ""
    train_split: str = "train"
    eval_split: str | None = "validation"
    image_column: str | None = None
    concept_column: str | None = None
    images_per_concept: int = 1
    cache_images: bool = True
    dataloader_num_workers: int = 0
    max_bad_sample_ratio: float = 0.01
    zero_shot_columns: list[str] = field(default_factory=list)
    zero_shot_templates: list[str] = field(default_factory=lambda: ["plain"])
    new_concepts_split: str | None = None
    new_concepts_filter: dict[str, str] = field(default_factory=dict)


@dataclass
class ModelOptions:
    """Which model.

    Args:
        model_config: an architecture, trained from scratch: the name of a ready-made one, such as
            `clip-vit-base-patch32`, or a folder with a config.json; for classification, that of an
            image tower, or of a CLIP whose image tower is taken.
        model_name_or_path: a checkpoint to go on from instead, with its tokenizer; for
            classification, a classifier, or a CLIP whose image tower gets a new class head.
        vision_model_name_or_path: a pretrained image encoder in place of the configuration's.
        text_model_name_or_path: a pretrained text encoder in place of the configuration's, with
            its tokenizer.
        model_fields: fields of the joint configuration to change, such as
            `{logit_bias_init_value: -10}`.
        vision_fields, text_fields: fields of a tower's configuration to change, such as
            `{pooling: mean, projection_type: mlp}` or `{patch_dropout: 0.25}`.
        frozen_towers: towers that do not learn: `vision`, `text` (Zhai et al., 2022: LiT).
        frozen_vision_layers, frozen_text_layers: so many of the lowest blocks do not learn, nor
            does what comes before them.
        attn_implementation: `eager`, `sdpa` or another kernel that Transformers knows; null for
            its choice, or `eager` where that trains faster (on a CPU in bfloat16, up to 256
            tokens).
        pack_texts: let several texts share a row, so that little padding is computed; `auto` does
            on a CPU. Embeddings stay what they are.
        gradient_checkpointing: recompute the blocks in the backward pass, to save memory.
        torch_compile: compile the blocks, one at a time: faster steps after some seconds.
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
    attn_implementation: str | None = None
    pack_texts: bool | Literal["auto"] = "auto"
    gradient_checkpointing: bool = False
    torch_compile: bool = False


@dataclass
class LossOptions:
    """What is minimised; with classification, cross entropy, and only label_smoothing has a say.

    Args:
        loss: `clip` (softmax, image i belongs to text i), `multi_positive` (softmax, equal
            concepts belong together), `siglip` (pairwise sigmoid) or `hard_negative` (softmax,
            image i belongs to text i, and negatives that look right count more).
        label_smoothing: share of each target that is spread over all; with the first two losses,
            and with classification.
        hard_negative_beta: how much more the harder negatives count; with `hard_negative`.
        matryoshka_dims: widths at which the loss is taken, so that the first so many numbers of an
            embedding search well alone; empty for the whole width only.
        view_loss_weight: weight of the contrast between the images of a concept; 0 for none.
        teacher_name_or_path: a trained checkpoint whose similarities are learned too.
        distillation_weight: share of the teacher in the loss, from 0 to 1.
    """

    loss: Literal["clip", "multi_positive", "siglip", "hard_negative"] = "multi_positive"
    label_smoothing: float = 0.0
    hard_negative_beta: float = 0.25
    matryoshka_dims: list[int] = field(default_factory=list)
    view_loss_weight: float = 0.0
    teacher_name_or_path: str | None = None
    distillation_weight: float = 0.5


@dataclass
class OptimizerOptions:
    """How it is minimised.

    Args:
        max_steps: number of updates; when 0, num_train_epochs decides.
        num_train_epochs: passes over the concepts.
        per_device_train_batch_size: images a process and step.
        gradient_accumulation_steps: steps an update; each contrasts within its own batch.
        gradient_cache_batch_size: images that go through the towers at once, while the loss
            contrasts the whole batch: for batches larger than fit; 0 for all at once.
        optim: `adamw`, `adafactor`, or `muon` for matrices and convolutions with AdamW for the
            rest.
        learning_rate: peak learning rate of AdamW.
        muon_learning_rate: peak learning rate of Muon.
        layer_decay: factor of the learning rate from one block to the one before it; 1 for none.
        weight_decay: decoupled, on matrices and convolutions only.
        adam_beta1: AdamW's decay of the mean of the gradient.
        adam_beta2: AdamW's decay of the mean of its square.
        max_grad_norm: longer gradients are scaled down to this norm; 0 for never.
        max_grad_spike: an update whose gradient is so many times as long as they were lately is
            skipped; 0 for never. One that is not a number always is.
        max_skipped_updates: so many skipped updates in a row end the run.
        ema_decay: the weights that are evaluated and saved are a running mean, of which each update
            keeps this share; 0 for the weights themselves.
        lr_scheduler_type: a schedule's name in Transformers, such as cosine, linear, constant,
            constant_with_warmup, or warmup_stable_decay (constant, then down to 0).
        warmup_ratio: share of the updates in which the learning rate grows from 0.
        decay_ratio: share of the updates in which it goes down at the end, with
            warmup_stable_decay.
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
    """Where the run writes, how often, and on what.

    Args:
        task: `contrastive` trains a CLIP on images and texts; `classification` a ViT with a class
            head on images and the classes of label_column (null for a guess).
        output_dir: folder of the trained model and all that belongs to it.
        seed: of weights, order and augmentation.
        bf16: compute in bfloat16 where it is safe; `auto` does where the processor is built for it.
        fp16: compute in float16 with loss scaling; needs a GPU.
        logging_steps: updates between two logged values.
        eval_steps: updates between two evaluations while training; 0 for at the end only.
        save_steps: updates between two checkpoints to resume from; 0 for none.
        save_total_limit: how many of them to keep.
        checkpoint_dir: where to keep them: a folder or a URL that fsspec knows, such as
            `s3://bucket/run`; null for `checkpoints` in output_dir. A folder is kept from a second
            run; of a URL, the caller gives each run its own.
        resume_from_checkpoint: a checkpoint folder to go on from, or `latest` for the newest
            complete one of checkpoint_dir.
        report_to: trackers as Accelerate names them (tensorboard, wandb, ...), or none.
        push_to_hub: upload the trained model at the end.
        hub_model_id: the repository to upload to, `user/name`.
        hub_dry_run: with push_to_hub, only list the files that would go up.
    """

    task: Literal["contrastive", "classification"] = "contrastive"
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
    report_to: str = "tensorboard"
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_dry_run: bool = False


AT_LEAST_0: tuple[Callable[[Any], bool], str] = (
    lambda value: 0 <= value < float("inf"),
    "a number of at least 0",
)
AT_LEAST_1: tuple[Callable[[Any], bool], str] = (lambda value: value >= 1, "at least 1")
SHARE: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value <= 1, "from 0 to 1")
PART: tuple[Callable[[Any], bool], str] = (lambda value: 0 <= value < 1, "at least 0 and below 1")
#: Field -> what must hold of its value, and how to say so.
CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "images_per_concept": AT_LEAST_1,
    "dataloader_num_workers": AT_LEAST_0,
    "max_bad_sample_ratio": SHARE,
    "frozen_vision_layers": AT_LEAST_0,
    "frozen_text_layers": AT_LEAST_0,
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
    "logging_steps": AT_LEAST_1,
}


def check_repo_id(name: str):
    """Refuse what is no name of a repository on the Hub.

    Raises:
        UserError: with what is wrong.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"hub_model_id={name!r} is not allowed: {first_line(error)}") from error


#: What has a say in image-text contrast only.
CONTRASTIVE_ONLY = (
    *(option.name for option in fields(LossOptions) if option.name != "label_smoothing"),
    *(option.name for option in fields(CaptionOptions) if option.name != "label_column"),
    *("concept_column", "images_per_concept", "zero_shot_columns", "new_concepts_split"),
    *("gradient_cache_batch_size", "stream_sources", "vision_model_name_or_path"),
    *("text_model_name_or_path", "model_fields", "text_fields", "frozen_text_layers"),
)


@dataclass
class TrainArguments:
    """All sections of a run. The fields' names are distinct over the sections."""

    data: DataOptions = field(default_factory=DataOptions)
    stream: StreamOptions = field(default_factory=StreamOptions)
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    mix: MixOptions = field(default_factory=MixOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    run: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self):
        values = self.to_flat_dict()
        for name, (holds, allowed) in CHECKS.items():
            if not holds(values[name]):
                raise UserError(f"{name}={values[name]} is not allowed: it must be {allowed}")
        optimizer, run, data = self.optimizer, self.run, self.data
        if optimizer.max_steps == 0 and optimizer.num_train_epochs <= 0:
            raise UserError(
                "max_steps=0 is not allowed: it must be above 0 where num_train_epochs is 0"
            )
        if optimizer.per_device_train_batch_size % data.images_per_concept:
            raise UserError(
                f"per_device_train_batch_size={optimizer.per_device_train_batch_size} is not "
                f"allowed: it must be a multiple of images_per_concept={data.images_per_concept}"
            )
        if self.loss.loss in ("clip", "hard_negative") and data.images_per_concept > 1:
            raise UserError(
                f"loss={self.loss.loss!r} is not allowed with images_per_concept > 1: use "
                "multi_positive"
            )
        if optimizer.gradient_cache_batch_size and optimizer.gradient_accumulation_steps > 1:
            raise UserError(
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps} is not "
                "allowed with gradient_cache_batch_size: raise per_device_train_batch_size "
                "instead, so that all of it is contrasted"
            )
        if self.mix.is_on:
            self.check_mix()
        if self.loss.loss in ("clip", "hard_negative") and self.captions.label_column:
            raise UserError(
                f"loss={self.loss.loss!r} is not allowed with label_column, where images of one "
                "class share their texts: use multi_positive"
            )
        if run.task == "classification":
            self.check_classification()
        if self.stream.stream_sources:
            self.check_stream()
        if self.loss.view_loss_weight > 0 and data.images_per_concept == 1:
            raise UserError(
                f"view_loss_weight={self.loss.view_loss_weight} is not allowed with "
                "images_per_concept=1: there is no other view to contrast; set it to 0"
            )
        if run.push_to_hub and not run.hub_model_id:
            raise UserError("push_to_hub needs hub_model_id: the repository to upload to")
        if run.hub_model_id:
            check_repo_id(run.hub_model_id)
        if optimizer.learning_rate == 0:
            logger.warning("learning_rate=0: what AdamW trains will not learn")

    def check_dataset(self):
        """Refuse a run without anything to train or to measure on.

        Raises:
            UserError: with what to give.
        """
        if self.data.dataset:
            return
        if not self.stream.stream_sources:
            raise UserError(
                "there is nothing to train on: give --dataset (a folder of pictures, a table, tars "
                "or an id on the Hub), or --config emoji for the example that comes with this"
            )
        if self.data.eval_split is not None:
            raise UserError(
                f"eval_split={self.data.eval_split!r} needs --dataset, whose split is measured on; "
                "set eval_split to null to measure nothing"
            )

    def check_mix(self):
        """Refuse to mix images where nothing can say what they show.

        Raises:
            ValueError: it is asked for.
        """
        if self.mix.mix_partners == "any" and self.loss.loss in ("clip", "hard_negative"):
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

    def check_classification(self):
        """Refuse what only image-text contrast knows.

        Raises:
            ValueError: it is asked for.
        """
        sections = [LossOptions(), CaptionOptions(), DataOptions(), OptimizerOptions()]
        sections += [ModelOptions(), StreamOptions()]
        defaults = {name: value for section in sections for name, value in vars(section).items()}
        values = self.to_flat_dict()
        for name in CONTRASTIVE_ONLY:
            if values[name] != defaults[name]:
                raise UserError(
                    f"{name}={values[name]} is not allowed with task='classification', which has "
                    f"no texts and no pairs: leave it at {defaults[name]}"
                )
        if self.quantization.quantization_mode == "static":
            raise UserError(
                "quantization_mode='static' is not allowed with task='classification', which has "
                "no export: use 'dynamic' or 'weight_only'"
            )
        if self.quantization.quantization_embeddings:
            raise UserError(
                "quantization_embeddings=true is not allowed with task='classification', which "
                "has no tokens"
            )
        if self.model.frozen_towers not in ([], ["vision"]):
            raise UserError(
                f"frozen_towers={self.model.frozen_towers} is not allowed with "
                "task='classification': [vision] trains the class head alone"
            )

    def check_stream(self):
        """Refuse what a stream cannot do.

        Raises:
            ValueError: it is asked for.
        """
        if not self.stream.samples_per_epoch and not self.optimizer.max_steps:
            raise UserError(
                "stream_sources needs samples_per_epoch or max_steps: a stream has no length"
            )
        if self.data.images_per_concept > 1:
            raise UserError("images_per_concept > 1 is not allowed with stream_sources")
        if self.loss.loss in ("clip", "hard_negative"):
            raise UserError(
                f"loss={self.loss.loss!r} is not allowed with stream_sources, where equal captions "
                "are positives of each other: use multi_positive, which is the same where none are"
            )

    def to_flat_dict(self) -> dict:
        """Every field of every section, by name: what a recipe file holds."""
        return {
            option.name: getattr(section, option.name)
            for section in vars(self).values()
            for option in fields(section)
        }
