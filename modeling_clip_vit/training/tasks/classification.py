"""Classification: a ViT with a class head on labelled images.

Shape legend: `B` images, `C` classes.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F  # noqa: N812
from transformers import AutoImageProcessor, CLIPImageProcessor, PreTrainedModel

from ...configuration_clip_vit import ClipVitConfig, ClipVitVisionConfig
from ...conversion.published import local_checkpoint
from ...data.captions import CaptionOptions
from ...data.columns import (
    Columns,
    choose_image_column,
    choose_label_column,
    column_kinds,
)
from ...data.labels import read_labels
from ...data.mixing import mix_class_targets
from ...data.samples import SampleMaker
from ...data.sources import get_problems, get_split, open_dataset
from ...inference.classifier import TorchClassifier
from ...modeling_clip_vit import ClipVitForImageClassification
from ...pretrained import load_with_report, refuse_misfits
from ...runtimes.runtime import IMAGE_INPUTS
from ...towers import change_fields, hold_image_size, resize_images
from ...utils.errors import UserError, as_user_error
from ...utils.from_pretrained import (
    find_checkpoint,
    load_config,
    load_image_processor,
    load_processor,
    loading,
)
from ..arguments import TrainArguments
from ..datasets import (
    TrainingData,
    build_collator,
    build_loader,
    build_sampler,
    build_samples,
    prepare_images,
)
from ..evaluations import TrainedOn, open_evaluations
from ..freezing import freeze
from ..image_form import choose_form
from ..models import build_image_processor, find_config, refuse_quantized, resize_processor
from ..options import DataOptions, LossOptions, ModelOptions
from ..restart import Restart
from ..sharding import build_new
from ..stored_features import Embedder, embed_images_with, stores_images
from .task import Preparation, Task, Value, describe_images

ClassificationPreparation = Preparation[ClipVitForImageClassification, CLIPImageProcessor]


class ClassificationTask(Task[ClipVitForImageClassification, CLIPImageProcessor]):
    """A ViT with a class head, on labelled images."""

    processor_class = AutoImageProcessor
    inapplicable_options = (
        *(option.name for option in fields(LossOptions) if option.name != "label_smoothing"),
        *(option.name for option in fields(CaptionOptions) if option.name != "label_column"),
        *("concept_column", "images_per_concept"),
        *("gradient_cache_batch_size", "stream_sources", "vision_model_name_or_path"),
        *("text_model_name_or_path", "model_fields", "text_fields", "frozen_text_layers"),
        *("tokenizer_name_or_path", "lora_text_rank", "text_pad_multiple"),
    )
    inapplicable_because = "which has no texts and no pairs"

    def __init__(self, args: TrainArguments):
        super().__init__(args)
        if args.quantization.quantization_mode == "static":
            raise UserError(
                "quantization_mode='static' is not allowed with task='classification', which has "
                "no export: use 'dynamic' or 'weight_only'"
            )
        if args.quantization.quantization_embeddings:
            raise UserError(
                "quantization_embeddings=true is not allowed with task='classification', which "
                "has no tokens"
            )
        if args.model.frozen_towers not in ([], ["vision"]):
            raise UserError(
                f"frozen_towers={args.model.frozen_towers} is not allowed with "
                "task='classification': [vision] trains the class head alone"
            )
        self.objective = ClassificationObjective(args.loss.label_smoothing)

    def prepare(self, restart: Restart) -> ClassificationPreparation:
        """Open the data, and build or load the model with a head for its classes."""
        return prepare_classification(self.args, restart)

    def towers(self, model: ClipVitForImageClassification) -> list[PreTrainedModel]:
        """The only tower."""
        return [model.vision_model]

    def backward(
        self,
        model: nn.Module,
        unwrapped: ClipVitForImageClassification,
        batch: dict,
        propagate: Callable[[torch.Tensor], None],
        is_logged: bool,
    ) -> dict[str, Value]:
        """The gradients of cross entropy."""
        names = (*IMAGE_INPUTS, "vision_pooler_output")
        logits = model(**{name: batch[name] for name in names if name in batch}).logits
        loss, values = self.objective(batch, logits)
        propagate(loss)
        return {"loss": loss.detach(), **values}

    def embedders(
        self, preparation: ClassificationPreparation, device: torch.device
    ) -> list[Embedder]:
        """The frozen tower, where images stay the same: linear probing then trains on features."""
        if not stores_images(self.args):
            return []
        model, collate = preparation.model, preparation.data.collate
        size = self.image_size(model)
        one = embed_images_with(model.vision_model, collate, size, device)
        one.varies = self.args.augment.is_on
        return [one]

    def describe_batch(self, batch: dict, preparation: ClassificationPreparation) -> list[str]:
        """The class of each image, and how much of each where it is mixed."""
        names = preparation.class_names
        labels = batch["labels"].tolist()
        return describe_images(batch, labels, "mixed_labels", lambda label: [names[label]])

    def encoder(
        self, model: ClipVitForImageClassification, processor: CLIPImageProcessor
    ) -> TorchClassifier:
        """The classifier."""
        return TorchClassifier(model, processor)

    def image_size(self, model: ClipVitForImageClassification) -> int:
        """The image size of the only tower."""
        return model.config.image_size


class ClassificationObjective:
    """Cross entropy, with labels or with weights of classes.

    Args:
        label_smoothing: share of each target that is spread evenly over all classes (Szegedy et
            al., 2016, section 7).
    """

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def __call__(
        self, batch: dict, logits: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and what else to log.

        Args:
            batch: this process's: `labels` (B,), and where images are mixed the `mixed_labels` of
                those mixed in and the `mix_weight` of the first, (B,).
            logits: the model's, in any precision.
        """
        right = targets = batch["labels"]
        if "mixed_labels" in batch:
            mixed, weight = batch["mixed_labels"], batch["mix_weight"]
            targets = mix_class_targets(right, mixed, weight, logits.shape[1])
            right = targets.argmax(dim=1)
        # Softmax and loss in float32 also in a half-precision model.
        logits = logits.float()
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        accuracy = (logits.argmax(dim=1) == right).float().mean()
        return loss, {"accuracy": accuracy}


