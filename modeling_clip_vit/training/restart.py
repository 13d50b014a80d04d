"""What a resumed run takes over from its checkpoint, where a new one would find or measure it.

Data may have changed since: a tokenizer that is trained anew gives other numbers to the same words,
and classes that are counted anew have other places.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from ..data.native import NativeOptions
from ..utils.from_pretrained import read_as_text
from .arguments import TrainArguments
from .precision import Precision

logger = logging.getLogger(__name__)

#: Folder of the processor in a checkpoint.
PROCESSOR_FOLDER = "processor"
#: Fields that say how a run is watched and kept, and change nothing of what it learns.
WITHOUT_EFFECT = frozenset(
    (
        *("output_dir", "logging_steps", "eval_steps", "save_steps", "save_total_limit"),
        *("checkpoint_dir", "resume_from_checkpoint", "report_to", "push_to_hub", "hub_model_id"),
        *("energy_country", "card_template", "save_in_background"),
        *("hub_strategy", "hub_private_repo", "hub_patience", "overwrite_output_dir"),
        *("save_as", "hub_dry_run", "dataloader_num_workers", "cache_images"),
    )
)


@dataclass
class Restart:
    """What a checkpoint keeps of the run's preparation.

    Args:
        processor: with the tokenizer that the weights know; None where an older release saved.
        class_names: of the classes in their order; empty for none.
        num_rows: of the training split.
        recipe: every field of the run, columns that were found in the data among them.
        precision: number formats that it computed in; None where an older release saved.
    """

    processor: Any = None
    class_names: list[str] = field(default_factory=list)
    num_rows: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)
    precision: Precision | None = None


def read_restart(path: Path, progress: dict, processor_class: Any) -> Restart:
    """What a whole checkpoint keeps.

    Args:
        path: of the checkpoint.
        progress: that it holds.
        processor_class: loads its processor.
    """
    folder = path / PROCESSOR_FOLDER
    processor = None
    if folder.is_dir():
        processor = processor_class.from_pretrained(folder)
        read_as_text(getattr(processor, "tokenizer", None))
    names = ("class_names", "num_rows", "recipe")
    kept = {name: progress[name] for name in names if name in progress}
    if "precision" in progress:
        kept["precision"] = Precision(**progress["precision"])
    return Restart(processor, **kept)


def tell_changes(args: TrainArguments, restart: Restart, num_rows: int):
    """Say what is not as it was when the checkpoint was saved."""
    now = args.to_flat_dict()
    changed = [
        f"{name} {before!r} → {now[name]!r}"
        for name, before in restart.recipe.items()
        if name in now and name not in WITHOUT_EFFECT and now[name] != before
    ]
    if changed:
        logger.warning("resumed with other values than before: %s", ", ".join(changed))
    if restart.num_rows and restart.num_rows != num_rows:
        logger.warning(
            "the training split has %d rows, and had %d when the checkpoint was saved: tokenizer "
            "and classes stay those of the checkpoint, and batches come in another order",
            num_rows,
            restart.num_rows,
        )


@dataclass(frozen=True)
class ImageCounts:
    """How many images a run takes at a time.

    Args:
        processes: number of processes.
        batch: images of a batch of one process; their mean where a budget of patches decides.
        update: images of an update of all processes.
    """

    processes: int
    batch: int
    update: int

    @classmethod
    def of(cls, recipe: dict[str, Any], processes: int) -> "ImageCounts":
        """Those of a recipe, launched in a number of processes."""
        batch = recipe["per_device_train_batch_size"]
        if recipe.get("max_image_tokens"):
            native = NativeOptions(recipe["image_seq_lens"], recipe["max_image_tokens"])
            batch = round(mean(native.batch_sizes(batch, recipe["images_per_concept"]).values()))
        return cls(processes, batch, batch * processes * recipe["gradient_accumulation_steps"])


def rescale_step(
    step: int, before: ImageCounts, now: ImageCounts, max_steps: int, is_fixed: bool
) -> int:
    """The update at which as many images have been seen, where an update takes more or fewer now.

    Length and schedule of a run that is counted in passes then stay what they were.

    Args:
        step: updates done.
        before, now: images of an update.
        max_steps: updates of the whole run, as it is now.
        is_fixed: whether the recipe counts updates, not passes: then they stay as they are.
    """
    if before.update == now.update:
        return step
    rescaled = step if is_fixed else min(max_steps, round(step * before.update / now.update))
    logger.warning(
        "an update takes %d images now, and took %d: update %d counts as %d of %d",
        now.update,
        before.update,
        step,
        rescaled,
        max_steps,
    )
    return rescaled


def place_of(scheduler: Any, step: int) -> dict[str, int]:
    """The fields of a schedule's state that say at which update it is."""
    return {"last_epoch": step, "_step_count": step + 1} if hasattr(scheduler, "lr_lambdas") else {}


def keep_fields(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The fields of each parameter group, as the arguments have them."""
    return [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        for group in optimizer.param_groups
    ]


def restore_fields(
    optimizer: torch.optim.Optimizer, scheduler: Any, fields: list[dict[str, Any]], state: dict
):
    """Keep the restored optimiser state and schedule position, but the arguments' hyperparameters.

    Args:
        optimizer: with the state of a checkpoint.
        scheduler: of it, as the arguments make it.
        fields: what `keep_fields` gave before.
        state: of the schedule, from the checkpoint.
    """
    base_rates = list(getattr(scheduler, "base_lrs", []))
    scheduler.load_state_dict(state)
    for group, kept in zip(optimizer.param_groups, fields, strict=True):
        group.update(kept)
    if not hasattr(scheduler, "lr_lambdas"):
        return
    scheduler.base_lrs = base_rates
    scheduler._last_lr = [
        rate * factor(scheduler.last_epoch)
        for rate, factor in zip(base_rates, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = rate
