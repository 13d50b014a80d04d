"""What an index holds, in words and numbers."""

from pathlib import Path
from typing import Any

from .index import PictureIndex


def describe_index(path: str) -> dict[str, Any]:
    """Everything about an index that `clip-vit info` shows.

    Raises:
        PictureIndexError: there is no index, or it cannot be opened.
    """
    index = PictureIndex.open(path)
    settings, table = index.settings, index.table
    model = settings.model
    count = table.count_rows()
    unreadable = table.count_rows("error IS NOT NULL")
    facts: dict[str, Any] = {
        "kind": "index of pictures",
        "pictures": count - unreadable,
        "unreadable": unreadable,
        "sources": [f"{source.path} ({source.kind})" for source in settings.sources],
        "model": model.name,
        "model fingerprint": model.fingerprint,
        "embedding size": model.embedding_size,
        "image size": model.image_size,
        "logit scale": model.logit_scale,
        "logit bias": model.logit_bias,
        "languages": model.languages,
        "columns of your own": index.own_columns or None,
        "options": settings.options or None,
        "version of the table": table.version,
        "indexes": [f"{it.name} ({it.index_type})" for it in table.list_indices()] or None,
        "created": settings.created,
        "updated": settings.updated,
        "written with": settings.versions,
    }
    folder = index.place.folder
    if folder is not None:
        facts["size in MB"] = round(size_of(folder) / 1e6, 1)
    if unreadable:
        found = table.search().where("error IS NOT NULL").select(["id", "error"]).to_arrow()
        rows = found.sort_by("id").to_pylist()
        facts["cannot be read"] = {row["id"]: row["error"] for row in rows}
    return facts


def size_of(folder: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
