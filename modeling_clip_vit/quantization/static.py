"""Int8 with ranges that are fixed beforehand: NNCF finds them, OpenVINO computes with them.

NNCF puts fake quantisation between the operations of a torch module, as its modules `__nncf_hooks`;
what the module is called and its weights stay what they were.

Shape legend: `B` batch, `L` tokens, `P` projection, `S` side in pixels.
"""

import os
import warnings
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ..modeling_clip_vit import ClipVitModel
from ..towers import run_tower
from .layers import QuantizationError, is_skipped

#: What NNCF calls the modules that it adds.
HOOKS = "__nncf_hooks"
#: Inputs of a part: name -> tensor.
Batch = dict[str, torch.Tensor]
INFERENCE_HINTS = {"INFERENCE_PRECISION_HINT": "f32"}  # of what is not int8; else it takes bf16


class ImagePart(nn.Module):
    """From normalised `pixel_values` (B, 3, S, S) to embeddings (B, P), not normalised.

    Its layers are called what they are called in the joint model.
    """

    def __init__(self, model: ClipVitModel):
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = model.visual_projection

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        outputs = run_tower(self.vision_model, {"pixel_values": pixel_values})
        return self.visual_projection(outputs.pooler_output)


class TextPart(nn.Module):
    """From `input_ids` and `attention_mask` (B, L) to embeddings (B, P), not normalised."""

    def __init__(self, model: ClipVitModel):
        super().__init__()
        self.text_model = model.text_model
        self.text_projection = model.text_projection

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        return self.text_projection(run_tower(self.text_model, inputs).pooler_output)


#: File of a part in an OpenVINO folder -> the part, its tower's name, and its inputs.
PARTS: dict[str, tuple[type[nn.Module], str, tuple[str, ...]]] = {
    "vision_model": (ImagePart, "vision_model", ("pixel_values",)),
    "text_model": (TextPart, "text_model", ("input_ids", "attention_mask")),
}


def import_nncf() -> Any:
    """NNCF, told to send nobody what it is used for, and to wait for its compiler.

    Raises:
        QuantizationError: NNCF or OpenVINO is not installed.
    """
    # It sends figures of use to its maker unless one of its variables is set, and gives a busy
    # machine a minute to compile its kernels.
    os.environ.setdefault("NNCF_CI", "1")
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")
    try:
        import nncf
        import openvino  # noqa: F401
    except ImportError as error:
        raise QuantizationError(
            f'{error.name} is not installed: pip install "clip-vit[openvino]"'
        ) from error
    nncf.set_log_level(30)
    return nncf


