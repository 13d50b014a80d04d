"""Write the results of a run: first the model, then metrics, pictures and card; push them."""

import functools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import PreTrainedModel

from ..evaluation.metrics import Metric, as_dict, as_json, finite
from ..evaluation.tasks import TASKS, is_headline
from ..export.folder import export_clip
from ..hub.card_facts import CardFacts
from ..hub.card_metadata import EXAMPLE_PICTURE
from ..hub.contents import read_contents
from ..hub.errors import HubError
from ..hub.model_card import CARD_FILES
from ..hub.push import PushOptions
from ..hub.uploads import push_patiently
from ..inference.pictures import Found, save_retrieval_grid
from ..quantization.folder import FACTS_FILE, weight_bytes, write_facts, write_quantized
from ..runtimes.openvino import has_hooks
from ..utils.errors import warn_only
from ..utils.folders import committed_files, replaced_folder, saving, write_json
from ..utils.versions import code_version
from .curves import save_curves
from .description import gather_facts
from .finetuning.adapters import ADAPTER_FOLDER
from .finetuning.wise_ft import Point, save_interpolation
from .save_as import remove_saved, write_as
from .trainer import Trainer

logger = logging.getLogger(__name__)

#: Folder of the quantised model, within that of the float one.
QUANTIZED_FOLDER = "int8"
#: Files about the model that a run writes next to it. They are removed when it is replaced.
METRICS_FILE, LOG_FILE = "metrics.json", "training_log.jsonl"
CURVES_FILE, SEARCHES_FILE = "training_curves.png", "retrieval.png"
INTERPOLATION_FILE = "wise_ft.png"
PICTURES = (CURVES_FILE, INTERPOLATION_FILE, SEARCHES_FILE, EXAMPLE_PICTURE)
MODEL_FILES = (METRICS_FILE, LOG_FILE, *PICTURES, *CARD_FILES)


def finish_run(training: Trainer):
    """Write a trained model with all that belongs to it, and upload it if configured.

    The model comes first, completely or not at all. If a later step fails, a warning says so and
    the model stays. All processes call this.

    Raises:
        SaveError: the model could not be written; what was there before is untouched.
    """
    model = training.finish()
    if training.accelerator.is_main_process:
        results = RunResults(training, model)
        results.write_model()
        results.write_rest()
    with warn_only("closing the trackers"):
        training.accelerator.end_training()


