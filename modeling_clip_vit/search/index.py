"""An index of pictures: one folder or prefix of an object store, opened and made.

Shape legend: `P` projection, the embedding.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from ..data.decoding import BadImageError, decode_transparent
from ..utils.hub_ids import is_hub_id
from ..utils.packages import require
from .encoders import ImageEncoder, TextEncoder
from .formats import decode_still
from .place import IndexPlace
from .rows import read_picture
from .schema import RESERVED_NAMES, TABLE, table_schema
from .settings import (
    IndexModel,
    IndexSettings,
    PictureIndexError,
    read_settings,
    write_settings,
)

#: The folder with the model, as `clip-vit export --format onnx` writes it.
MODEL_FOLDER = "model"
#: The folder of shards that are not in the table yet.
STAGING_FOLDER = "staging"


class PictureIndex:
    """An index of pictures, by its settings; the table is opened when it is needed.

    Use `PictureIndex.open` or `PictureIndex.create`.

    Args:
        place: where it lies.
        settings: the content of its index.json.
    """

    def __init__(self, place: IndexPlace, settings: IndexSettings):
        self.place, self.settings = place, settings

    @classmethod
    def open(cls, path: str | Path) -> "PictureIndex":
        """An index that is there.

        Args:
            path: a folder, a URL such as `s3://bucket/photos`, or `user/name` of an index on the
                Hub, which is downloaded into its cache.

        Raises:
            UserError: there is none, it is damaged, or a newer version wrote it.
        """
        place = IndexPlace(str(path))
        if place.folder is not None and is_hub_id(place.name) and not place.folder.exists():
            from .published import download_index

            place = IndexPlace(str(download_index(place.name)))
        return cls(place, read_settings(place))

    @classmethod
    def create(
        cls, path: str | Path, model: IndexModel, model_folder: Path, **settings: Any
    ) -> "PictureIndex":
        """Make an index without pictures; index.json is written last.

        Args:
            path: a folder that may exist, or a URL.
            model: what is written about the model.
            model_folder: what `clip-vit export --format onnx` wrote of both towers.
            settings: other fields of `IndexSettings`.
        """
        place = IndexPlace(str(path))
        index = cls(place, IndexSettings(model, **settings))
        place.write_folder(MODEL_FOLDER, model_folder)
        index.database.create_table(
            TABLE, schema=table_schema(model.embedding_size), mode="overwrite"
        )
        write_settings(place, index.settings)
        return index

    @property
    def name(self) -> str:
        """What the index is called in messages: its path or URL."""
        return self.place.name

    @cached_property
    def database(self) -> Any:
        """LanceDB's connection."""
        require(("lancedb",), "search", "an index of pictures")
        # It warns of every table that it makes, and of queries without distances.
        for variable in ("LANCE_LOG", "LANCEDB_LOG"):
            os.environ.setdefault(variable, "error")
        import lancedb

        return lancedb.connect(self.place.uri, storage_options=self.place.storage_options)

    @cached_property
    def table(self) -> Any:
        """LanceDB's table of pictures.

        Raises:
            PictureIndexError: it is not there, or damaged.
        """
        database = self.database
        try:
            return database.open_table(TABLE)
        except (ValueError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0][:200]
            raise PictureIndexError(
                f"the table of {self.name!r} cannot be opened: {reason}"
            ) from error

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table with their types."""
        return self.table.schema

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return self.schema.names

    @property
    def own_columns(self) -> list[str]:
        """The names of the columns that the user chose."""
        return [name for name in self.columns if name not in RESERVED_NAMES]

    def add_columns(self, types: Mapping[str, pa.DataType]):
        """Add columns of the user's choice, null in all rows.

        Args:
            types: name -> type; columns that are there already stay as they are.
        """
        new = [pa.field(name, kind) for name, kind in types.items() if name not in self.columns]
        if new:
            self.table.add_columns(new)

    @cached_property
    def model_folder(self) -> Path:
        """The model of the index on this machine."""
        return self.place.local_folder(MODEL_FOLDER, self.settings.model.fingerprint)

    def text_encoder(self, threads: int | None = None) -> TextEncoder:
        """What embeds texts, without torch: a list of strings to float32 (N, P)."""
        return TextEncoder(self.model_folder, threads)

    def image_encoder(self, threads: int | None = None) -> ImageEncoder:
        """What embeds RGB images of any size, without torch: a list to float32 (N, P)."""
        return ImageEncoder(self.model_folder, threads)

    def check_model(self, name: str, fingerprint: str):
        """Refuse a model that did not make the vectors of this index.

        Args:
            name: of the model, for the message.
            fingerprint: of the model.

        Raises:
            PictureIndexError: it is another one; the message names both.
        """
        ours = self.settings.model
        if fingerprint != ours.fingerprint:
            raise PictureIndexError(
                f"the index {self.name!r} was made with {ours.name!r} ({ours.fingerprint[:12]}), "
                f"and {name!r} ({fingerprint[:12]}) is another model, whose vectors cannot be "
                "compared with its own: use that model, or make an index of its own"
            )

    def picture_bytes(self, row: Mapping[str, Any]) -> bytes:
        """The image file of a row, encoded.

        Args:
            row: with `id`, `path`, `root` and `time`.

        Raises:
            PictureIndexError: it is not there any more, or lies outside its root.
        """
        return read_picture(row, self.settings.sources)

    def open_picture(
        self, row: Mapping[str, Any], least_side: int = 0, is_clear_kept: bool = False
    ) -> Image.Image:
        """The picture of a row in RGB, upright.

        Args:
            row: as for `picture_bytes`.
            least_side: a JPEG may come smaller, as long as its shorter side keeps this length.
            is_clear_kept: whether a picture with transparent parts comes in RGBA, instead of on
                white.

        Raises:
            PictureIndexError: it is not there any more, or cannot be decoded.
        """
        content = self.picture_bytes(row)
        clear = decode_transparent(content) if is_clear_kept else None
        if clear is not None:
            return clear
        suffix = "" if row.get("time") is not None else Path(row["path"]).suffix.lower()
        try:
            return decode_still(content, suffix, least_side)
        except BadImageError as error:
            raise PictureIndexError(f"{row['id']!r} cannot be decoded: {error}") from error
