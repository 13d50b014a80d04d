"""The options of a training run, by section; those of other parts of the package are theirs.

Options that Transformers' `TrainingArguments` has keep their names.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from ..evaluation.options import EvaluationOptions

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
        tokenizer_name_or_path: tokenizer of a checkpoint (a folder or Hub id) for a new text tower,
            such as openai/clip-vit-base-patch32's; null learns one from the captions.
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
            the embeddings. `auto` packs on a CPU and on CUDA, but not with torch_compile,
            quantization_mode `static`, an attn_implementation other than `eager` and `sdpa`, or a
            text tower of another model type.
        text_pad_multiple: pad the texts of a batch to a multiple of this many tokens, up to the
            longest text that the tokenizer allows, so that few lengths occur; 1 pads to the longest
            text of the batch. The embeddings stay the same.
        gradient_checkpointing: recompute the blocks in the backward pass to save memory.
        gradient_checkpointing_every: with gradient_checkpointing, recompute only every n-th block,
            which is faster and takes more memory.
        gradient_checkpointing_offload: with gradient_checkpointing, keep what recomputed blocks
            begin with in the memory of the host, which is slower and takes less of the device's.
        torch_compile: compile each block: faster steps, after some seconds of compilation.
    """

    model_config: str = "emoji"
    model_name_or_path: str | None = None
    vision_model_name_or_path: str | None = None
    text_model_name_or_path: str | None = None
    tokenizer_name_or_path: str | None = None
    model_fields: dict[str, Any] = field(default_factory=dict)
    vision_fields: dict[str, Any] = field(default_factory=dict)
    text_fields: dict[str, Any] = field(default_factory=dict)
    frozen_towers: list[Literal["vision", "text"]] = field(default_factory=list)
    frozen_vision_layers: int = 0
    frozen_text_layers: int = 0
    stored_views: int | None = None
    attn_implementation: str | None = None
    pack_texts: bool | Literal["auto"] = "auto"
    text_pad_multiple: int = 1
    gradient_checkpointing: bool = False
    gradient_checkpointing_every: int = 1
    gradient_checkpointing_offload: bool = False
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
        loss_exchange: how several processes compare their images with each other's texts: `gather`
            gives each process the embeddings of all texts; with `ring`, they travel from process to
            process, so that a process never has more than a few times its own share of them.
    """

    loss: str = "multi_positive"
    label_smoothing: float = 0.0
    hard_negative_beta: float = 0.25
    matryoshka_dims: list[int] = field(default_factory=list)
    view_loss_weight: float = 0.0
    teacher_name_or_path: str | None = None
    distillation_weight: float = 0.5
    loss_exchange: Literal["gather", "ring"] = "gather"


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
        adam_beta1: how much of AdamW's running mean of the gradients each update keeps.
        adam_beta2: the same for its running mean of the squared gradients.
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
        ddp_comm_hook: what DistributedDataParallel does to gradients before processes exchange
            them: `bf16` rounds them to bfloat16, which halves what is moved; `no` leaves them.
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
    ddp_comm_hook: Literal["no", "bf16"] = "no"


@dataclass
class ScheduleOptions:
    """Save computing in the first part of a run, and end on whole images of the model's size.

    Args:
        patch_dropout_until: share of the updates after which no patches are dropped, with
            `vision_fields: {patch_dropout: 0.5}` (FLIP: Li et al., 2023, section 3.1).
        small_image_size: side in pixels of smaller images to train on at first, a multiple of the
            patch (CLIPA: Li et al., 2023); null trains on the model's size alone.
        small_images_until: share of the updates after which images have the model's size.
    """

    patch_dropout_until: float = 1.0
    small_image_size: int | None = None
    small_images_until: float = 0.8


@dataclass
class RunOptions:
    """Where to write, how often, and on what to compute.

    Args:
        task: `contrastive` trains a CLIP on images and texts, `classification` a ViT with a class
            head on images and the classes of `label_column`.
        output_dir: folder for the trained model and everything that belongs to it.
        seed: random seed of weights, data order and augmentation.
        bf16: use bfloat16 autocast; `auto` does so where it is measurably faster; with false,
            Muon computes in float32 as well.
        fp16: use float16 autocast with loss scaling; needs a GPU.
        logging_steps: number of updates between two logs.
        eval_steps: number of updates between two evaluations; 0 evaluates at the end only.
        save_steps: number of updates between two checkpoints to resume from; 0 saves none.
        save_total_limit: number of checkpoints to keep.
        save_in_background: copy the states of a checkpoint to memory, and write them while training
            goes on; false saves that memory, and training waits until all is written.
        checkpoint_dir: folder or fsspec URL, such as `s3://bucket/run`, for the checkpoints; null
            uses `checkpoints` in output_dir. A folder is locked against a second run; a URL is not.
        resume_from_checkpoint: checkpoint folder to resume from, or `latest` for the newest
            complete one in checkpoint_dir; `auto` does the same, and starts a new run where there
            is none, so that one command serves the first start and every later one.
        overwrite_output_dir: begin anew where output_dir has a model, or checkpoint_dir has
            checkpoints, and replace them; with false, such a run is refused before it reads
            anything. A resumed run does not need it.
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
    save_in_background: bool = True
    checkpoint_dir: str | None = None
    resume_from_checkpoint: str | None = None
    overwrite_output_dir: bool = False
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
