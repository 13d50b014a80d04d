"""Combinations of fine-tuning options that a run does not support."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ...utils.errors import UserError
from .options import PEFT_TYPES, START, AdapterOptions

if TYPE_CHECKING:  # which imports this module
    from ..arguments import TrainArguments


def check_finetuning(args: "TrainArguments"):
    """Reject options that do not go together.

    Raises:
        UserError: with the option to change.
    """
    refuse_without_start(args)
    refuse_with_quantization(args)
    options = args.adapter
    if options.peft_type is not None and options.peft_type not in PEFT_TYPES:
        raise UserError(
            f"peft_type={options.peft_type!r} is not allowed: it must be one of "
            f"{', '.join(PEFT_TYPES)}"
        )
    refuse_other_options(options)
    if not options.is_on:
        return
    if args.finetuning.l2_sp_weight:
        raise UserError(
            f"l2_sp_weight={args.finetuning.l2_sp_weight} is not allowed with an adapter, beneath "
            "which the weights stay as they are: use weight_decay"
        )
    for name in ("frozen_towers", "frozen_vision_layers", "frozen_text_layers"):
        if getattr(args.model, name):
            raise UserError(
                f"{name}={getattr(args.model, name)} is not allowed with an adapter, beneath which "
                "everything is frozen: set lora_vision_rank or lora_text_rank to 0 to leave a "
                "tower without adapter, or name the layers in adapter_targets"
            )
    base, output = Path(str(args.model.model_name_or_path)), Path(args.run.output_dir)
    if base.expanduser().resolve() == output.expanduser().resolve():
        raise UserError(
            f"output_dir={args.run.output_dir!r} is not allowed: it is the model beneath the "
            "adapter, which would be replaced"
        )


def refuse_without_start(args: "TrainArguments"):
    """Reject options that need a pretrained model where there is none.

    Raises:
        UserError: with the option.
    """
    if args.model.model_name_or_path:
        return
    needed = {
        "peft_type": args.adapter.peft_type,
        "adapter_name_or_path": args.adapter.adapter_name_or_path,
        "l2_sp_weight": args.finetuning.l2_sp_weight,
        "wise_ft": args.finetuning.wise_ft,
        "wise_ft_alpha": args.finetuning.wise_ft_alpha if args.finetuning.wise_ft_alpha != 1 else 0,
    }
    for name, value in needed.items():
        if value:
            raise UserError(f"{name}={value} needs model_name_or_path: the model to start from")
    if args.loss.teacher_name_or_path == START:
        raise UserError(
            "teacher_name_or_path='start' needs model_name_or_path: that is the teacher"
        )


def refuse_with_quantization(args: "TrainArguments"):
    """Reject what cannot be combined with fake quantisation.

    Raises:
        UserError: with the option.
    """
    mode, options = args.quantization.quantization_mode, args.finetuning
    if mode == "none":
        return
    refused = {
        "an adapter": args.adapter.is_on,
        f"head_first_steps={options.head_first_steps}": options.head_first_steps > 0,
        f"wise_ft={options.wise_ft}": bool(options.wise_ft),
        f"wise_ft_alpha={options.wise_ft_alpha}": options.wise_ft_alpha != 1,
        f"l2_sp_weight={options.l2_sp_weight}": options.l2_sp_weight > 0 and mode == "static",
    }
    for what, is_set in refused.items():
        if is_set:
            raise UserError(
                f"quantization_mode={mode!r} is not allowed with {what}: quantise the finished "
                "model, or train it on with quantization_mode"
            )


def refuse_other_options(options: AdapterOptions):
    """Reject options of an adapter where they would have no effect.

    Raises:
        UserError: with the option.
    """
    is_lora = options.peft_type == "LORA"
    defaults = AdapterOptions()
    for option in fields(AdapterOptions):
        name, value = option.name, getattr(options, option.name)
        if value == getattr(defaults, name) or name in ("peft_type", "adapter_name_or_path"):
            continue
        if options.adapter_name_or_path:
            raise UserError(
                f"{name}={value} is not allowed with adapter_name_or_path, which brings its own"
            )
        if options.peft_type is None:
            raise UserError(f"{name}={value} is not allowed without peft_type, such as LORA")
        if name.startswith("lora_") and not is_lora:
            raise UserError(
                f"{name}={value} is not allowed with peft_type={options.peft_type!r}: use "
                "peft_fields"
            )
