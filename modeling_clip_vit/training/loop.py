"""The training loop."""

import json
import logging
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from tqdm.auto import tqdm
from transformers import get_scheduler

from ..data.images import BadSamples
from .arguments import TrainArguments
from .checkpoints import find_checkpoint, load_checkpoint, save_checkpoint
from .objective import ContrastiveObjective
from .optimizer import build_optimizer
from .precision import choose_precision
from .preparation import Preparation, prepare

logger = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run was asked to stop, and saved a checkpoint first."""

    def __init__(self, signal_number: int, checkpoint: Path):
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}; the run is saved in {checkpoint}: "
            "go on with --resume_from_checkpoint latest"
        )
        #: What a shell reports for a process that ended by this signal.
        self.exit_code = 128 + signal_number


@dataclass
class Progress:
    """How far a run is.

    Args:
        step: updates done.
        epoch: passes over the concepts begun.
        batch: batches done of this pass.
        images: images seen.
        seconds: time spent training, evaluations on the way included.
        history: logged values, a dict a line.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    images: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class TrainingResult:
    """What a finished run leaves for the report."""

    preparation: Preparation
    metrics: dict[str, float]
    progress: Progress
    precision: str


class ContrastiveTraining:
    """One run: prepare, train, evaluate. Saving the result is `report.write_outputs`'s.

    Args:
        args: everything the run is told.
    """

    def __init__(self, args: TrainArguments):
        self.args = args
        self.output_dir = Path(args.run.output_dir)
        self.accelerator = self.start_accelerator()
        set_seed(args.run.seed)
        self.preparation = prepare(args)
        self.processor = self.preparation.processor
        self.sampler = self.preparation.data.sampler
        model = self.preparation.model
        if args.model.gradient_checkpointing:
            model.activation_checkpointing_enable()
        optimizer = build_optimizer(model, args.optimizer)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            model, optimizer, self.preparation.data.loader
        )
        self.objective = ContrastiveObjective(args.optimizer)
        self.progress = Progress()
        self.max_steps = self.count_steps()
        self.scheduler = get_scheduler(
            args.optimizer.lr_scheduler_type,
            optimizer,
            num_warmup_steps=round(args.optimizer.warmup_ratio * self.max_steps),
            num_training_steps=self.max_steps,
        )
        self.last_log: tuple[float, int] = (0.0, 0)
        self.stop_signal = 0
        self.former_handlers: dict = {}
        if args.run.resume_from_checkpoint:
            self.resume(args.run.resume_from_checkpoint)

    def start_accelerator(self) -> Accelerator:
        """Accelerate, in the precision that the arguments and the device allow."""
        options = self.args.run
        trackers = [] if options.report_to in ("none", "") else options.report_to.split(",")
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
        return Accelerator(
            # Without this, processes launched where no GPU is would each train alone.
            cpu=device_type == "cpu",
            mixed_precision=choose_precision(options, device_type),
            gradient_accumulation_steps=self.args.optimizer.gradient_accumulation_steps,
            log_with=trackers or None,
            project_dir=str(self.output_dir / "runs"),
        )

    def count_steps(self) -> int:
        """Updates of the whole run."""
        options = self.args.optimizer
        if options.max_steps:
            return options.max_steps
        batches = len(self.loader) * options.num_train_epochs
        return max(1, round(batches / options.gradient_accumulation_steps))

    def unwrapped(self):
        """The model without what Accelerate wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    def run(self) -> TrainingResult:
        """Train to the last step and evaluate.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the run is saved.
            DataError: too many images cannot be decoded.
            SaveError: a checkpoint cannot be written.
        """
        self.accelerator.init_trackers("clip-vit", config=self.tracked_config())
        self.watch_signals()
        try:
            self.fit()
        finally:
            self.unwatch_signals()
        metrics = self.evaluate(everything=True)
        self.log_metrics(metrics)
        self.accelerator.end_training()
        return TrainingResult(
            self.preparation, metrics, self.progress, self.accelerator.mixed_precision
        )

    def fit(self):
        """Train to the last step, logging, evaluating and saving on the way."""
        options = self.args.run
        progress = self.progress
        self.set_training_mode()
        started = time.perf_counter() - progress.seconds
        with tqdm(
            total=self.max_steps,
            initial=progress.step,
            unit="step",
            dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        ) as bar:
            for batch in self.batches():
                values = self.train_step(batch)
                progress.images += len(batch["image_ids"]) * self.accelerator.num_processes
                if not self.accelerator.sync_gradients:
                    continue
                progress.step += 1
                progress.seconds = time.perf_counter() - started
                bar.update()
                is_last = progress.step == self.max_steps
                if progress.step % options.logging_steps == 0 or is_last:
                    self.log(values, bar)
                if options.eval_steps and progress.step % options.eval_steps == 0 and not is_last:
                    self.log_metrics(self.evaluate(everything=False))
                    self.set_training_mode()
                if self.is_stopping():
                    raise Interrupted(self.stop_signal, self.save())
                if options.save_steps and progress.step % options.save_steps == 0 and not is_last:
                    self.save()

    def set_training_mode(self):
        """Training mode, but for what is frozen."""
        self.model.train()
        for module in self.preparation.frozen:
            module.eval()

    def train_step(self, batch: dict) -> dict[str, float | torch.Tensor]:
        """One batch forward and backward, and one update when enough have accumulated."""
        with self.accelerator.accumulate(self.model):
            outputs = self.model(
                pixel_values=batch["pixel_values"],
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
            )
            loss, values = self.objective(
                outputs.image_embeds, outputs.text_embeds, batch, self.unwrapped()
            )
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                max_norm = self.args.optimizer.max_grad_norm or torch.inf
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
                values["gradient_norm"] = norm
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.scheduler.step()
                self.unwrapped().similarity.clamp_scale()
        return {"loss": loss.detach(), **values}

    def batches(self):
        """Batches of one epoch after the other, until the last step; skipped images are noted."""
        bad = self.preparation.data.bad
        while self.progress.step < self.max_steps:
            self.sampler.set_epoch(self.progress.epoch)
            loader = self.accelerator.skip_first_batches(self.loader, self.progress.batch)
            for batch in loader:
                self.progress.batch += 1
                self.note_skipped(batch, bad)
                if "pixel_values" in batch:
                    yield batch
                if self.progress.step >= self.max_steps:
                    return
            bad.check(self.args.data.dataset)
            self.progress.epoch += 1
            self.progress.batch = 0

    def note_skipped(self, batch: dict, bad: BadSamples):
        """Count and name the images of a batch that could not be decoded."""
        bad.seen += len(batch["skipped"]) + len(batch.get("image_ids", ()))
        for sample in batch["skipped"]:
            logger.warning("skipped %s: %s", sample.name, sample.reason)
            bad.add(sample.name, sample.reason)
        if bad.seen >= 1000:
            bad.check(self.args.data.dataset)

    def evaluate(self, everything: bool) -> dict[str, float]:
        """Metrics of the model as it is, on the main process; empty where nothing is measured."""
        if self.preparation.evaluator is None or not self.accelerator.is_main_process:
            return {}
        # In the weights' own precision, not in autocast: what is measured is what gets saved.
        return self.preparation.evaluator(self.unwrapped(), self.processor, everything)

    def log(self, values: dict, bar: tqdm):
        """Log training values to trackers and bar."""
        numbers = {name: float(value) for name, value in values.items()}
        seconds = self.progress.seconds - self.last_log[0]
        images = self.progress.images - self.last_log[1]
        self.last_log = (self.progress.seconds, self.progress.images)
        numbers["images_per_second"] = images / seconds
        numbers["learning_rate"] = self.scheduler.get_last_lr()[-1]
        numbers["logit_scale"] = float(self.unwrapped().get_logit_scale().detach())
        bar.set_postfix_str(
            f"loss {numbers['loss']:.3f}, lr {numbers['learning_rate']:.1e}, "
            f"{numbers['images_per_second']:.0f} images/s"
        )
        self.log_metrics(numbers)

    def log_metrics(self, metrics: dict[str, float]):
        """Log values to trackers and history."""
        if metrics:
            self.progress.history.append({"step": self.progress.step, **metrics})
            self.accelerator.log(metrics, step=self.progress.step)

    def tracked_config(self) -> dict:
        """The arguments as trackers take them: plain values."""
        return {
            name: value if isinstance(value, int | float | str | bool) else json.dumps(value)
            for name, value in self.args.to_flat_dict().items()
        }

    def save(self) -> Path:
        """Save a checkpoint to resume from."""
        state = {
            **vars(self.progress),
            "scheduler": self.scheduler.state_dict(),
            "processes": self.accelerator.num_processes,
        }
        folder = self.output_dir / "checkpoints"
        return save_checkpoint(self.accelerator, folder, state, self.args.run.save_total_limit)

    def resume(self, resume_from: str):
        """Go on from a checkpoint."""
        path = find_checkpoint(resume_from, self.output_dir / "checkpoints")
        state = load_checkpoint(self.accelerator, path)
        self.scheduler.load_state_dict(state["scheduler"])
        self.progress = Progress(**{name: state[name] for name in vars(self.progress)})
        self.last_log = (self.progress.seconds, self.progress.images)

    def watch_signals(self):
        """Finish the step and save on the first Ctrl-C or SIGTERM; leave at once on the second."""

        def note(signal_number, frame):
            self.stop_signal = signal_number
            signal.signal(signal_number, signal.default_int_handler)

        for signal_number in (signal.SIGINT, signal.SIGTERM):
            self.former_handlers[signal_number] = signal.signal(signal_number, note)

    def unwatch_signals(self):
        """Give the signals back to who handled them before."""
        for signal_number, handler in self.former_handlers.items():
            signal.signal(signal_number, handler)

    def is_stopping(self) -> bool:
        """Whether any process was asked to stop, so that all of them save together."""
        if self.accelerator.num_processes > 1:
            asked = torch.tensor([self.stop_signal], device=self.accelerator.device)
            self.stop_signal = int(self.accelerator.gather(asked).max())
        return self.stop_signal > 0
