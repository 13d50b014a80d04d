"""Load configurations, models and processors that a user names, with errors that name them too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, AutoTokenizer

from .errors import UserError, first_line, unwrap
from .folders import is_disk_full
from .hub_ids import is_hub_id
from .packages import require

#: What Transformers raises of checkpoints that are damaged, incomplete or of another kind.
LOADING_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    ImportError,
    StrictDataclassError,
    SafetensorError,
    httpx2.HTTPError,  # a connection that ended
)


class LoadError(UserError):
    """A checkpoint that cannot be used; the message is one clear sentence."""


def find_checkpoint(path: str) -> str:
    """A checkpoint's folder, a `~` in it expanded, or its id on the Hub.

    Raises:
        LoadError: there is no such folder, and an id on the Hub has another form.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.exists() or not is_hub_id(path):
        raise LoadError(f"no checkpoint folder {path!r} (looked in {Path.cwd()})")
    return path


@contextmanager
def loading(path: str) -> Iterator[None]:
    """Turn what Transformers raises while it loads a checkpoint into one sentence.

    Raises:
        LoadError: that sentence.
    """
    try:
        yield
    except UserError:
        raise
    except LOADING_ERRORS as error:
        reason = first_line(unwrap(error))
        if is_disk_full(error) and not Path(path).exists():
            raise LoadError(
                f"cannot download {path!r}: {reason}; make room, or the variable HF_HOME chooses "
                "another disk"
            ) from error
        ended = find_transport_error(error)
        if ended is not None and not Path(path).exists():
            raise LoadError(
                f"cannot download {path!r}: the connection to the Hub failed "
                f"({first_line(ended)}), and there is no folder of that name in {Path.cwd()}"
            ) from error
        if repr(path) in reason:
            raise LoadError(reason) from error
        if not Path(path).exists():
            reason += f"; there is no folder of that name in {Path.cwd()} either"
        raise LoadError(f"cannot load the checkpoint {path!r}: {reason}") from error


def find_transport_error(error: BaseException | None) -> httpx2.TransportError | None:
    """The failure of the network behind an error, which Transformers takes for a missing file."""
    while error is not None:
        if isinstance(error, httpx2.TransportError):
            return error
        error = error.__cause__ or error.__context__
    return None


def load_config(path: str) -> Any:
    """The configuration of a checkpoint, as `load_auto` loads it."""
    return load_auto(AutoConfig, path)


def is_quantized(config: Any) -> bool:
    """Whether a checkpoint's weights are integers, which can be neither trained nor exported."""
    return getattr(config, "quantization_config", None) is not None


def load_processor(path: str) -> Any:
    """The processor of a checkpoint, as `load_auto` loads it."""
    processor = load_auto(AutoProcessor, path)
    read_as_text(getattr(processor, "tokenizer", None))
    return processor


def load_image_processor(path: str) -> Any:
    """The image processor of a checkpoint, as `load_auto` loads it."""
    return load_auto(AutoImageProcessor, path)


def load_tokenizer(path: str) -> Any:
    """The tokenizer of a checkpoint, as `load_auto` loads it."""
    tokenizer = load_auto(AutoTokenizer, path)
    read_as_text(tokenizer)
    return tokenizer


def load_auto(auto_class: Any, path: str) -> Any:
    """A part of a checkpoint, without running code that the checkpoint carries.

    Raises:
        LoadError: there is no such checkpoint or part of it, or it is not valid.
    """
    path = find_checkpoint(path)
    with loading(path):
        return auto_class.from_pretrained(path, trust_remote_code=False)


def read_as_text(tokenizer: Any):
    """Let a tokenizer read what is typed in a text as text, special tokens such as `<eos>` too."""
    if tokenizer is not None:
        tokenizer.split_special_tokens = True


def load_model(model_class: Any, path: str, **kwargs: Any) -> Any:
    """A model with every weight of it, without running code that the checkpoint carries.

    Args:
        model_class: an Auto class, or a class of models.
        path: a folder, or an id on the Hub.
        kwargs: of `from_pretrained`.

    Raises:
        LoadError: there is no such checkpoint, it lacks weights or has others than the model, or
            it is damaged.
        MissingPackageError: it is quantised, and torchao is not installed.
    """
    from ..pretrained import load_whole

    if is_quantized(load_config(path)):
        require(("torchao",), "quantize", f"the quantised checkpoint {path!r}")
    path = find_checkpoint(path)
    with loading(path):
        return load_whole(model_class, path, trust_remote_code=False, **kwargs)
