"""Image-text contrast: two towers whose embeddings meet in one space."""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from datasets import DatasetDict
from torch import nn
from transformers import CLIPProcessor, PreTrainedModel

from ...configuration_clip_vit import is_foreign
from ...data.captions import CaptionMaker
from ...data.packing import plan_for_mask
from ...data.samples import SampleMaker
from ...data.sources import open_dataset
from ...evaluation.dataset import EvaluationSet
from ...evaluation.images import ImagesInMemory
from ...hub.sentence_transformers import write_sentence_transformers_files
from ...inference.embedding import embed_texts
from ...inference.loading import TorchEncoder
from ...inference.pictures import Found
from ...losses import LOSSES
from ...losses.gather import EarlyGather
from ...modeling_clip_vit import ClipVitModel
from ...normalization import count_processes
from ...utils.processes import full_tensor
from ..arguments import TrainArguments
from ..datasets import (
    StreamRows,
    TableRows,
    TrainingRows,
    build_collator,
    find_columns,
)
from ..evaluations import TrainedOn, open_evaluations
from ..finetuning.options import START
from ..freezing import freeze
from ..gradient_cache import cached_backward, cut, refuse_batch_norm
from ..image_form import check_takes_patches, choose_form
from ..kernels import choose_packing
from ..models import build_model, load_model
from ..restart import Restart
from ..stored_features import (
    Embedder,
    embed_images_with,
    embed_texts_with,
    embed_with_teacher,
    stores_images,
    stores_teacher,
    stores_texts,
)
from .objective import (
    MODEL_INPUTS,
    ContrastiveObjective,
    check_loss,
    check_teacher,
    load_teacher,
)
from .task import EQUAL_SHARES, Preparation, Task, Value, describe_images

INPUTS = (*MODEL_INPUTS, "packed_places", "vision_pooler_output", "text_pooler_output")

ContrastivePreparation = Preparation[ClipVitModel, CLIPProcessor]


