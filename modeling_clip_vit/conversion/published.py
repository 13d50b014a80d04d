"""Published models of any peer by their names: converted once, and kept in a cache.

A command takes a name, calls `local_checkpoint`, and has a checkpoint of this package.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import constants

from ..inference.exported import EXPORT_FILE
from ..utils.folders import replaced_folder, saving, write_json
from ..utils.from_pretrained import LoadError
from ..utils.versions import code_digest
from .sources import CONFIG, OPEN_CLIP_CONFIG, Source, find_source

#: What was converted and how well, and the size of every other file: written with the folder.
RECORD_FILE = "conversion.json"
#: The code that makes a converted model: the model's own files and this folder.
CONVERTING_CODE = ("*.py", "conversion/**/*.py")
#: How the cache gets to another place, as the end of a sentence.
WHERE = "the variable HF_HOME chooses another disk"


def local_checkpoint(name: str, needs_texts: bool = True) -> str:
    """What this package loads for the name of a checkpoint of any peer.

    A checkpoint of this package, an export and what no peer knows are returned as they are: what
    loads them says what is wrong with them. Another peer's model is converted and checked at its
    first use, which a line on stderr says; later, the cache has it. It is found there as long as
    the source (commit of a repository, or sizes and times of the files) and the code that converts
    stay the same. Of several processes, one converts while the others wait.

    Args:
        name: a folder, a file of weights in one, or the id of a repository on the Hub, with or
            without the prefixes of open_clip and timm, such as `hf-hub:user/name`.
        needs_texts: whether an image tower alone is not enough.

    Raises:
        UserError: the source cannot be read, or cannot be converted without loss.
    """
    source = find_source(name)
    if source is None:
        return name
    if not is_foreign(source):
        return source.as_it_is()
    # Peers bring Transformers' models and timm with them, which checkpoints of ours do not need.
    from .peers import PEERS, recognize_peer

    peer = recognize_peer(str(source.path))
    if peer is None:
        return source.as_it_is()
    if needs_texts and PEERS[peer].is_tower:
        raise LoadError(
            f"{name!r} is an image tower alone ({peer}), and this needs a model of images and texts"
        )
    return str(find_converted(source))


def local_tower(name: str) -> str:
    """What a tower of a new model is loaded from, for the name of a checkpoint of any peer.

    Transformers' own encoders are towers as they are, and so is every image model of timm. One of
    timm that can be converted is, because then it has all options of ours.

    Raises:
        UserError: the source cannot be read, or is none of these.
    """
    source = find_source(name)
    if source is None:
        return name
    if not is_foreign(source) or "model_type" in read_config(source):
        return source.as_it_is()
    from .weights import ConversionError

    try:
        return local_checkpoint(name, needs_texts=False)
    except ConversionError as reason:
        if (source.folder / OPEN_CLIP_CONFIG).is_file():
            raise
        print(f"{name} stays a model of timm: {reason}", file=sys.stderr)
        return source.as_it_is()


def is_foreign(source: Source) -> bool:
    """Whether a checkpoint is of a peer, not of this package, and not an export either."""
    if (source.folder / EXPORT_FILE).is_file():
        return False
    if (source.folder / OPEN_CLIP_CONFIG).is_file():
        return True
    config = read_config(source)
    # Integers are loaded by Transformers alone.
    if not config or "quantization_config" in config:
        return False
    return not str(config.get("model_type")).startswith("clip_vit")


def read_config(source: Source) -> dict:
    """The content of config.json; empty without one, which what loads it says better."""
    try:
        config = json.loads((source.folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def cache_folder() -> Path:
    """Where converted models are kept: below HF_HOME."""
    return Path(constants.HF_HOME) / "clip-vit" / "converted"


def find_converted(source: Source) -> Path:
    """The folder with a model of a peer as one of ours, converted now if it was not before.

    Raises:
        UserError: it cannot be converted without loss, or the cache cannot be written.
    """
    identity = json.dumps([source.identity(), code_digest(*CONVERTING_CODE)], sort_keys=True)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    slug = re.sub(r"[^\w.-]+", "--", source.repository or source.path.name)
    folder = cache_folder() / f"{slug}-{digest}"
    if is_whole(folder):
        return folder
    with saving(f"in {folder.parent}", WHERE):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not is_whole(folder):  # another process may just have made it
            convert_into(folder, source)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a converted model is there with all of its files."""
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        return all((folder / file).stat().st_size == size for file, size in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def saved_by_any_process(model: Any) -> Iterator[None]:
    """Let this process save a model, whichever it is of those that train.

    Transformers saves in the first process alone, but whichever comes first converts, on each
    machine.
    """
    model.should_save_on_this_rank = lambda is_main_process: is_main_process
    try:
        yield
    finally:
        del model.should_save_on_this_rank


def convert_into(folder: Path, source: Source):
    """Convert a model into a folder of the cache, as a whole or not at all, and say so."""
    from .convert import convert

    if folder.exists():
        print(f"{folder} is damaged: {source.name} is converted again", file=sys.stderr)
    source.fetch_weights()
    conversion = convert(str(source.path))
    if conversion.processor is None:
        raise LoadError(
            f"{source.name!r} comes without a tokenizer and an image processor: put their files "
            "into its folder"
        )
    with saving(f"in {folder.parent}", WHERE), replaced_folder(folder) as part:
        with saved_by_any_process(conversion.converted):
            conversion.save(part)
        record = {
            "source": source.name,
            "identity": source.identity(),
            "peer": conversion.peer,
            "differences": conversion.differences,
            "files": {file.name: file.stat().st_size for file in sorted(part.iterdir())},
        }
        write_json(part / RECORD_FILE, record)
    print(
        f"{source.name} ({conversion.peer}) was converted; {conversion.describe_differences()}; "
        f"kept in {folder}",
        file=sys.stderr,
    )
