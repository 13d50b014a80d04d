"""Quantisation-aware training, and the quantised model at its end."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast
from torch.utils.data import DataLoader

from ..data.streaming.loader import StreamLoader
from ..quantization import eight_bits, static
from ..quantization.eight_bits import Model
from ..quantization.layers import check_patterns, choose_layers
from ..quantization.smoothing import smooth_tower
from ..utils.devices import read_random_state, write_random_state
from ..utils.errors import UserError
from .arguments import TrainArguments
from .freezing import freeze
from .tasks.task import Preparation


class QuantizedTraining:
    """Puts fake quantisation into a model, turns it on at its step, and quantises at the end.

    `dynamic` and `weight_only` are torchao's, `static` is NNCF's. Weights and their names stay
    those of the float model.

    Args:
        args: arguments of the run; `quantization_mode` is not `none`.
        preparation: its model is changed in place, and its frozen modules are collected again.
        accelerator: connects the processes, which all take the same ranges.

    Raises:
        UserError: the model cannot be quantised as configured, or a package is not installed.
    """

    def __init__(self, args: TrainArguments, preparation: Preparation, accelerator: Accelerator):
        self.args, self.options = args, args.quantization
        self.preparation, self.accelerator = preparation, accelerator
        self.is_static = self.options.quantization_mode == "static"
        self.is_on = True
        self.layers: list[str] = []
        model: Any = preparation.model
        skip = self.options.quantization_skip
        if self.is_static:
            self.reject_static_conflicts()
            check_patterns(model, skip)
        smoothing = self.options.quantization_smoothing
        batches = self.calibration_batches() if self.is_static or smoothing else {}
        if smoothing:
            for name in batches:
                smooth_tower(getattr(model, name), batches[name], smoothing)
        if self.is_static:
            static.fake_quantize_towers(model, batches, skip)
        else:
            eight_bits.require_torchao()
            embeddings = self.options.quantization_embeddings
            self.layers = choose_layers(model, skip, embeddings)
            eight_bits.fake_quantize(
                model,
                self.layers,
                self.options.quantization_mode,
                self.options.quantization_weight_bits,
            )
        # The frozen modules may have been replaced.
        preparation.frozen = freeze(model, args.model)
        self.begin_step(0)

    def reject_static_conflicts(self):
        """Reject options that would run a tower without NNCF's wrapping.

        Raises:
            UserError: one is set.
        """
        for name in ("gradient_checkpointing", "torch_compile"):
            if getattr(self.args.model, name):
                raise UserError(f"{name}=true is not allowed with quantization_mode='static'")
        if self.accelerator.distributed_type == DistributedType.FSDP:
            raise UserError("FSDP is not allowed with quantization_mode='static': use DDP")

    def has_idle_parameters(self) -> bool:
        """Whether some ranges have no gradient at first."""
        return self.is_static and self.options.quantization_start_step > 0

    def begin_step(self, done: int) -> bool:
        """Turn the rounding on or off.

        Args:
            done: number of updates before this one.

        Returns:
            Whether the ranges were estimated again, from the current weights.
        """
        start = self.options.quantization_start_step
        is_on = done >= start
        if is_on == self.is_on:
            return False
        self.is_on = is_on
        switch = static.switch_fake if self.is_static else eight_bits.switch_fake
        switch(self.preparation.model, is_on)
        # A run that is resumed after the start step already has its ranges.
        if not (self.is_static and is_on and done == start):
            return False
        self.find_ranges()
        return True

    def find_ranges(self):
        """Estimate the ranges from the current weights and activations, equal on all processes."""
        model: Any = self.preparation.model
        fresh = eight_bits.without_fakes(model)
        skip = self.options.quantization_skip
        static.fake_quantize_towers(fresh, self.calibration_batches(), skip)
        model.load_state_dict(static.hook_state(fresh), strict=False)
        for value in static.hook_state(model).values():
            broadcast(value)

    def before_update(self, done: int):
        """Drop the gradient of ranges that are frozen by now."""
        freeze_step = self.options.quantization_freeze_step
        if freeze_step and done >= freeze_step:
            for parameter in static.range_parameters(self.preparation.model):
                parameter.grad = None

    def calibration_batches(self) -> dict[str, list[static.Batch]]:
        """The first batches of training for each tower; later random numbers do not change."""
        count = self.options.quantization_calibration_batches
        state = read_random_state(self.accelerator.device)
        batches = []
        finish = self.preparation.data.collate.finish
        for batch in map(finish, self.open_loader()):
            if "pixel_values" in batch:
                batches.append(batch)
            if len(batches) == count:
                break
        write_random_state(state, self.accelerator.device)
        device = self.preparation.model.device
        return {
            name: [{key: batch[key].to(device) for key in inputs} for batch in batches]
            for name, inputs in static.TOWERS.items()
            if hasattr(self.preparation.model, name)  # a classifier has one
        }

    def open_loader(self) -> DataLoader | StreamLoader:
        """The run's batches from the beginning, from a loader of their own."""
        loader = self.preparation.data.loader
        if isinstance(loader, StreamLoader):
            return loader.from_start()
        return DataLoader(
            loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn
        )

    def float_model(self, model: Model) -> Model:
        """The trained weights as a float model.

        Args:
            model: all of its weights, not sharded.
        """
        return eight_bits.without_fakes(model)

    def quantize(self, model: Model, float_model: Model) -> Model:
        """The quantised model.

        With `static`, that is the model itself: it rounds as its export will.

        Args:
            model: the trained model with all of its weights.
            float_model: the result of `self.float_model(model)`.
        """
        if self.is_static:
            return model.eval()
        return eight_bits.quantize(
            float_model,
            self.layers,
            self.options.quantization_mode,
            self.options.quantization_weight_bits,
        )
