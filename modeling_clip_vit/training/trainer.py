"""The training loop, and what happens around it: resuming, logging, evaluating, saving."""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..data.mixing import mix_batch
from ..evaluation.evaluate import evaluate_run
from ..evaluation.metrics import Metric, as_dict
from ..quantization.static import HOOKS
from ..utils.devices import peak_memory
from ..utils.errors import warn_only
from ..utils.folders import SaveError
from ..utils.processes import all_reduce_max, full_tensor
from ..utils.signals import StopSignals
from .arguments import TrainArguments
from .averaging import WeightAverage
from .blocks import compile_blocks
from .checkpoint_reader import has_average, load_average, load_checkpoint, read_places
from .checkpoint_writer import CheckpointWriter, Snapshot
from .checkpoints import CheckpointError, checkpoint_to_resume, open_store, refuse_to_replace
from .ddp import build_ddp_handler, check_ddp
from .deepspeed import ZeroUpdates, check_zero_checkpoint
from .description import describe_start
from .energy import EnergyMeter
from .finetuning.finetuning import Finetuning
from .guard import DeviceGuard, UpdateGuard
from .hangs import StepLimits
from .image_schedule import ImageSchedule
from .kernels import choose_kernels
from .launch import FolderLock, start_accelerator, start_launched
from .optimizer import build_optimizer, build_schedule
from .precision import FLOAT32, Precision
from .profiling import UpdateProfiler
from .quantization_aware import QuantizedTraining
from .restart import (
    ImageCounts,
    Restart,
    keep_fields,
    place_of,
    read_restart,
    rescale_step,
    restore_fields,
    tell_changes,
)
from .resumable_batches import build_batches
from .revisions import Revisions
from .save_as import check_save_as
from .sharding import SHARDED, check_sharded, embedding_sharded, set_sharded_precision
from .signals import Interrupted
from .stored_features import store_features
from .tasks import Preparation, Task, find_task
from .tasks.task import EQUAL_SHARES, Value
from .throughput import Throughput

logger = logging.getLogger(__name__)


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


def build_trainer(args: TrainArguments) -> "Trainer":
    """Start the processes, prepare the task, and resume where the arguments ask for it.

    Raises:
        UserError: something about the arguments, the data or the model is not as it must be.
        CheckpointError: there is no checkpoint to resume from, or a new run would replace one.
    """
    task = find_task(args.run.task)(args)
    zero_plugin = start_launched(args)
    checkpoints, resume_from = open_store(args.run), args.run.resume_from_checkpoint
    refuse_to_replace(checkpoints, args.run)
    # Closing the candidates removes what was copied from an object store.
    with closing(checkpoint_to_resume(checkpoints, resume_from)) as candidates:
        found = next(candidates, None)
        restart = read_restart(*found, task.processor_class) if found else Restart()
        accelerator, precision = start_accelerator(args, zero_plugin, restart.precision)
        set_seed(args.run.seed)
        preparation = task.prepare(restart)
        args = args.with_columns(preparation.columns)
        check_save_as(args.run.save_as, preparation.model)
        trainer = Trainer(task, preparation, accelerator, args, precision)
        if accelerator.process_index:
            # The weights are alike; what each process drops of its own images is not.
            set_seed(args.run.seed + accelerator.process_index)
        if found:
            trainer.load(*found)
            tell_changes(args, restart, preparation.data.num_rows)
            accelerator.wait_for_everyone()  # until all have read what is removed now
    return trainer