def prepare_classification(
    args: TrainArguments, restart: Restart | None = None
) -> ClassificationPreparation:
    """Open the data, and build or load the model with a head for its classes.

    Args:
        args: of the run; columns that they leave open are found in the data.
        restart: what a checkpoint keeps, of a run that is resumed.

    Raises:
        DataError, UserError: the data or the model is not as the arguments ask for; nothing has
            been written then.
    """
    args.check_dataset()
    restart = restart or Restart()
    path = args.data.dataset
    image_column = args.data.image_column or restart.recipe.get("image_column")
    splits = open_dataset(path, image_column)
    split = get_split(splits, args.data.train_split, path)
    columns = find_columns(split, args.data, args.captions.label_column, restart.recipe)
    args = args.with_columns(columns)
    if stores_images(args):  # each image is decoded once, to be embedded
        args = replace(args, data=replace(args.data, cache_images=False))
    labels = read_labels(split, str(columns.label_column), path, restart.class_names)
    if args.model.model_name_or_path:
        model, processor = load_classifier(args.model.model_name_or_path, args.model, labels.names)
    else:
        model, processor = build_classifier(args.model, labels.names)
    form = choose_form(args, model.vision_model, processor)
    processor = form.image_processor
    trained_on = TrainedOn(splits, args.data, args.captions, labels.names)
    evaluations = open_evaluations(trained_on, form.open_images, is_classifier=True)
    unread = get_problems(splits, args.data.train_split)
    images = prepare_images(split, args.data, form.augment, unread, labels.problems)
    maker = SampleMaker(columns.image_column, None, form.augment, args.run.seed)
    sampler = build_sampler(
        {row: row for row in images.rows},
        form.sizes or args.optimizer.per_device_train_batch_size,
        args.data.images_per_concept,
        args.run.seed,
    )
    loader = build_loader(
        build_samples(images, maker, labels.rows, split, form.sizes),
        sampler,
        build_collator(None, processor, args.augment, args.native),
        args.data,
    )
    data = TrainingData(loader, sampler, images.bad, len(split), len(labels.names))
    frozen = freeze(model, args.model)
    is_new = not args.model.model_name_or_path or has_new_head(
        str(model.name_or_path), labels.names
    )
    new_parts = ["classifier."] if is_new else []
    return Preparation(
        model, processor, data, evaluations, frozen, columns, labels.names, new_parts
    )


