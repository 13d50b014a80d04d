"""The training loop."""

import json
import logging
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, set_seed
from torch.distributed.tensor import DTensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..configuration_clip_vit import is_foreign
from ..data.mixing import mix_batch
from ..data.packing import plan_for_mask
from ..evaluation.metrics import Metric, as_dict
from ..modeling_clip_vit import ClipVitModel
from ..quantization.static import HOOKS
from ..utils.devices import peak_memory
from ..utils.errors import warn_only
from ..utils.folders import SaveError
from .arguments import TrainArguments
from .averaging import WeightAverage
from .checkpoints import CheckpointError, CheckpointStore, check_whole, load_checkpoint
from .gradient_cache import cached_backward, cut, refuse_batch_norm
from .guard import UpdateGuard
from .kernels import choose_kernels, choose_packing
from .launch import FolderLock, start_accelerator
from .learning import find_blocks
from .objective import ContrastiveObjective, check_loss, load_teacher
from .optimizer import build_optimizer, build_schedule
from .preparation import Preparation, prepare
from .quantized import QuantizedTraining
from .reader import build_reader
from .restart import (
    Restart,
    keep_fields,
    read_restart,
    restore_fields,
    take_columns,
    tell_changes,
)
from .zero import ZeroUpdates, check_zero_checkpoint

logger = logging.getLogger(__name__)