class Trainer:
    """One run: train, evaluate on the way, save. `results.finish_run` writes its result.

    Args:
        task: what is learned, and how.
        preparation: the model, its processor and its data, as `task.prepare` made them.
        accelerator: of the process.
        args: all options of the run.
        precision: number formats to compute in; those of the accelerator.

    Raises:
        UserError: the model does not fit the arguments.
    """

    def __init__(
        self,
        task: Task,
        preparation: Preparation,
        accelerator: Accelerator,
        args: TrainArguments,
        precision: Precision = FLOAT32,
    ):
        self.task, self.preparation, self.args = task, preparation, args
        self.accelerator, self.precision = accelerator, precision
        self.output_dir = Path(args.run.output_dir)
        self.processor = preparation.processor
        self.stop_signals = StopSignals()
        self.stop_signal = 0  # one that all processes know of
        self.checkpoints = open_store(args.run)
        keep, in_background = args.run.save_total_limit, args.run.save_in_background
        self.writer = CheckpointWriter(self.checkpoints, accelerator, keep, in_background)
        if accelerator.is_fsdp2:
            check_sharded(accelerator.state.fsdp_plugin, args.optimizer, preparation.model)
        check_ddp(args.optimizer, accelerator.distributed_type)
        # Before anything is put around the operations of the towers.
        is_sharded = accelerator.distributed_type == DistributedType.FSDP
        choose_kernels(preparation.model, args, accelerator.device, precision.autocast, is_sharded)
        self.image_schedule = ImageSchedule(args, preparation.model.vision_model)
        self.finetuning = Finetuning(args, task, preparation, accelerator)
        self.quantization: QuantizedTraining | None = None
        if args.quantization.quantization_mode != "none":
            self.quantization = QuantizedTraining(args, preparation, accelerator)
        has_idle = self.quantization is not None and self.quantization.has_idle_parameters()
        has_idle = has_idle or self.finetuning.has_idle_parameters()
        task.configure(preparation, accelerator, has_idle)
        embedders = task.embedders(preparation, accelerator.device)
        store_features(preparation.data, embedders, args, accelerator, task.learning_towers())
        self.prepare_blocks(preparation.model)
        optimizer = build_optimizer(preparation.model, args.optimizer, precision.muon_dtype)
        if accelerator.is_fsdp2:
            set_sharded_precision(accelerator, preparation.model)
        accelerator.ddp_handler = build_ddp_handler(
            args.optimizer, preparation.model, accelerator.ddp_handler
        )
        self.model, self.optimizer = accelerator.prepare(preparation.model, optimizer)
        # Once: Accelerate looks at every module to find it, which takes milliseconds.
        self.inner_model = accelerator.unwrap_model(self.model)
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.optimizer = ZeroUpdates(accelerator)
        self.finetuning.hold_start(self.unwrapped())
        self.reader = build_batches(accelerator, preparation.data, args.data)
        self.guard = UpdateGuard(args.optimizer.max_grad_spike, args.optimizer.max_skipped_updates)
        self.device_guard: DeviceGuard | None = None
        if self.can_guard_on_device():
            self.device_guard = DeviceGuard(self.guard, accelerator.device)
        decay = args.optimizer.ema_decay
        self.average = WeightAverage(self.unwrapped(), decay) if decay else None
        self.progress = Progress()
        self.energy_meter: EnergyMeter | None = None
        if accelerator.is_main_process and args.run.energy_country:
            self.energy_meter = EnergyMeter(args.run.energy_country)
        self.energy: dict[str, Any] = {}
        self.revisions: Revisions | None = None
        if accelerator.is_main_process and args.run.uploads_revisions:
            self.revisions = Revisions(self)
        self.max_steps = self.count_steps()
        args.quantization.check_steps(self.max_steps)
        self.scheduler = build_schedule(optimizer, args.optimizer, self.max_steps)
        steps, is_compiled = args.optimizer.gradient_accumulation_steps, args.model.torch_compile
        self.throughput = Throughput(accelerator, precision, steps, is_compiled)
        self.limits = StepLimits(
            self.output_dir / "hangs",
            accelerator.process_index,
            args.diagnostics.hang_timeout,
            args.diagnostics.ddp_timeout,
            accelerator.wait_for_everyone,
        )
        #: Seconds, images and updates at the last log.
        self.last_log: tuple[float, int, int] = (0.0, 0, 0)

    def prepare_blocks(self, model: PreTrainedModel):
        """Recompute or compile the blocks of the towers, where the arguments ask for it."""
        if self.args.model.gradient_checkpointing:
            model.activation_checkpointing_enable(
                every_n_layers=self.args.model.gradient_checkpointing_every,
                offload=self.args.model.gradient_checkpointing_offload,
            )
        if self.args.model.torch_compile:
            for tower in self.task.towers(model):
                compile_blocks(tower)

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

    def unwrapped(self) -> Any:
        """The model without what Accelerate wrapped around it."""
        return self.inner_model

    def run(self):
        """Train to the last step; `finish` then gives the model.

        Raises:
            Interrupted: SIGINT, SIGTERM or SIGHUP came; the run is saved.
            DataError: too many images cannot be decoded.
            TrainingError: too many updates in a row had to be skipped.
            SaveError: a checkpoint cannot be written.
        """
        if self.accelerator.is_main_process:
            print(describe_start(self), flush=True)
        self.accelerator.init_trackers("clip-vit", config=self.tracked_config())
        with self.stop_signals, closing(self.writer):
            self.fit()

    def finish(self) -> PreTrainedModel:
        """The trained model, float and with all of its weights; all processes call it."""
        if self.energy_meter:
            with warn_only("measuring the energy"):
                self.energy = self.energy_meter.stop()
        if self.average:
            self.average.swap()
        self.trained = self.whole_model()
        model = self.trained
        if self.accelerator.is_main_process:
            model = self.finetuning.interpolate(self.whole_float_model(model))
        self.preparation.model = model
        return model

    def whole_float_model(self, model: PreTrainedModel) -> PreTrainedModel:
        """A model as it is saved, without fake quantisation and adapter; on the main process.

        Args:
            model: with all of its weights, which stay what they are.
        """
        model = self.quantization.float_model(model) if self.quantization else model
        return self.finetuning.merge(model)

    def quantize(self) -> PreTrainedModel | None:
        """The finished model in integers, on the main process; None where no mode asks for it."""
        if self.quantization is None:
            return None
        return self.quantization.quantize(self.trained, self.preparation.model)

    def build_profiler(self) -> UpdateProfiler:
        """What profiles some of the updates that are left."""
        return UpdateProfiler(
            self.output_dir / "profile",
            self.accelerator.process_index,
            self.args.diagnostics.profile_steps,
            self.max_steps - self.progress.step,
            self.accelerator.device,
        )

    def fit(self):
        """Train to the last step, logging, evaluating and saving on the way."""
        options, progress = self.args.run, self.progress
        self.set_training_mode()
        started = time.perf_counter() - progress.seconds
        bar = tqdm(
            total=self.max_steps,
            initial=progress.step,
            unit="step",
            dynamic_ncols=True,
            disable=not self.accelerator.is_main_process,
        )
        with bar, self.limits, self.build_profiler() as profiler:
            for batch in self.batches():
                batch = mix_batch(batch, self.args.mix, self.progress.step / self.max_steps)
                values = self.train_step(batch)
                progress.images += len(batch["image_ids"]) * self.accelerator.num_processes
                self.throughput.add_tokens(batch)
                if not self.accelerator.sync_gradients:
                    continue
                progress.step += 1
                progress.seconds = time.perf_counter() - started
                bar.update()
                profiler.update_done()
                self.limits.update_done()
                is_last = progress.step == self.max_steps
                if self.is_logged(progress.step):
                    self.log(values, bar)
                if options.eval_steps and progress.step % options.eval_steps == 0 and not is_last:
                    with self.limits.lifted():
                        self.evaluate_on_the_way()
                if self.stop_signal:
                    self.limits.lift()
                    raise Interrupted(self.stop_signal, self.save(is_awaited=True))
                if options.save_steps and (progress.step % options.save_steps == 0 or is_last):
                    with self.limits.lifted():
                        self.save_on_the_way(is_last)

    def is_logged(self, step: int) -> bool:
        """Whether the values of an update are logged."""
        return step % self.args.run.logging_steps == 0 or step == self.max_steps

    def train_step(self, batch: dict) -> dict[str, Value]:
        """One batch forward and backward, and one update when enough have accumulated."""
        if self.quantization and self.quantization.begin_step(self.progress.step) and self.average:
            self.average.restart(HOOKS)
        if self.finetuning.begin_step(self.progress.step):
            self.set_training_mode()
        progress = self.progress.step / self.max_steps
        if self.image_schedule.begin_step(self.unwrapped().vision_model, progress):
            self.throughput.recount()
        with self.accelerator.accumulate(self.model):
            with self.throughput.counted():
                values = self.backward(batch)
            if self.accelerator.sync_gradients:
                scaler, is_logged = self.accelerator.scaler, self.is_logged(self.progress.step + 1)
                values |= self.finetuning.before_update(scaler, is_logged)
                values["gradient_norm"] = self.clip_gradients()
                if self.accepts(values):
                    self.optimizer.step()
                    self.after_update()
                self.scheduler.step()
            self.optimizer.zero_grad()
        return values

    def backward(self, batch: dict) -> dict[str, Value]:
        """The gradients of a batch; returns the loss and other values to log."""
        is_logged = self.accelerator.sync_gradients and self.is_logged(self.progress.step + 1)
        return self.task.backward(
            self.model, self.unwrapped(), batch, self.accelerator.backward, is_logged
        )

    def clip_gradients(self) -> float | torch.Tensor:
        """Clip the gradient to the maximum norm; returns its norm before clipping."""
        if self.quantization:
            self.quantization.before_update(self.progress.step)
        parameters = list(self.model.parameters())
        longest = self.args.optimizer.max_grad_norm
        if longest or self.accelerator.distributed_type in SHARDED:
            return self.accelerator.clip_grad_norm_(parameters, longest or torch.inf)
        # Clipping to infinity would read and write every gradient, to multiply it by 1.
        self.accelerator.unscale_gradients()
        gradients = [one.grad for one in parameters if one.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def can_guard_on_device(self) -> bool:
        """Whether the optimiser can skip an update without the CPU knowing of it.

        The running mean of the weights counts updates on the CPU, and Muon and Adafactor have no
        kernel that takes a decision of the device.
        """
        accelerator, options = self.accelerator, self.args.optimizer
        is_plain = accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_GPU)
        is_fused = options.optim == "adamw" and not options.ema_decay
        is_cuda = accelerator.device.type == "cuda"
        return is_cuda and is_plain and is_fused and accelerator.scaler is None

    def accepts(self, values: dict) -> bool:
        """Whether to make this update, or to let the optimiser decide it on the device."""
        step = self.progress.step + 1
        if self.device_guard:
            refused = self.device_guard.refuses(step, values["loss"], values["gradient_norm"])
            self.scheduler.optimizer.found_inf = refused  # type: ignore[attr-defined]
            return True
        loss = float(values["loss"])
        norm = float(full_tensor(values["gradient_norm"]))
        scaler = self.accelerator.scaler
        if scaler is not None and math.isfinite(loss) and not math.isfinite(norm):
            return True  # in float16, the loss scaling skips it and takes a smaller scale
        is_accepted = self.guard.accepts(step, loss, norm)
        if scaler is not None and not is_accepted:
            scaler.update()  # its gradients are unscaled already, and no step tells it so
        return is_accepted

    def settle(self):
        """Learn of the updates that were skipped on the device."""
        if self.device_guard:
            self.device_guard.settle()

    def after_update(self):
        """Keep weights in bounds, and average them, where there was an update."""
        if self.accelerator.optimizer_step_was_skipped:
            return
        self.task.after_update(self.unwrapped())
        if self.average:
            self.average.update()

    def batches(self) -> Iterator[dict]:
        """Batches of one pass after the other, until the last step: one for every process."""
        while self.progress.step < self.max_steps:
            begun = self.progress.batch
            is_empty = True
            for batch in self.reader.read(self.progress.epoch, begun):
                self.progress.batch += 1
                status = self.reduce_status(0 if "image_ids" in batch else 1, batch)
                if status == 2:  # another process has come to the end of its part
                    break
                if status == 0:
                    is_empty = False
                    yield batch
                if self.progress.step >= self.max_steps:
                    return
            else:
                self.reduce_status(2)
            self.reader.end_pass(is_empty and begun == 0)
            self.progress.epoch += 1
            self.progress.batch = 0

    def reduce_status(self, status: int, batch: dict | None = None) -> int:
        """The highest status of a batch over all processes: 0 to train, 1 to skip, 2 for the end.

        Signals to stop are exchanged at the same time, so that all processes save together; and
        numbers of images and texts, so that a batch knows whether they are equal.
        """
        batch = {} if batch is None else batch
        numbers = [len(batch.get(name, ())) for name in ("image_ids", "text_ids")]
        # The smallest number is the largest of the negative ones.
        bounds = [*numbers, *(-number for number in numbers)]
        states = [status, self.stop_signals.noted, *bounds]
        highest, self.stop_signal, *reduced = all_reduce_max(states, self.accelerator.device)
        batch[EQUAL_SHARES] = reduced == bounds
        return highest

    def set_training_mode(self):
        """Training mode, but for what is frozen."""
        self.model.train()
        for module in self.preparation.frozen:
            module.eval()
        self.finetuning.set_training_mode()

    def whole_model(self) -> PreTrainedModel:
        """The model with its full weights, all-gathered if they are sharded over processes."""
        if self.accelerator.distributed_type != DistributedType.FSDP:
            return self.unwrapped()
        state = self.accelerator.get_state_dict(self.model)
        if not self.accelerator.is_main_process:  # only the main one measures and saves
            return self.unwrapped()
        model = type(self.preparation.model)(self.unwrapped().config)
        self.finetuning.extend(model)
        model.load_state_dict(state)
        return model.to(self.accelerator.device)

    def evaluate_on_the_way(self):
        """Evaluate the model that training would give if it ended now, and log the metrics."""
        with self.average.applied() if self.average else nullcontext():
            is_sharded = self.accelerator.is_fsdp2
            # All of it is too large for one device, and is needed to be uploaded only.
            is_whole = not is_sharded or self.args.run.uploads_revisions
            model = self.whole_model() if is_whole else None
            with warn_only("the evaluation"):
                metrics = self.evaluate_sharded() if is_sharded else self.evaluate(model, False)
                self.log_metrics(as_dict(metrics))
                if self.revisions and model is not None:
                    self.revisions.add(model, metrics)
        self.set_training_mode()

    def evaluate_sharded(self) -> list[Metric]:
        """Metrics of the model as it is sharded, on the main process; all processes call it."""
        model = self.unwrapped()
        encoder = self.task.encoder(model.eval(), self.processor)
        with embedding_sharded(model):
            return evaluate_run(self.preparation.evaluations, encoder, False, is_alone=False)

    def evaluate(self, model: Any, is_end: bool) -> list[Metric]:
        """Metrics of a model, on the main process; empty where nothing is evaluated.

        Args:
            model: on this process, with its full weights.
            is_end: also evaluate what the recipe evaluates at the end only.
        """
        if not self.accelerator.is_main_process:
            return []
        # In the weights' own precision, not in autocast: what is measured is what gets saved.
        was_training = model.training
        encoder = self.task.encoder(model.eval(), self.processor)
        metrics = evaluate_run(self.preparation.evaluations, encoder, is_end)
        model.train(was_training)
        return metrics

    def log(self, values: dict, bar: tqdm):
        """Log training values to trackers and bar.

        Raises:
            TrainingError: too many updates in a row were skipped.
        """
        self.settle()
        numbers = {name: float(full_tensor(value)) for name, value in values.items()}
        seconds = self.progress.seconds - self.last_log[0]
        images = self.progress.images - self.last_log[1]
        updates = self.progress.step - self.last_log[2]
        self.note_log()
        numbers["images_per_second"] = images / seconds
        numbers |= self.throughput.describe(seconds, updates, self.accelerator.num_processes)
        numbers["data_wait"] = min(1.0, self.reader.take_waiting() / seconds)
        numbers["memory_megabytes"] = peak_memory(self.accelerator.device)
        numbers["learning_rate"] = float(self.scheduler.get_last_lr()[-1])
        numbers |= self.task.describe_weights(self.unwrapped())
        numbers["skipped_updates"] = self.guard.skipped
        bar.set_postfix_str(
            f"loss {numbers['loss']:.3f}, lr {numbers['learning_rate']:.1e}, "
            f"{numbers['images_per_second']:.0f} images/s"
        )
        self.log_metrics(numbers)

    def note_log(self):
        """Remember where the next log begins."""
        self.last_log = (self.progress.seconds, self.progress.images, self.progress.step)

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
            self.save(is_awaited=is_last)
        except SaveError as error:
            if not is_last:
                raise
            logger.warning("%s", error)

    def save(self, is_awaited: bool) -> str:
        """Save a checkpoint to resume from.

        Args:
            is_awaited: do not leave it to the background.
        """
        self.settle()
        state = {
            **vars(self.progress),
            "scheduler": self.scheduler.state_dict(),
            "guard": self.guard.state_dict(),
            "average_updates": self.average.updates if self.average else 0,
            "processes": self.accelerator.num_processes,
            "class_names": self.preparation.class_names,
            "num_rows": self.preparation.data.num_rows,
            "recipe": self.args.to_flat_dict(),
            "precision": vars(self.precision),
        }
        snapshot = Snapshot(
            self.unwrapped(),
            self.scheduler.optimizer,
            state,
            self.average.tensors() if self.average else {},
            self.reader.state_dict(),
            self.processor,
        )
        return self.writer.save(snapshot, is_awaited)

    def load(self, path: Path, state: dict):
        """Take over the state that a whole checkpoint holds."""
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            check_zero_checkpoint(path, state["processes"], self.accelerator.num_processes)
        optimizer = self.scheduler.optimizer  # without what Accelerate or DeepSpeed put around it
        fields = keep_fields(optimizer)
        if has_average(path) != (self.average is not None):
            raise CheckpointError(
                f"cannot resume from {path}: it was saved "
                f"{'with' if has_average(path) else 'without'} ema_decay"
            )
        load_checkpoint(self.accelerator, path, self.unwrapped(), optimizer)
        if self.average:
            load_average(self.average.tensors(), path)
            self.average.updates = state["average_updates"]
        self.guard.load_state_dict(state["guard"])
        if self.device_guard:
            self.device_guard = DeviceGuard(self.guard, self.accelerator.device)
        self.progress = Progress(**{name: state[name] for name in vars(self.progress)})
        recipe = self.args.to_flat_dict()
        done = ImageCounts.of(state.get("recipe", recipe), state["processes"])
        now = ImageCounts.of(recipe, self.accelerator.num_processes)
        is_fixed = self.args.optimizer.max_steps > 0
        self.progress.step = rescale_step(self.progress.step, done, now, self.max_steps, is_fixed)
        position = {**state["scheduler"], **place_of(self.scheduler, self.progress.step)}
        restore_fields(optimizer, self.scheduler, fields, position)
        self.progress.batch = self.reader.resume(self.progress.batch, read_places(path), done, now)
        self.note_log()