def find_columns(
    split: Dataset, data: DataOptions, label_column: str | None, kept: dict
) -> Columns:
    """The columns of images and classes: as named, as kept, or guessed.

    Args:
        split: the rows.
        data: names the images, or leaves them open.
        label_column: the classes, if they are named.
        kept: the recipe of the run that is resumed; empty for a new run.

    Raises:
        DataError: the columns give no hint.
    """
    kinds, path = column_kinds(split.features), data.dataset
    image = data.image_column or kept.get("image_column") or choose_image_column(kinds, path)
    label = label_column or kept.get("label_column") or choose_label_column(kinds, path)
    return Columns(image, [], label)


def build_classifier(
    options: ModelOptions, names: list[str]
) -> tuple[ClipVitForImageClassification, CLIPImageProcessor]:
    """A new classifier for these classes, and its image processor.

    Raises:
        UserError: there is no configuration, or it is of another type of model or not valid.
    """
    config = tower_config(str(find_config(options)), options, names)
    model = build_new(partial(ClipVitForImageClassification, config), options)
    if options.attn_implementation:
        model.set_attn_implementation(options.attn_implementation)
    return model, build_image_processor(config.image_size)


def load_classifier(
    path: str, options: ModelOptions, names: list[str]
) -> tuple[ClipVitForImageClassification, CLIPImageProcessor]:
    """The image tower of a checkpoint with a head for these classes, and its image processor.

    The head is the checkpoint's if that is a classifier with exactly these classes, else it is new.

    Raises:
        UserError: the checkpoint holds another type of model, or its weights do not match.
    """
    path = local_checkpoint(path, needs_texts=False)
    saved = load_config(path)
    refuse_quantized(saved, path)
    config = tower_config(path, options, names)
    former = getattr(getattr(saved, "vision_config", saved), "image_size", None)
    image_size = hold_image_size(config, former)
    with loading(path):
        model, report = load_with_report(
            ClipVitForImageClassification,
            find_checkpoint(path),
            config=config,
            # Updates are small: in half precision, most would round to nothing.
            dtype=torch.float32,
            attn_implementation=options.attn_implementation,
        )
    head_weights = ("classifier.weight", "classifier.bias")
    tower_report = {
        "missing_keys": [name for name in report["missing_keys"] if name not in head_weights],
        "mismatched_keys": [
            mismatch for mismatch in report["mismatched_keys"] if mismatch[0] not in head_weights
        ],
        "unexpected_keys": report["unexpected_keys"],
    }
    with loading(path):
        refuse_misfits(path, model, tower_report)
    resize_images(model.vision_model, image_size)
    if has_new_head(path, names):
        nn.init.normal_(model.classifier.weight, std=model.classifier.in_features**-0.5)
        nn.init.zeros_(model.classifier.bias)
    if saved.model_type == ClipVitConfig.model_type:
        image_processor = load_processor(path).image_processor
    else:
        image_processor = load_image_processor(path)
    resize_processor(image_processor, former, model.config.image_size)
    return model, image_processor


def has_new_head(path: str, names: list[str]) -> bool:
    """Whether a checkpoint has no class head for exactly these classes."""
    return list(load_config(path).id2label.values()) != names


def tower_config(path: str, options: ModelOptions, names: list[str]) -> ClipVitVisionConfig:
    """The configuration of an image tower, alone or of a CLIP, with these classes.

    Raises:
        UserError: it is of another type, or lacks a field of `vision_fields`.
    """
    config = load_config(path)
    if config.model_type == ClipVitConfig.model_type:
        config = config.vision_config
    if config.model_type != ClipVitVisionConfig.model_type:
        raise UserError(
            f"{path} has an image tower of type {config.model_type!r}; a class head goes on "
            f"{ClipVitVisionConfig.model_type!r} alone"
        )
    with as_user_error():
        change_fields(config, options.vision_fields)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    return config
