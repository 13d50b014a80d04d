"""Frozen towers and teachers embed the training data once, before the first step.

A model that does not learn gives the same features for the same input in every epoch. They are
therefore computed once, kept in a file, and read instead of images and texts. The file's name is a
hash of everything that they depend on, so another run over the same data finds them again.

Shape legend: `V` views, `N` rows, `T` texts of a row, `D` features.
"""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from os import cpu_count
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from torch import nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..data.batches import Collator, ConceptBatchSampler
from ..data.captions import CaptionMaker
from ..data.features import StoredFeatures, read_features
from ..data.map_style import ImageTextSamples
from ..data.rows import Sample, SkippedSample
from ..data.transforms import AugmentOptions
from ..inference.embedding import embed_texts
from ..modeling_clip_vit import ClipVitModel
from ..towers import run_tower
from ..utils.folders import saving
from ..utils.from_pretrained import load_processor
from ..utils.processes import all_reduce_max
from .arguments import TrainArguments
from .datasets import TrainingData

logger = logging.getLogger(__name__)

#: Where the features of all runs are.
FOLDER = Path(HF_HOME) / "clip-vit" / "features"
#: Changes whenever features of the same inputs would come out differently.
VERSION = 1
#: Numbers that processes add up at a time.
CHUNK_SIZE = 1 << 26
#: Names of a teacher's embeddings in a batch.
TEACHER_IMAGES, TEACHER_TEXTS = "teacher_image_embeds", "teacher_text_embeds"


@dataclass
class Embedder:
    """What makes features of images or of texts, and does not learn.

    Args:
        name: of its features in a batch.
        kind: what it embeds.
        identity: of its weights and of what it does with its inputs.
        embed: features (n, D) of n samples with pixels, or of n texts.
        image_size: side of its images in pixels; of texts, 0.
        varies: whether another draw of a row gives it other inputs.
    """

    name: str
    kind: Literal["image", "text"]
    identity: dict[str, Any]
    embed: Callable[[list], torch.Tensor]
    image_size: int = 0
    varies: bool = False


def stores_images(args: TrainArguments) -> bool:
    """Whether a run stores the features of its frozen image tower."""
    return "vision" in args.model.frozen_towers and stores(args, args.augment.is_on)


def stores_texts(args: TrainArguments, captions: Any) -> bool:
    """Whether a run stores the features of its frozen text tower.

    Args:
        args: of the run.
        captions: of its rows.
    """
    if "text" not in args.model.frozen_towers or not isinstance(captions, CaptionMaker):
        return False
    return stores(args, captions.varies())


def stores_teacher(args: TrainArguments, captions: Any) -> bool:
    """Whether a run stores its teacher's embeddings."""
    if args.loss.teacher_name_or_path is None or not isinstance(captions, CaptionMaker):
        return False
    return stores(args, args.augment.is_on or captions.varies())


def stores(args: TrainArguments, varies: bool) -> bool:
    """Whether a run stores what is made of inputs that vary from draw to draw, or do not.

    Options that exclude stored features are rejected with an explicit number of views.
    """
    views = args.model.stored_views
    if views is None:
        return not varies and args.why_nothing_is_stored() is None
    return views > 0


def embed_images_with(
    tower: PreTrainedModel, collate: Collator, image_size: int, device: torch.device
) -> Embedder:
    """A frozen image tower; its features are its pooled output."""
    tower.eval().to(device)

    def embed(samples: list[Sample]) -> torch.Tensor:
        inputs = {"pixel_values": collate.make_pixel_values(samples).to(device)}
        return pooled(run_tower(tower, inputs))

    inputs = {"mean": collate.image_mean, "std": collate.image_std}
    return Embedder("vision_pooler_output", "image", identify(tower, inputs), embed, image_size)


def embed_texts_with(tower: Any, collate: Collator, device: torch.device) -> Embedder:
    """A frozen text tower; its features are its pooled output."""
    tower.eval().to(device)
    token_ids = collate.token_ids
    assert token_ids is not None, "a text tower has a tokenizer"

    def embed(texts: list[str]) -> torch.Tensor:
        inputs = {name: values.to(device) for name, values in token_ids(texts).items()}
        return pooled(run_tower(tower, inputs))

    inputs = describe_tokenizer(token_ids.tokenizer)
    return Embedder("text_pooler_output", "text", identify(tower, inputs), embed)