@contextmanager
def quietly():
    """Without the progress bars and warnings of NNCF, torch's tracer and OpenVINO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def nncf_quantize(
    model_part: nn.Module,
    batches: Sequence[Batch],
    skip: Collection[str] = (),
    smooth_alpha: float | None = 0.5,
    correct_bias: bool = True,
) -> nn.Module:
    """A copy of a module with NNCF's fake quantisation in it, ranges found from calibration data.

    Weights are symmetric and have a range a row, activations one for the whole tensor.

    Args:
        model_part: a tower, `ImagePart` or `TextPart`.
        batches: its inputs by name, each batch of at least one item.
        skip: patterns of the layers that stay float, as the module calls them.
        smooth_alpha: how much of the activations' spread moves into the weights (Xiao et al., 2023:
            SmoothQuant), from 0 to 1; None for nothing.
        correct_bias: shift biases so that the mean output stays what it was (Nagel et al., 2019).

    Returns:
        The copy, in evaluation mode. With `smooth_alpha` or `correct_bias` its weights differ.

    Raises:
        QuantizationError: NNCF is not installed, or there is no calibration data.
    """
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
    )

    if not batches:
        raise QuantizationError("there is no calibration data: static ranges need at least a batch")
    advanced = AdvancedQuantizationParameters(
        disable_bias_correction=not correct_bias,
        smooth_quant_alphas=AdvancedSmoothQuantParameters(
            convolution=-1, matmul=-1 if smooth_alpha is None else smooth_alpha
        ),
    )
    model_part = model_part.eval()
    with quietly():
        return nncf.quantize(
            deepcopy(model_part),
            nncf.Dataset(list(batches), dict),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=operations_of(model_part, batches[0], skip)),
            advanced_parameters=advanced,
        )


def operations_of(module: nn.Module, example: Batch, skip: Collection[str]) -> list[str]:
    """What NNCF calls the operations that use the weights of some layers."""
    if not any(is_skipped(name, skip) for name, _ in module.named_modules()):
        return []
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
    from nncf.torch.function_hook.wrapper import wrap_model

    graph = build_nncf_graph(wrap_model(deepcopy(module)), example)
    found: set[str] = set()
    for node in graph.get_all_nodes():
        weight = getattr(node.layer_attributes, "name", "") or ""
        if is_skipped(weight.rpartition(".")[0], skip):
            found.update(user.node_name for user in graph.get_next_nodes(node))
    return sorted(found)


class OpenVinoClip:
    """Both parts as compiled OpenVINO models, to embed with as with a CLIP.

    Args:
        models: OpenVINO models by their names in `PARTS`.
    """

    device, dtype, training = torch.device("cpu"), torch.float32, False
    #: The tokenizer in its folder says how long texts may be.
    config = SimpleNamespace(model_type="clip_vit", text_config=None)

    def __init__(self, models: dict[str, Any]):
        import openvino

        self.models = models
        core = openvino.Core()
        self.compiled = {
            name: core.compile_model(model, "CPU", INFERENCE_HINTS)
            for name, model in models.items()
        }

    def eval(self) -> "OpenVinoClip":
        """Itself: it cannot be trained."""
        return self

    def train(self, mode: bool = True) -> "OpenVinoClip":
        """Itself: it cannot be trained."""
        return self

    def run(self, part: str, **inputs: torch.Tensor) -> SimpleNamespace:
        """The output of a part, `pooler_output` (B, P)."""
        arrays = {name: inputs[name].numpy() for name in PARTS[part][2]}
        return SimpleNamespace(
            pooler_output=torch.from_numpy(self.compiled[part](arrays)[0].copy())
        )

    def get_image_features(self, pixel_values: torch.Tensor) -> SimpleNamespace:
        """Embed normalised pixels (B, 3, S, S): `pooler_output` (B, P)."""
        return self.run("vision_model", pixel_values=pixel_values)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs
    ) -> SimpleNamespace:
        """Embed token ids (B, L): `pooler_output` (B, P)."""
        return self.run("text_model", input_ids=input_ids, attention_mask=attention_mask)

    def save_pretrained(self, folder: str | Path):
        """Write `vision_model.xml`, `text_model.xml` and their weights."""
        import openvino

        for name, model in self.models.items():
            openvino.save_model(model, Path(folder) / f"{name}.xml", compress_to_fp16=False)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "OpenVinoClip":
        """Read what `save_pretrained` wrote."""
        import openvino

        core = openvino.Core()
        return cls({name: core.read_model(Path(folder) / f"{name}.xml") for name in PARTS})


def to_openvino(parts: dict[str, nn.Module], examples: dict[str, Batch]) -> OpenVinoClip:
    """Convert parts with fake quantisation in them: float inputs and outputs, int8 within.

    Args:
        parts: of `PARTS`, by name.
        examples: a batch for each.
    """
    import openvino

    models = {}
    for name, part in parts.items():
        with quietly(), torch.no_grad():
            models[name] = openvino.convert_model(
                part.eval().float().cpu(), example_input=examples[name]
            )
    return OpenVinoClip(models)


def quantize_static(
    model: ClipVitModel,
    batches: dict[str, list[Batch]],
    skip: Collection[str],
    smooth_alpha: float | None,
) -> OpenVinoClip:
    """A trained float model in int8 with static ranges.

    Args:
        model: float.
        batches: calibration data of each part in `PARTS`.
        skip: patterns of layers that stay float.
        smooth_alpha: as in `nncf_quantize`.
    """
    parts = {
        name: nncf_quantize(part(model), batches[name], skip, smooth_alpha)
        for name, (part, _, _) in PARTS.items()
    }
    return to_openvino(parts, {name: batches[name][0] for name in PARTS})


def fake_quantize_towers(
    model: ClipVitModel, batches: dict[str, list[Batch]], skip: Collection[str]
):
    """Let a joint model's towers round as they will in int8 with static ranges, in place.

    Without smoothing and bias correction, so that weights stay what they were. The ranges are
    parameters, and learn (Jain et al., 2019).
    """
    for name, (_, tower, _) in PARTS.items():
        own = [pattern.removeprefix(f"{tower}.") for pattern in skip]
        quantized = nncf_quantize(
            getattr(model, tower), batches[name], own, smooth_alpha=None, correct_bias=False
        )
        setattr(model, tower, quantized)


def hook_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The ranges of a model's fake quantisation, by name."""
    return {name: value for name, value in model.state_dict().items() if HOOKS in name}


def range_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The ranges that learn."""
    return [p for name, p in model.named_parameters() if HOOKS in name and p.requires_grad]


def switch_fake(model: nn.Module, is_on: bool):
    """Turn NNCF's rounding on or off; what learns stays what it was."""
    for name, buffer in model.named_buffers():
        if HOOKS in name and name.endswith(".enabled"):
            buffer.fill_(int(is_on))
