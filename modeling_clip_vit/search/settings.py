"""`index.json`: what an index was made from and with."""

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from ..utils.errors import UserError
from .place import IndexPlace

#: Of the layout of an index; a newer one is refused.
FORMAT_VERSION = 1
SETTINGS_FILE = "index.json"


class PictureIndexError(UserError):
    """An index that cannot be made or used; the message is one clear sentence."""


@dataclass
class IndexModel:
    """The model that made the vectors of an index.

    Args:
        name: what it was called on the command line.
        fingerprint: of its weights and its preparation of images and texts.
        embedding_size: P, numbers of a vector.
        logit_scale: the factor on cosines that makes them logits.
        logit_bias: what is added to logits; None for a softmax model.
        image_size: S, side of the square images that it takes, in pixels.
        languages: that it was trained on, if it says so.
    """

    name: str
    fingerprint: str
    embedding_size: int
    logit_scale: float
    logit_bias: float | None
    image_size: int
    languages: list[str] | None = None


@dataclass
class IndexSource:
    """Where pictures of an index come from.

    Args:
        path: of the folder or dataset.
        kind: `files`, or `dataset` for everything that is read row by row.
        options: how it is read; of a dataset also the state of its files, when all was indexed.
    """

    path: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The `root` of its rows."""
        return self.options.get("root", self.path)


@dataclass
class IndexSettings:
    """The content of `index.json`.

    Args:
        model: that made the vectors.
        sources: where the pictures come from.
        options: of the index as a whole.
        versions: packages -> versions that wrote it last.
        created, updated: dates, ISO 8601 in UTC.
        version: of the layout.
    """

    model: IndexModel
    sources: list[IndexSource] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    updated: str = ""
    version: int = FORMAT_VERSION

    def find_source(self, path: str) -> IndexSource | None:
        """The source of this path; None if it has not been indexed."""
        return next((source for source in self.sources if source.path == path), None)


def read_settings(place: IndexPlace) -> IndexSettings:
    """Read the settings of an index.

    Raises:
        PictureIndexError: there is no index, it is damaged, or a newer version wrote it.
    """
    content = place.read(SETTINGS_FILE)
    if content is None:
        raise PictureIndexError(
            f"there is no index in {place.name!r}: make one with clip-vit index CHECKPOINT IMAGES "
            f"{place.name}"
        )
    try:
        found = json.loads(content)
        version = int(found["version"])
        if version > FORMAT_VERSION:
            raise PictureIndexError(
                f"the index {place.name!r} has version {version}, and this clip-vit reads up to "
                f"{FORMAT_VERSION}: install a newer one"
            )
        model = IndexModel(**known(IndexModel, found["model"]))
        sources = [IndexSource(**known(IndexSource, source)) for source in found["sources"]]
        rest = known(IndexSettings, found) | {"model": model, "sources": sources}
        return IndexSettings(**rest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, PictureIndexError):
            raise
        raise PictureIndexError(
            f"{place.name!r} is no index: its {SETTINGS_FILE} was not written by clip-vit index"
        ) from error


def known(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a dataclass's fields, without those of later versions."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def write_settings(place: IndexPlace, settings: IndexSettings):
    """Write the settings of an index, as a whole or not at all, with the present date."""
    settings.updated = datetime.now(UTC).isoformat(timespec="seconds")
    settings.created = settings.created or settings.updated
    content = json.dumps(asdict(settings), indent=2, ensure_ascii=False, allow_nan=False)
    place.write(SETTINGS_FILE, (content + "\n").encode())