def embed_with_teacher(
    teacher: ClipVitModel, augment: AugmentOptions, device: torch.device
) -> list[Embedder]:
    """A teacher's embeddings, by its own processor: its images and tokens need not be the run's."""
    processor = load_processor(str(teacher.name_or_path))
    images = processor.image_processor
    collate = Collator(None, augment, images.image_mean, images.image_std)
    teacher.eval().to(device)

    def embed_images(samples: list[Sample]) -> torch.Tensor:
        pixels = collate.make_pixel_values(samples).to(device)
        return normalize(pooled(teacher.get_image_features(pixel_values=pixels)), dim=-1)

    def embed_captions(texts: list[str]) -> torch.Tensor:
        return embed_texts(teacher, processor.tokenizer, texts)

    inputs = {"mean": images.image_mean, "std": images.image_std}
    inputs |= describe_tokenizer(processor.tokenizer)
    identity, size = identify(teacher, inputs), teacher.config.vision_config.image_size
    return [
        Embedder(TEACHER_IMAGES, "image", identity, embed_images, size),
        Embedder(TEACHER_TEXTS, "text", identity, embed_captions),
    ]


def pooled(outputs: BaseModelOutputWithPooling) -> torch.Tensor:
    """What a tower makes of its input as a whole, (n, D)."""
    assert outputs.pooler_output is not None, "every tower pools"
    return outputs.pooler_output


