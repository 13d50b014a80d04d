"""Revisions of a run on the Hub: the model of each evaluation, or of the best so far."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from ..evaluation.metrics import Metric
from ..evaluation.tasks import is_headline
from ..hub.uploads import UploadQueue
from ..utils.errors import warn_only
from .description import find_bases, gather_facts

if TYPE_CHECKING:
    from .trainer import Trainer

#: Folder of the revisions that have not arrived yet, within that of the run.
UPLOADS_FOLDER = "uploads"


class Revisions:
    """Uploads models on the way, in the background; each is a commit with a tag `step-N`.

    What fails costs the run nothing but the disk space of the models that wait.

    Args:
        training: the run, on its main process.
    """

    def __init__(self, training: "Trainer"):
        self.training, self.options = training, training.args.run
        self.best: float | None = None
        folder = training.output_dir / UPLOADS_FOLDER
        repo_id = str(self.options.hub_model_id)
        self.queue = UploadQueue(folder, repo_id, self.options.hub_private_repo)
        find_bases(training.args.model)  # now, so that no evaluation waits for the Hub

    def add(self, model: PreTrainedModel, metrics: list[Metric]):
        """Save a model and queue it, if it is to be a revision.

        Args:
            model: with all of its weights, as it was evaluated.
            metrics: of it.
        """
        if self.options.hub_strategy == "best" and not self.is_best(metrics):
            return
        step = self.training.progress.step
        headlines = [metric for metric in metrics if is_headline(metric)]
        figures = ", ".join(f"{m.key} {100 * m.value:.1f} %" for m in headlines[:2])
        with (
            warn_only(f"saving the model of step {step} for the Hub"),
            self.queue.add(f"step-{step}", f"Step {step}: {figures or 'not evaluated'}") as folder,
        ):
            self.save(self.training.whole_float_model(model), metrics, folder)

    def is_best(self, metrics: list[Metric]) -> bool:
        """Whether the mean of the headline metrics is the highest so far; notes it."""
        values = [metric.value for metric in metrics if is_headline(metric)]
        mean = sum(values) / len(values) if values else None
        if mean is None or (self.best is not None and mean <= self.best):
            return False
        self.best = mean
        return True

    def save(self, model: PreTrainedModel, metrics: list[Metric], folder: Path):
        """Write a model with its processor, its code and its card."""
        training = self.training
        model.save_pretrained(folder)
        training.processor.save_pretrained(folder)
        training.task.write_extra_files(folder)
        facts = gather_facts(training, model, metrics, [])
        template = self.options.card_template
        cards = training.task.build_cards(facts, Path(template) if template else None)
        for name, text in cards.items():
            (folder / name).write_text(text, encoding="utf-8")
