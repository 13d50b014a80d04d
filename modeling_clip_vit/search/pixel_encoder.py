"""What embeds pictures that are indexed: the model of the index, or its checkpoint in torch."""

import sys
from pathlib import Path

from ..utils.models import import_models
from .index import PictureIndex
from .model import NamedModel, find_model
from .settings import PictureIndexError
from .shards import PixelEncoder


def pick_encoder(index: PictureIndex, checkpoint: str, runtime: str, threads: int) -> PixelEncoder:
    """What embeds pictures.

    Args:
        index: that they are for.
        checkpoint: that it was made with.
        runtime: `onnxruntime`, `torch`, or `auto` for torch where it has an accelerator.
        threads: threads that the model of the index computes with.
    """
    own = index.image_encoder(threads)
    if runtime == "onnxruntime" or (runtime == "auto" and not may_have_accelerator()):
        return own
    model = find_model(checkpoint, index.settings.options["precision"])
    if not runs_in_torch(model):
        return own
    import_models()
    from .torch_encoder import TorchPixelEncoder, has_accelerator

    if runtime == "torch" or has_accelerator():
        return TorchPixelEncoder(model.folder, own.preparation)
    return own


def runs_in_torch(model: NamedModel) -> bool:
    """Whether torch can make the vectors that an index of a model has."""
    return not model.is_export and model.precision == "fp32"


def check_runtime(runtime: str, model: NamedModel):
    """Refuse torch where an index has an export's vectors, or int8's.

    Raises:
        PictureIndexError: torch was asked for, and there is no checkpoint for it.
    """
    if runtime == "torch" and not runs_in_torch(model):
        raise PictureIndexError(
            f"--runtime torch needs a checkpoint in fp32, and {model.name!r} is "
            f"{'an export' if model.is_export else f'indexed in {model.precision}'}"
        )


def may_have_accelerator() -> bool:
    """Whether it is worth importing torch to look for an accelerator."""
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri/renderD128", "/dev/dxg")
    return sys.platform != "linux" or any(Path(device).exists() for device in devices)