#: Ctrl-C, what a scheduler sends, and a closed terminal (which Windows has not).
STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run was asked to stop, and saved a checkpoint first."""

    def __init__(self, signal_number: int, checkpoint: str):
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
        epoch: passes over the data begun.
        batch: batches that this process has done of this pass.
        images: images seen, by all processes.
        seconds: time spent training, evaluations on the way included.
        history: logged values, a dict a line.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    images: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class ContrastiveTraining:
    """One run: prepare, train, evaluate. Saving the result is `report.write_outputs`'s.

    Args:
        args: everything the run is told.
    """

    def __init__(self, args: TrainArguments):
        self.args = args
        self.output_dir = Path(args.run.output_dir)
        self.accelerator, self.precision = start_accelerator(args)
        set_seed(args.run.seed)
        self.noted_signal, self.stop_signal = 0, 0  # one that came here; one that all know of
        place = args.run.checkpoint_dir or str(self.output_dir / "checkpoints")
        self.checkpoints = CheckpointStore(place, self.output_dir / "checkpoints")
        candidates = self.find_checkpoint(args.run.resume_from_checkpoint)
        found = next(candidates, None)
        restart = Restart()
        if found:
            restart = read_restart(*found, args.run.task == "classification")
            take_columns(args, restart)
        self.preparation = self.prepare(restart)
        self.processor = self.preparation.processor
        self.needs_logits, self.packs_texts = False, False
        # Before anything is put around the operations of the towers.
        choose_kernels(self.preparation.model, args, self.accelerator.device, self.precision)
        self.quantization: QuantizedTraining | None = None
        if args.quantization.quantization_mode != "none":
            self.quantization = QuantizedTraining(args, self.preparation, self.accelerator)
        model = self.prepare_model(self.preparation.model)
        optimizer = build_optimizer(model, args.optimizer)
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.optimizer = ZeroUpdates(self.accelerator)
        self.reader = build_reader(self.accelerator, self.preparation.data, args.data)
        self.objective = self.build_objective()
        self.guard = UpdateGuard(args.optimizer.max_grad_spike, args.optimizer.max_skipped_updates)
        decay = args.optimizer.ema_decay
        self.average = WeightAverage(self.unwrapped(), decay) if decay else None
        self.progress = Progress()
        self.max_steps = self.count_steps()
        args.quantization.check_steps(self.max_steps)
        self.scheduler = build_schedule(optimizer, args.optimizer, self.max_steps)
        self.last_log: tuple[float, int] = (0.0, 0)
        self.former_handlers: dict = {}
        if found:
            self.load(*found)
            tell_changes(args, restart, self.preparation.data.num_rows)
        candidates.close()  # what was copied from an object store goes

    def prepare(self, restart: Restart) -> Preparation:
        """Open the data, and build or load the model; tokenizer and classes are a restart's."""
        return prepare(self.args, restart)

    def build_objective(self) -> Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """What is minimised."""
        return ContrastiveObjective(self.args.loss, self.prepare_teacher())

    def prepare_model(self, model: ClipVitModel) -> ClipVitModel:
        """Set up what trains a model of this size here: recomputing, compiling, cutting."""
        check_loss(self.args.loss, model)
        if self.args.loss.loss != "siglip" and model.get_logit_bias() is not None:
            # A softmax does not see it, and distributed training waits for every gradient.
            model.similarity.logit_bias.requires_grad = False
        has_idle = self.quantization is not None and self.quantization.has_idle_parameters()
        if (
            has_idle
            or is_foreign(model.config.vision_config)
            or is_foreign(model.config.text_config)
        ):
            # Such as the pooler of a BERT that is pooled otherwise.
            # What is unused is found from the outputs, and the scale shows in the logits alone.
            self.needs_logits = True
            self.accelerator.ddp_handler = DistributedDataParallelKwargs(
                find_unused_parameters=True
            )
        if self.args.optimizer.gradient_cache_batch_size:
            refuse_batch_norm(model)
        self.prepare_blocks(model, [model.vision_model, model.text_model])
        device_type = self.accelerator.device.type
        self.packs_texts = choose_packing(self.args, model.text_model, device_type)
        return model

    def prepare_blocks(self, model: PreTrainedModel, towers: list[PreTrainedModel]):
        """Recompute or compile the blocks of towers, where the arguments ask for it."""
        if self.args.model.gradient_checkpointing:
            model.activation_checkpointing_enable()
        if self.args.model.torch_compile:
            for tower in towers:
                for block in find_blocks(tower):
                    block.compile()

    def prepare_teacher(self) -> ClipVitModel | None:
        """The teacher that the arguments name, on this process's device."""
        path = self.args.loss.teacher_name_or_path
        if path is None:
            return None
        teacher = load_teacher(path, self.preparation.model, self.processor.tokenizer)
        return teacher.to(self.accelerator.device)

    def count_steps(self) -> int:
        """Updates of the whole run."""
        options = self.args.optimizer
        if options.max_steps:
            return options.max_steps
        steps = len(self.reader) / options.gradient_accumulation_steps
        if not self.args.stream.stream_sources:
            steps = math.ceil(steps)  # Accelerate ends a pass with an update
        return max(1, round(steps * options.num_train_epochs))

    @contextmanager
    def claim_folders(self) -> Iterator[None]:
        """Keep other runs out of the folders that this one writes to, for as long as this lasts.

        Raises:
            LaunchError: another run writes to one of them.
        """
        folders = {self.output_dir.resolve(): "output_dir"}
        if self.checkpoints.is_local:
            folders.setdefault(self.checkpoints.folder.resolve(), "checkpoint_dir")
        with ExitStack() as locks:
            if self.accelerator.is_main_process:
                for folder, field_name in folders.items():
                    locks.enter_context(FolderLock(folder, field_name))
            yield

    def unwrapped(self) -> ClipVitModel:
        """The model without what Accelerate wrapped around it."""
        return self.accelerator.unwrap_model(self.model)

    def run(self):
        """Train to the last step; `finish` then gives the model.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came; the run is saved.
            DataError: too many images cannot be decoded.
            TrainingError: too many updates in a row had to be skipped.
            SaveError: a checkpoint cannot be written.
        """
        self.accelerator.init_trackers("clip-vit", config=self.tracked_config())
        self.watch_signals()
        try:
            self.fit()
        finally:
            self.unwatch_signals()

    def finish(self) -> PreTrainedModel:
        """The trained model, float and with all of its weights; all processes call it."""
        if self.average:
            self.average.swap()
        self.trained = self.whole_model()
        if self.quantization and self.accelerator.is_main_process:
            self.preparation.model = self.quantization.float_model(self.trained)
        else:
            self.preparation.model = self.trained
        return self.preparation.model

    def quantize(self) -> PreTrainedModel | None:
        """The finished model in integers, on the main process; None where no mode asks for it."""
        if self.quantization is None:
            return None
        return self.quantization.quantize(self.trained, self.preparation.model)

    def fit(self):
        """Train to the last step, logging, evaluating and saving on the way."""
        options, progress = self.args.run, self.progress
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
                batch = mix_batch(batch, self.args.mix, self.progress.step / self.max_steps)
                values = self.train_step(batch)
                progress.images += len(batch["image_ids"]) * self.accelerator.num_processes
                if not self.accelerator.sync_gradients:
                    continue
                progress.step += 1
                progress.seconds = time.perf_counter() - started
                bar.update()
                is_last = progress.step == self.max_steps
                if self.is_logged(progress.step):
                    self.log(values, bar)
                if options.eval_steps and progress.step % options.eval_steps == 0 and not is_last:
                    self.evaluate_on_the_way()
                if self.stop_signal:
                    raise Interrupted(self.stop_signal, self.save())
                if options.save_steps and (progress.step % options.save_steps == 0 or is_last):
                    self.save_on_the_way(is_last)

    def is_logged(self, step: int) -> bool:
        """Whether the values of an update are logged."""
        return step % self.args.run.logging_steps == 0 or step == self.max_steps

    def train_step(self, batch: dict) -> dict[str, Any]:
        """One batch forward and backward, and one update when enough have accumulated."""
        if self.quantization and self.quantization.begin_step(self.progress.step) and self.average:
            self.average.restart(HOOKS)
        with self.accelerator.accumulate(self.model):
            values = self.backward(batch)
            if self.accelerator.sync_gradients:
                values["gradient_norm"] = self.clip_gradients()
                if self.accepts(values):
                    self.optimizer.step()
                    self.after_update()
                self.scheduler.step()
            self.optimizer.zero_grad()
        return values

    def backward(self, batch: dict) -> dict[str, Any]:
        """The gradients of a batch, at once, or in parts where it is larger than fits.

        Returns:
            The loss and what else is logged of it.
        """
        names = ("pixel_values", "input_ids", "attention_mask")
        inputs = {name: batch[name] for name in names}
        is_logged = self.accelerator.sync_gradients and self.is_logged(self.progress.step + 1)
        objective = partial(self.objective, batch, with_accuracy=is_logged)
        part_size = self.args.optimizer.gradient_cache_batch_size
        if part_size:
            loss, values = cached_backward(
                self.model,
                self.unwrapped().similarity,
                [self.plan_texts(part) for part in cut(inputs, part_size)],
                objective,
                self.accelerator.backward,
                return_logits=self.needs_logits,
            )
            return {"loss": loss, **values}
        outputs = self.model(**self.plan_texts(inputs), return_logits=self.needs_logits)
        model = self.unwrapped()
        loss, values = objective(
            outputs.image_embeds,
            outputs.text_embeds,
            model.get_logit_scale(),
            model.get_logit_bias(),
        )
        self.accelerator.backward(loss)
        return {"loss": loss.detach(), **values}

    def plan_texts(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs of the model, with which texts share a row where that saves computing."""
        if not self.packs_texts:
            return inputs
        places = plan_for_mask(inputs["attention_mask"].cpu())
        if places is None:
            return inputs
        return {**inputs, "packed_places": places.to(inputs["input_ids"].device)}

    def clip_gradients(self) -> float | torch.Tensor:
        """Scale the gradient down to the longest allowed; returns how long it was."""
        if self.quantization:
            self.quantization.before_update(self.progress.step)
        longest = self.args.optimizer.max_grad_norm or torch.inf
        return self.accelerator.clip_grad_norm_(self.model.parameters(), longest)

    def accepts(self, values: dict) -> bool:
        """Whether to make this update."""
        step, loss = self.progress.step + 1, float(values["loss"])
        norm = float(plain(values["gradient_norm"]))
        scaler = self.accelerator.scaler
        if scaler is not None and math.isfinite(loss) and not math.isfinite(norm):
            return True  # in float16, the loss scaling skips it and takes a smaller scale
        is_accepted = self.guard.accepts(step, loss, norm)
        if scaler is not None and not is_accepted:
            scaler.update()  # its gradients are unscaled already, and no step tells it so
        return is_accepted

    def after_update(self):
        """Keep weights in bounds, and average them, where there was an update."""
        if self.accelerator.optimizer_step_was_skipped:
            return
        self.bound_weights()
        if self.average:
            self.average.update()

    def bound_weights(self):
        """Keep the scale in its bounds."""
        self.unwrapped().similarity.clamp_scale()

    def describe_weights(self) -> dict[str, float]:
        """What is logged of the weights."""
        return {"logit_scale": float(plain(self.unwrapped().get_logit_scale().detach()))}

    def batches(self) -> Iterator[dict]:
        """Batches of one pass after the other, until the last step: one for every process."""
        while self.progress.step < self.max_steps:
            begun = self.progress.batch
            is_empty = True
            for batch in self.reader.read(self.progress.epoch, begun):
                self.progress.batch += 1
                worst = self.agree(0 if "pixel_values" in batch else 1)
                if worst == 2:  # another process has come to the end of its part
                    break
                if worst == 0:
                    is_empty = False
                    yield batch
                if self.progress.step >= self.max_steps:
                    return
            else:
                self.agree(2)
            self.reader.end_pass(is_empty and begun == 0)
            self.progress.epoch += 1
            self.progress.batch = 0

    def agree(self, state: int) -> int:
        """The worst state of all processes.

        Of a batch: 0 to train on, 1 to pass over, 2 for the end of a pass. Of a checkpoint: 0 for a
        whole one.

        They also learn here whether one of them was asked to stop, so that all save together.
        """
        if self.accelerator.num_processes == 1:
            self.stop_signal = self.noted_signal
            return state
        told = torch.tensor([state, self.noted_signal], device=self.accelerator.device)
        worst, self.stop_signal = self.accelerator.gather(told).view(-1, 2).amax(dim=0).tolist()
        return worst

    def set_training_mode(self):
        """Training mode, but for what is frozen."""
        self.model.train()
        for module in self.preparation.frozen:
            module.eval()

    def whole_model(self) -> ClipVitModel:
        """The model with all of its weights, also where processes share them out."""
        if self.accelerator.distributed_type != DistributedType.FSDP:
            return self.unwrapped()
        state = self.accelerator.get_state_dict(self.model)
        if not self.accelerator.is_main_process:  # only the main one measures and saves
            return self.unwrapped()
        model = type(self.preparation.model)(self.unwrapped().config)
        model.load_state_dict(state)
        return model.to(self.accelerator.device)

    def evaluate_on_the_way(self):
        """Measure what training would end with now, and log it."""
        with self.average.applied() if self.average else nullcontext():
            model = self.whole_model()
            with warn_only("the evaluation"):
                self.log_metrics(as_dict(self.evaluate(model, everything=False)))
        self.set_training_mode()

    def evaluate(self, model: Any, everything: bool) -> list[Metric]:
        """Metrics of a model, on the main process; empty where nothing is measured."""
        if self.preparation.evaluator is None or not self.accelerator.is_main_process:
            return []
        # In the weights' own precision, not in autocast: what is measured is what gets saved.
        return self.preparation.evaluator(model, self.processor, everything)

    def log(self, values: dict, bar: tqdm):
        """Log training values to trackers and bar."""
        numbers = {name: float(plain(value)) for name, value in values.items()}
        seconds = self.progress.seconds - self.last_log[0]
        images = self.progress.images - self.last_log[1]
        self.last_log = (self.progress.seconds, self.progress.images)
        numbers["images_per_second"] = images / seconds
        numbers["data_wait"] = min(1.0, self.reader.take_waiting() / seconds)
        numbers["memory_megabytes"] = peak_memory(self.accelerator.device)
        numbers["learning_rate"] = float(self.scheduler.get_last_lr()[-1])
        numbers |= self.describe_weights()
        numbers["skipped_updates"] = self.guard.skipped
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

    def save_on_the_way(self, is_last: bool):
        """Save a checkpoint; after the last update, the model itself is what counts.

        Raises:
            SaveError: it cannot be written, and there is more to train.
        """
        try:
            self.save()
        except SaveError as error:
            if not is_last:
                raise
            logger.warning("%s", error)

    def save(self) -> str:
        """Save a checkpoint to resume from."""
        state = {
            **vars(self.progress),
            "scheduler": self.scheduler.state_dict(),
            "guard": self.guard.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
            "processes": self.accelerator.num_processes,
            "class_names": self.preparation.class_names,
            "num_rows": self.preparation.data.num_rows,
            "recipe": self.args.to_flat_dict(),
        }
        return self.checkpoints.save(
            self.accelerator,
            state,
            self.average.state_dict() if self.average else None,
            self.reader.state_dict(),
            self.processor,
            self.args.run.save_total_limit,
        )

    def find_checkpoint(self, resume_from: str | None) -> Generator[tuple[Path, dict]]:
        """The checkpoint to go on from, an older one where the newest is damaged; and its progress.

        It is there until the generator is closed.

        Raises:
            CheckpointError: none can be used.
        """
        if resume_from is None:
            return
        error = CheckpointError(f"cannot resume from {resume_from}")
        for path in self.checkpoints.candidates(resume_from):
            state = None
            try:
                state = check_whole(path)
            except CheckpointError as reason:
                logger.warning("%s", reason)
                error = reason
            # All processes take the same one.
            if self.agree(0 if state else 1) == 0 and state:
                yield path, state
                return
        raise error

    def load(self, path: Path, state: dict):
        """Take over the state that a whole checkpoint holds."""
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            check_zero_checkpoint(path, state["processes"], self.accelerator.num_processes)
        fields = keep_fields(self.optimizer)
        average, reader = load_checkpoint(self.accelerator, path)
        if (average is None) != (self.average is None):
            raise CheckpointError(
                f"cannot resume from {path}: it was saved {'with' if average else 'without'} "
                "ema_decay"
            )
        if self.average and average is not None:
            self.average.load_state_dict(average)
            self.average.updates = state["average_updates"]
        restore_fields(self.optimizer, self.scheduler, fields, state["scheduler"])
        self.guard.load_state_dict(state["guard"])
        self.progress = Progress(**{name: state[name] for name in vars(self.progress)})
        self.progress.batch = self.reader.resume(self.progress.batch, reader, state["processes"])
        self.last_log = (self.progress.seconds, self.progress.images)

    def watch_signals(self):
        """Finish the step and save on the first signal to stop; leave at once on the second."""

        def note(signal_number, frame):
            self.noted_signal = signal_number
            signal.signal(signal_number, signal.default_int_handler)

        for signal_number in STOP_SIGNALS:
            self.former_handlers[signal_number] = signal.signal(signal_number, note)

    def unwatch_signals(self):
        """Give the signals back to who handled them before."""
        for signal_number, handler in self.former_handlers.items():
            signal.signal(signal_number, handler)


def plain(value):
    """A value whole, which sharded training shares out over processes."""
    return value.full_tensor() if isinstance(value, DTensor) else value