@dataclass
class RunResults:
    """The results of a finished run, written step by step on the main process.

    Args:
        training: the finished run.
        model: what it trained.
        files: names of the files written so far, relative to the folder.
        metrics: metrics so far.
        points: what was measured between the start and the end.
        facts: what the card is written from, once it is known.
    """

    training: Trainer
    model: PreTrainedModel
    files: list[str] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    facts: CardFacts | None = None

    def __post_init__(self):
        self.args = self.training.args
        self.folder = Path(self.args.run.output_dir)
        self.processor = self.training.preparation.processor
        self.task = self.training.task

    def write_model(self):
        """Write the checkpoint: weights, configuration, code and processor."""
        hint = "what was there is untouched; go on with --resume_from_checkpoint latest"
        with saving(f"the model in {self.folder}", hint), self.commit() as partial:
            self.model.eval().save_pretrained(partial)
            self.processor.save_pretrained(partial)
            self.task.write_extra_files(partial)
        self.replace_adapter()
        for name in MODEL_FILES:  # about the model that was replaced
            (self.folder / name).unlink(missing_ok=True)
        if (self.folder / QUANTIZED_FOLDER / FACTS_FILE).is_file():
            shutil.rmtree(self.folder / QUANTIZED_FOLDER)
        remove_saved(self.folder)

    def replace_adapter(self):
        """Write the adapter, if one was trained, over that of the model that was replaced."""
        target = self.folder / ADAPTER_FOLDER
        if (target / "adapter_config.json").is_file():
            shutil.rmtree(target)
        if self.training.finetuning.adapter is None:
            return
        with (
            saving(f"the adapter in {target}", f"the merged model is whole in {self.folder}"),
            replaced_folder(target) as partial,
        ):
            self.training.finetuning.adapter.save(partial)
        self.add_files(target)

    def add_files(self, folder: Path):
        """Count the files of a folder among those that were written."""
        names = (path.relative_to(self.folder) for path in sorted(folder.rglob("*")))
        self.files += [str(name) for name in names if (self.folder / name).is_file()]

    def write_rest(self):
        """Measure, quantise, draw, describe and upload, each on its own."""
        steps: dict[str, Callable[[], Any]] = {
            "the evaluation": self.measure,
            "measuring between start and end": self.interpolate,
            f"writing {METRICS_FILE}": self.write_metrics,
            f"drawing {CURVES_FILE}": self.draw_curves,
        }
        if self.args.finetuning.wise_ft:
            steps[f"drawing {INTERPOLATION_FILE}"] = self.draw_interpolation
        if self.args.quantization.quantization_mode != "none":
            steps["making the quantised model"] = self.write_integers
        for name in self.args.run.save_as:
            steps[f"saving the model as {name}"] = functools.partial(self.write_as, name)
        searches = self.searches()
        if searches:
            steps[f"drawing {SEARCHES_FILE}"] = lambda: self.draw_searches(searches)
            steps[f"saving {EXAMPLE_PICTURE}"] = lambda: self.save_example(searches[0][1])
        steps["describing the run"] = lambda: self.describe([text for text, _ in searches])
        steps[f"writing what the card is made of to {METRICS_FILE}"] = self.write_metrics
        steps["writing the model card"] = self.write_cards
        if self.args.run.push_to_hub:
            steps["the upload"] = self.push
        for what, work in steps.items():
            with warn_only(f"{what} (the model in {self.folder} is whole)"):
                work()
        print_summary(self.folder, self.metrics)

    def commit(self) -> AbstractContextManager[Path]:
        """A folder to fill, whose files go to the run's folder when the block ends."""
        return committed_files(self.folder, self.files)

    def measure(self):
        """Evaluate the model."""
        self.metrics = self.training.evaluate(self.model, is_end=True)
        self.training.log_metrics(as_dict(self.metrics))

    def interpolate(self):
        """Evaluate the models between the start and the end, if the recipe asks for them."""
        interpolation = self.training.finetuning.interpolation
        if interpolation and self.args.finetuning.wise_ft:
            self.points = interpolation.measure(
                self.model,
                self.args.finetuning.wise_ft,
                lambda model: self.training.evaluate(model, is_end=True),
            )

    def write_metrics(self):
        """Write metrics.json, with what the card is made of once that is known, and the log."""
        progress = self.training.progress
        content: dict[str, Any] = {
            "metrics": as_json(self.metrics),
            "steps": progress.step,
            "train_seconds": progress.seconds,
            "images_per_second": progress.images / progress.seconds,
            "precision": self.training.precision.autocast,
            "code": code_version(),
            "recipe": self.args.to_flat_dict(),
        }
        if self.facts is not None:
            facts = self.facts.to_json()
            content["card"] = {name: facts[name] for name in facts if name != "recipe"}
        if self.points:
            content["wise_ft"] = [
                {"alpha": point.alpha, "metrics": as_json(point.metrics)} for point in self.points
            ]
        lines = [json.dumps(finite(line)) for line in progress.history]
        with self.commit() as partial:
            write_json(partial / METRICS_FILE, content)
            (partial / LOG_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def draw_curves(self):
        """Draw how training went."""
        with self.commit() as partial:
            history = self.training.progress.history
            save_curves(partial / CURVES_FILE, history, self.headlines())

    def headlines(self) -> list[str]:
        """The first metric of each task, as figures show them."""
        return [metric.key for metric in self.metrics if is_headline(metric)]

    def draw_interpolation(self):
        """Draw the metrics between the start and the end."""
        with self.commit() as partial:
            save_interpolation(
                partial / INTERPOLATION_FILE,
                self.points,
                self.headlines(),
                self.args.finetuning.wise_ft_alpha,
            )

    def write_integers(self):
        """Write the quantised model: torchao's as a checkpoint, NNCF's as an OpenVINO export."""
        quantized = self.training.quantize()
        assert quantized is not None, "the caller asked for a mode"
        metrics = self.training.evaluate(quantized, is_end=True)
        self.training.log_metrics({f"int8/{m.key}": m.value for m in metrics})
        facts = {
            **vars(self.args.quantization),
            "metrics": as_json(metrics),
            "float_metrics": as_json(self.metrics),
            "float_bytes": weight_bytes(self.folder),
        }
        target = self.folder / QUANTIZED_FOLDER
        with replaced_folder(target) as partial:
            if has_hooks(quantized):
                export_clip(quantized, self.processor, partial, "openvino", "int8")
                write_facts(partial, facts)
            else:
                write_quantized(quantized, self.processor, partial, facts)
        self.add_files(target)
        print_summary(target, metrics)

    def write_as(self, name: str):
        """Write the model as another implementation loads it."""
        self.files += write_as(self.folder, name)

    def searches(self) -> list[tuple[str, list[Found]]]:
        """What the model finds for some captions; empty where it searches nothing."""
        with warn_only("searching for examples"):
            return self.task.searches(self.training.preparation)
        return []

    def draw_searches(self, searches: list[tuple[str, list[Found]]]):
        """Draw what the model finds."""
        with self.commit() as partial:
            save_retrieval_grid(partial / SEARCHES_FILE, searches)

    def save_example(self, results: list[Found]):
        """Save a picture that the card's example shows."""
        shown = next((one for one in results if one.is_right), results[0])
        with self.commit() as partial:
            Image.fromarray(np.asarray(shown.image)).save(partial / EXAMPLE_PICTURE)

    def write_cards(self):
        """Write the model card, in each language that has a template."""
        template = self.args.run.card_template
        assert self.facts is not None, "the step before has made them"
        cards = self.task.build_cards(self.facts, Path(template) if template else None)
        with self.commit() as partial:
            for name, text in cards.items():
                (partial / name).write_text(text, encoding="utf-8")

    def describe(self, examples: list[str]):
        """Gather what the model card is written from."""
        pictures = [name for name in self.files if name in PICTURES]
        self.facts = gather_facts(self.training, self.model, self.metrics, examples)
        self.facts.between = {point.alpha: point.metrics for point in self.points}
        self.facts.pictures = pictures

    def push(self):
        """Upload what this run wrote, or list what would go up.

        Raises:
            UserError: the Hub or the network did not let it happen; the sentence says how to go on.
        """
        options = self.args.run
        repo_id, contents = str(options.hub_model_id), read_contents(self.folder, self.files)
        if options.hub_dry_run:
            print(f"would push to {repo_id}:\n{contents.describe()}")
            return
        revisions, head = self.training.revisions, None
        if revisions is not None:
            revisions.queue.finish(options.hub_patience)
            head = revisions.queue.head
        try:
            pushed = push_patiently(
                contents, repo_id, options.hub_patience, PushOptions(options.hub_private_repo), head
            )
            print(f"pushed to {pushed.url}")
        except HubError as error:
            hint = f"upload it with clip-vit push {self.folder} {repo_id}"
            raise HubError(f"{error}; {hint}") from error
        finally:
            rest = revisions.queue.describe_rest() if revisions is not None else ""
            if rest:
                logger.warning("%s", rest)


def print_summary(folder: Path, metrics: Sequence[Metric]):
    """Print where the model is and how well it retrieves or classifies."""
    for metric in metrics:
        if metric.name in TASKS[metric.task].headlines:
            print(f"{metric.key:55} {100 * metric.value:5.1f} %")
    print(f"the model, its card and its pictures are in {folder}")