class ContrastiveTask(Task[ClipVitModel, CLIPProcessor]):
    """CLIP: images and texts that belong together are close, all others are apart."""

    objective: ContrastiveObjective
    #: Whether the forward pass returns the logits, which the loss itself does not need.
    needs_logits = False
    packs_texts = False

    def prepare(self, restart: Restart) -> ContrastivePreparation:
        """Open the data, train or load the tokenizer, build or load the model."""
        return prepare(self.args, restart)

    def towers(self, model: ClipVitModel) -> list[PreTrainedModel]:
        """Both towers."""
        return [model.vision_model, model.text_model]

    def configure(
        self,
        preparation: ContrastivePreparation,
        accelerator: Accelerator,
        has_idle_parameters: bool,
    ):
        """Load the teacher, freeze a bias that the loss does not read, decide on packing."""
        model = preparation.model
        check_loss(self.args.loss, model)
        logit_bias = model.similarity.logit_bias
        if not LOSSES[self.args.loss.loss].needs_logit_bias and logit_bias is not None:
            # Distributed training waits for every gradient.
            logit_bias.requires_grad = False
        has_foreign = any(is_foreign(tower.config) for tower in self.towers(model))
        if has_idle_parameters or has_foreign:
            # Such as the pooler of a BERT that is pooled otherwise. Unused parameters are found
            # from the outputs, and the scale shows in the logits alone.
            self.needs_logits = True
            accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        if self.args.optimizer.gradient_cache_batch_size:
            refuse_batch_norm(model)
        device = accelerator.device
        self.packs_texts = choose_packing(self.args, model.text_model, device.type)
        # Parts of a batch each have a plan of their own.
        is_cut = bool(self.args.optimizer.gradient_cache_batch_size)
        preparation.data.collate.packs_texts = self.packs_texts and not is_cut
        teacher = None
        path = self.args.loss.teacher_name_or_path
        if path:
            path = str(self.args.model.model_name_or_path) if path == START else path
            teacher = load_teacher(path)
            if not stores_teacher(self.args, texts_of(preparation)):
                check_teacher(path, teacher, model, preparation.processor.tokenizer)
                if self.args.native.is_on:
                    patch_size = model.config.vision_config.patch_size
                    check_takes_patches(teacher.vision_model, "the teacher", patch_size)
                teacher.to(device)
        self.objective = ContrastiveObjective(
            self.args.loss,
            teacher,
            accelerator.autocast,
            self.args.optimizer.gradient_cache_batch_size,
        )

    def learning_towers(self) -> set[str]:
        """Those that are not frozen."""
        return {"vision", "text"} - set(self.args.model.frozen_towers)

    def embedders(
        self, preparation: ContrastivePreparation, device: torch.device
    ) -> list[Embedder]:
        """The frozen towers and the teacher, as far as their inputs stay the same."""
        model, texts = preparation.model, texts_of(preparation)
        if texts is None:
            return []
        collate = preparation.data.collate
        embedders = []
        if stores_images(self.args):
            size = self.image_size(model)
            embedders.append(embed_images_with(model.vision_model, collate, size, device))
        if stores_texts(self.args, texts):
            embedders.append(embed_texts_with(model.text_model, collate, device))
        if stores_teacher(self.args, texts):
            assert self.objective.teacher is not None, "configure loads it"
            embedders += embed_with_teacher(self.objective.teacher, self.args.augment, device)
        for one in embedders:
            one.varies = self.args.augment.is_on if one.kind == "image" else texts.varies()
        return embedders

    def backward(
        self,
        model: nn.Module,
        unwrapped: ClipVitModel,
        batch: dict,
        propagate: Callable[[torch.Tensor], None],
        is_logged: bool,
    ) -> dict[str, Value]:
        """The gradients of a batch, at once, or in parts where it is larger than fits."""
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        if not batch.get("has_padding", True):
            # The model would read the mask only to find that it hides nothing.
            inputs.pop("attention_mask", None)
        objective = partial(self.objective, batch, with_accuracy=is_logged)
        part_size = self.args.optimizer.gradient_cache_batch_size
        if part_size:
            loss, values = cached_backward(
                model,
                unwrapped.similarity,
                [self.plan_texts(part) for part in cut(inputs, part_size)],
                objective,
                propagate,
                return_logits=self.needs_logits,
            )
            return {"loss": loss, **values}
        early = self.early_gather(batch)
        if early is not None:
            inputs["on_text_embeds"] = early.begin
        outputs = model(**inputs, return_logits=self.needs_logits)
        loss, values = objective(
            outputs.image_embeds,
            outputs.text_embeds,
            unwrapped.get_logit_scale(),
            unwrapped.get_logit_bias(),
            early=early,
        )
        propagate(loss)
        return {"loss": loss.detach(), **values}

    def early_gather(self, batch: dict) -> EarlyGather | None:
        """What gathers the text embeddings while the image tower computes; None without need.

        Texts are then embedded first, so in several processes other elements are dropped than in
        one.
        """
        is_equal = batch.get(EQUAL_SHARES, False) and count_processes() > 1
        return EarlyGather() if is_equal and self.objective.gathers_texts else None

    def plan_texts(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A part's inputs, with which texts share a row where that saves computing."""
        if not self.packs_texts or "attention_mask" not in inputs:
            return inputs
        places = plan_for_mask(inputs["attention_mask"].cpu())
        if places is None:
            return inputs
        return {**inputs, "packed_places": places.to(inputs["input_ids"].device)}

    def after_update(self, unwrapped: ClipVitModel):
        """Clamp the scale."""
        unwrapped.similarity.clamp_scale()

    def describe_weights(self, unwrapped: ClipVitModel) -> dict[str, float]:
        """The scale."""
        return {"logit_scale": float(full_tensor(unwrapped.get_logit_scale().detach()))}

    def write_extra_files(self, folder: Path):
        """What Sentence Transformers reads."""
        write_sentence_transformers_files(folder)

    def searches(self, preparation: ContrastivePreparation) -> list[tuple[str, list[Found]]]:
        """What the model finds for some captions of the first split that it is evaluated on."""
        searchable = (one for one in preparation.evaluations if one.captions)
        first = next(searchable, None)
        if first is None:
            return []
        return example_searches(preparation.model, preparation.processor, first)

    def encoder(self, model: ClipVitModel, processor: CLIPProcessor) -> TorchEncoder:
        """The model."""
        return TorchEncoder(model, processor)

    def describe_batch(self, batch: dict, preparation: ContrastivePreparation) -> list[str]:
        """The texts of each image, and how much of each where it is mixed."""
        return describe(batch, preparation.processor)

    def image_size(self, model: ClipVitModel) -> int:
        """The image size of the image tower."""
        return model.config.vision_config.image_size


def prepare(args: TrainArguments, restart: Restart | None = None) -> ContrastivePreparation:
    """Open the data, train or load the tokenizer, build or load the model.

    Args:
        args: of the run; columns that they leave open are found in the data.
        restart: what a checkpoint keeps, of a run that is resumed.

    Raises:
        DataError, UserError: the data or the model is not as the arguments ask for; nothing has
            been written then.
    """
    args.check_dataset()
    restart = restart or Restart()
    splits = DatasetDict()
    is_stream = bool(args.stream.stream_sources)
    if not is_stream or any(not one.dataset for one in args.data.evaluations):
        image_column = args.data.image_column or restart.recipe.get("image_column")
        splits = open_dataset(args.data.dataset, image_column)
    columns = find_columns(args.data, args.captions, args.stream, splits, restart.recipe)
    args = args.with_columns(columns)
    if stores_images(args):  # each image is decoded once, to be embedded
        args = replace(args, data=replace(args.data, cache_images=False))
    rows = open_rows(args, splits, restart.class_names)
    if args.model.model_name_or_path:
        model, processor = load_model(args.model.model_name_or_path, args.model)
    else:
        kept = restart.processor.tokenizer if restart.processor else None
        model, processor = build_model(args.model, rows.captions, kept)
    form = choose_form(args, model.vision_model, processor.image_processor)
    processor.image_processor = form.image_processor
    maker = SampleMaker(
        columns.image_column,
        rows.captions,
        form.augment,
        args.run.seed,
        args.data.concept_column or columns.label_column,
    )
    data = rows.load(
        maker,
        build_collator(
            processor.tokenizer,
            processor.image_processor,
            args.augment,
            args.native,
            args.model.text_pad_multiple,
        ),
        args.optimizer.per_device_train_batch_size,
        LOSSES[args.loss.loss].pairs_only,
        form.sizes,
    )
    classes = rows.captions.classes
    trained_on = TrainedOn(splits, args.data, args.captions, classes)
    evaluations = open_evaluations(trained_on, form.open_images)
    frozen = freeze(model, args.model)
    return Preparation(model, processor, data, evaluations, frozen, columns, classes)


def texts_of(preparation: ContrastivePreparation) -> CaptionMaker | None:
    """How texts are drawn for numbered rows; None for those of a stream."""
    samples = preparation.data.samples
    texts = samples.maker.texts if samples else None
    return texts if isinstance(texts, CaptionMaker) else None


def open_rows(args: TrainArguments, splits: DatasetDict, classes: list[str]) -> TrainingRows:
    """The rows to train on: those of a stream if it has sources, else of the training split."""
    if args.stream.stream_sources:
        return StreamRows(args.stream, args.data, args.captions)
    return TableRows(splits, args.data, args.captions, classes)


def example_searches(
    model, processor, data: EvaluationSet, num_queries: int = 8, top_k: int = 5
) -> list[tuple[str, list[Found]]]:
    """Captions spread over an evaluated split, each with the pictures that it finds.

    Caption columns take turns; the choice depends on the data alone, not on what is found.
    """
    images, columns = data.images, list(data.captions)
    assert isinstance(images, ImagesInMemory), "a run decodes what it is evaluated on once"
    places = torch.linspace(0, len(images.rows) - 1, num_queries + 2)[1:-1].long().tolist()
    chosen = [(columns[turn % len(columns)], images.rows[p]) for turn, p in enumerate(places)]
    queries = [data.example(column, row) for column, row in chosen]
    image_embeds = images.encode(TorchEncoder(model, processor), images.pixels)
    scores = embed_texts(model, processor.tokenizer, queries) @ image_embeds.t()
    best = scores.topk(min(top_k, len(images.rows)), dim=1).indices.tolist()
    return [
        (
            query,
            [
                Found(
                    images.pixels[place].permute(1, 2, 0).numpy(),
                    data.example(column, images.rows[place]),
                    data.keys[images.rows[place]] == data.keys[row],
                )
                for place in found
            ],
        )
        for query, (column, row), found in zip(queries, chosen, best, strict=True)
    ]


def describe(batch: dict, processor: CLIPProcessor) -> list[str]:
    """What each image shows, as its texts say, and how much of each where it is mixed."""
    texts: defaultdict[int, list[str]] = defaultdict(list)
    decoded = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    for identity, text in zip(batch["text_ids"].tolist(), decoded, strict=True):
        # A Chinese character is a word of its own to the tokenizer.
        texts[identity].append(re.sub(r"(?<=[㐀-鿿]) (?=[㐀-鿿])", "", text.strip()))
    return describe_images(
        batch, batch["image_ids"].tolist(), "mixed_ids", lambda identity: texts[identity]
    )