def identify(module: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the features of a model depend on: weights, configuration, how inputs are made."""
    config = module.config.to_diff_dict()
    return {"weights": hash_weights(module), "config": config, "inputs": inputs}


def hash_weights(module: nn.Module) -> str:
    """A hash of every weight and buffer of a module, with their names."""
    digest = blake2b(digest_size=16)
    for name, values in sorted(module.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """All that decides how a tokenizer cuts texts."""
    vocabulary: Any = sorted(tokenizer.get_vocab().items())
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        vocabulary = tokenizer.backend_tokenizer.to_str()
    longest, side = tokenizer.model_max_length, tokenizer.padding_side
    return {"vocabulary": vocabulary, "max_length": longest, "padding_side": side}


def store_features(
    data: TrainingData,
    embedders: list[Embedder],
    args: TrainArguments,
    accelerator: Accelerator,
    learns: set[str],
):
    """Have the samples of a run come with features instead of what no longer needs computing.

    Args:
        data: of the run; its samples are changed in place.
        embedders: what is frozen.
        args: of the run.
        accelerator: of the run; its processes share the work.
        learns: towers that learn, `vision` and `text`, and so need pixels and texts.

    Raises:
        SaveError: the features cannot be written.
    """
    if not embedders:
        return
    samples, sampler = data.samples, data.sampler
    assert samples is not None, "a stream has no numbered rows"
    assert isinstance(sampler, ConceptBatchSampler)
    rows = sorted(row for group in sampler.rows.values() for row in group)
    views = args.model.stored_views or 1
    identity = describe_features(samples, embedders, args, views, accelerator)
    path = FOLDER / f"{identity}.safetensors"
    is_missing = 0 if can_read(path) else 1
    if all_reduce_max([is_missing], accelerator.device) == [1]:
        names = ", ".join(embedder.name for embedder in embedders)
        if accelerator.is_main_process:
            logger.warning("computing %s once for %d rows, for %s", names, len(rows), path)
        made = compute(
            samples, rows, data.num_rows, embedders, views, accelerator, batch_size(args)
        )
        if accelerator.is_local_main_process:
            with saving(f"stored features in {path}", "set stored_views to 0 to store none"):
                made.save(path)
        accelerator.wait_for_everyone()
    features = read_features(path)
    features.has_pixels, features.has_texts = "vision" in learns, "text" in learns
    samples.features = features


def batch_size(args: TrainArguments) -> int:
    """Samples that are embedded at a time."""
    options = args.optimizer
    return options.gradient_cache_batch_size or min(options.per_device_train_batch_size, 256)


def can_read(path: Path) -> bool:
    """Whether there are features to read."""
    try:
        read_features(path)
    except (OSError, SafetensorError) as error:
        if path.exists():
            logger.warning("%s cannot be read (%s) and is made anew", path, error)
        return False
    return True


def describe_features(
    samples: ImageTextSamples,
    embedders: list[Embedder],
    args: TrainArguments,
    views: int,
    accelerator: Accelerator,
) -> str:
    """A hash of everything that features depend on."""
    maker = samples.maker
    draws: Any = None
    if views > 1 or any(embedder.varies for embedder in embedders):
        draws = {"views": views, "seed": maker.seed}
    facts = {
        "version": VERSION,
        "rows": samples.fingerprint,
        "embedders": [[one.name, one.identity, one.image_size] for one in embedders],
        "augment": vars(args.augment),
        "captions": vars(args.captions),
        "columns": [maker.image_column, maker.concept_column, args.data.images_per_concept],
        "precision": accelerator.mixed_precision,
        "draws": draws,
    }
    return blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


class FeatureTable:
    """One feature of every row, filled batch by batch.

    Args:
        views, num_rows: V and N.
    """

    def __init__(self, views: int, num_rows: int):
        self.shape = (views, num_rows)
        self.values: torch.Tensor | None = None

    def put(self, places: list[tuple[int, int]], features: torch.Tensor):
        """Enter features, (n, D) or (n, T, D), at n places (view, row)."""
        if self.values is None:
            self.values = torch.zeros(*self.shape, *features.shape[1:], dtype=features.dtype)
        view, row = zip(*places, strict=True)
        self.values[list(view), list(row)] = features

    def add_up(self, accelerator: Accelerator) -> torch.Tensor:
        """The features of all processes, each of which has entered other rows."""
        sizes = list(self.values.shape[2:]) if self.values is not None else []
        largest = all_reduce_max([*sizes, 0, 0][:2], accelerator.device)
        if self.values is None:
            self.values = torch.zeros(*self.shape, *(size for size in largest if size))
        return add_up(self.values, accelerator)


def compute(
    samples: ImageTextSamples,
    rows: list[int],
    num_rows: int,
    embedders: list[Embedder],
    views: int,
    accelerator: Accelerator,
    size: int,
) -> StoredFeatures:
    """Compute the features of every row; each process does its share.

    Args:
        samples: of the rows.
        rows: numbers of the rows that can be used.
        num_rows: N, of all rows.
        embedders: what computes them.
        views: V, draws of each row.
        accelerator: of the run.
        size: samples to embed at a time.
    """
    tables = {one.name: FeatureTable(views, num_rows) for one in embedders}
    concepts = torch.zeros(views, num_rows, dtype=torch.int64)
    skipped: dict[int, str] = {}
    mine = rows[accelerator.process_index :: accelerator.num_processes]
    places = [(view, row) for view in range(views) for row in mine]
    by_size = {one.image_size: samples for one in embedders}
    by_size = {size: samples.of_size(size) if size else samples for size in by_size}
    with (
        ThreadPoolExecutor(count_threads(samples)) as pool,
        tqdm(total=len(places), unit="row", disable=not accelerator.is_main_process) as bar,
    ):
        for start in range(0, len(places), size):
            part = places[start : start + size]
            for image_size, sized in by_size.items():
                make = partial(make_sample, sized, image_size)
                kept: dict[tuple[int, int], Sample] = {}
                for place, sample in zip(part, pool.map(make, part), strict=True):
                    if isinstance(sample, SkippedSample):
                        skipped[place[1]] = sample.reason
                    else:
                        kept[place], concepts[place] = sample, sample.concept
                for one in embedders:
                    if kept and one.image_size == image_size:
                        features = embed(one, list(kept.values()), accelerator)
                        tables[one.name].put(list(kept), features)
            bar.update(len(part))
    for reasons in gather_object([skipped]):
        skipped |= reasons
    of_kind: dict[str, dict[str, torch.Tensor]] = {"image": {}, "text": {}}
    for one in embedders:
        of_kind[one.kind][one.name] = tables[one.name].add_up(accelerator)
    return StoredFeatures(of_kind["image"], of_kind["text"], add_up(concepts, accelerator), skipped)


def count_threads(samples: ImageTextSamples) -> int:
    """How many samples can be made at a time."""
    draws_globally = samples.maker.augment.options.draws_globally
    return 1 if draws_globally else cpu_count() or 1


def make_sample(
    samples: ImageTextSamples, image_size: int, place: tuple[int, int]
) -> Sample | SkippedSample:
    """The sample at a place (view, row) with an image of this size, 0 for none."""
    view, row = place
    if image_size == 0:
        return samples.make_without_image(row, view)
    return samples[row, view]


@torch.no_grad()
def embed(one: Embedder, samples: list[Sample], accelerator: Accelerator) -> torch.Tensor:
    """Features of samples: (n, D) of their images, (n, T, D) of their texts."""
    with accelerator.autocast():
        if one.kind == "image":
            return one.embed(samples).float().cpu()
        features = one.embed([text for sample in samples for text in sample.texts])
    return features.float().cpu().unflatten(0, (len(samples), -1))


def add_up(values: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """The sum of a tensor over all processes, some of it at a time on their devices."""
    if not (dist.is_available() and dist.is_initialized()):
        return values
    flat = values.view(-1)
    for start in range(0, len(flat), CHUNK_SIZE):
        chunk = flat[start : start + CHUNK_SIZE].to(accelerator.device)
        dist.all_reduce(chunk)
        flat[start : start + CHUNK_SIZE] = chunk.cpu()
    return values
