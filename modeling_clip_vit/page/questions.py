"""What a page asks its server: which pictures match, and which label fits each.

Shape legend: `N` pictures, `P` projection, `C` labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.decoding import BadImageError, decode_image
from ..search.filters import (
    Compare,
    Condition,
    Like,
    Token,
    all_of,
    evaluate,
    literal,
    under_folder,
)
from ..search.query import MOST_CHARACTERS, EmbeddedQuery, Part, embed_query, parse_text
from ..search.rejection import LEAST_MARGIN, class_margins
from .collection import Collection, RequestError
from .placement import spread_evenly

#: Pictures of an answer, and terms of a question, at most.
MOST_HITS, MOST_TERMS = 1_000, 50
#: Labels of a classification, and pictures shown of each.
MOST_LABELS, PER_LABEL = 200, 12


def search(collection: Collection, question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a search.

    Args:
        collection: to search.
        question: `terms`, each with a `weight` and a `text`, an `id` of the index or a `vector`;
            `count`, the most hits; and `filters`. Without terms, pictures from all over the index.

    Raises:
        UserError: the question has another form, or cannot be answered.
    """
    count = question.get("count", 36)
    if not isinstance(count, int) or not 1 <= count <= MOST_HITS:
        raise RequestError(f"count is {count!r}, and can be 1 to {MOST_HITS}")
    terms, condition = question.get("terms", []), read_filters(collection, question)
    if not isinstance(terms, list) or len(terms) > MOST_TERMS:
        raise RequestError(f"terms must be a list of at most {MOST_TERMS}")
    if not terms:
        return browse(collection, count, condition)
    with collection.lock:
        query = embed_terms(collection, terms)
        found = collection.search(query, count, condition)
    hits = [
        {**collection.picture(hit.row), "score": hit.score, "fits": hit.fits} for hit in found.hits
    ]
    return {
        "hits": hits,
        "total": found.searched,
        "has_cut": any(hit.fits is not None for hit in found.hits),
        "fitting": sum(bool(hit.fits) for hit in found.hits),
    }


def search_text(collection: Collection, query: str, count: int) -> dict[str, Any]:
    """Answer a search for a text in the grammar of `clip-vit search`.

    Raises:
        UserError: the text cannot be searched for.
    """
    terms = [{"text": part.content, "weight": part.weight} for part in parse_text(query)]
    return search(collection, {"terms": terms, "count": count})


def browse(collection: Collection, count: int, condition: Condition | None) -> dict[str, Any]:
    """Pictures from all over the index."""
    rows = collection.contents.rows
    if condition is not None:
        rows = rows.filter(evaluate(condition, rows).fill_null(False))
    chosen = rows.take(spread_evenly(len(rows), count)) if len(rows) else rows
    hits = [collection.picture(row) for row in chosen.to_pylist()]
    return {"hits": hits, "total": len(rows), "has_cut": False}


def embed_terms(collection: Collection, terms: Sequence[Any]) -> EmbeddedQuery:
    """The query that the terms of a question make.

    Raises:
        UserError: a term has another form, or all terms only say what not to find.
    """
    parts, vectors = [], {}
    for place, term in enumerate(terms):
        weight = term.get("weight", 1) if isinstance(term, Mapping) else None
        if not isinstance(weight, int | float) or not 0 < abs(weight) < 1e6:
            raise RequestError("each of the terms must have a weight that is not 0")
        text = term.get("text")
        if isinstance(text, str) and text.strip():
            if len(text) > MOST_CHARACTERS:
                raise RequestError("longQuery")
            parts.append(Part(text, weight))
        else:
            vectors[str(place)] = vector_of(collection, term)
            parts.append(Part(str(place), weight, is_picture=True))
    if all(part.weight < 0 for part in parts):
        raise RequestError("onlyMinus")
    encoder = collection.search.text_encoder
    return embed_query(parts, encoder, lambda keys: np.stack([vectors[key] for key in keys]))


def vector_of(collection: Collection, term: Mapping[str, Any]) -> np.ndarray:
    """The vector of a term that is a picture: (P,).

    Raises:
        RequestError: it is not a picture of the index, nor a vector.
    """
    if isinstance(term.get("id"), str):
        row = collection.find_row(term["id"], is_vector_needed=True)
        return np.asarray(row["vector"], np.float32)
    size = collection.index.settings.model.embedding_size
    try:
        vector = np.asarray(term.get("vector"), np.float32)
    except (TypeError, ValueError):
        vector = np.zeros(0, np.float32)
    if vector.shape != (size,) or not abs(float(np.linalg.norm(vector)) - 1) < 1e-2:
        raise RequestError(f"a term must be a text, an id or a vector of {size} and length 1")
    return vector


def read_filters(collection: Collection, question: Mapping[str, Any]) -> Condition | None:
    """The condition of a question's filters; no value becomes part of a statement as text.

    Raises:
        RequestError: a filter has another form, or is of a column that the page does not show.
    """
    filters = question.get("filters", [])
    if not isinstance(filters, list) or not all(isinstance(it, Mapping) for it in filters):
        raise RequestError("filters must be a list of objects")
    conditions: list[Condition] = []
    for one in filters:
        name = one.get("name")
        if name not in collection.columns:
            shown = ", ".join(collection.columns)
            raise RequestError(f"there is no column {name!r} to filter by: there are {shown}")
        if name == "folder":
            conditions.append(under_folder(str(one.get("under", ""))))
        else:
            conditions += read_filter(name, one, collection.index.schema.field(name).type)
    return all_of(conditions)


def read_filter(name: str, one: Mapping[str, Any], kind: pa.DataType) -> list[Condition]:
    """The conditions of one filter.

    Raises:
        RequestError: the column cannot have such a value.
    """
    conditions: list[Condition] = []
    for part, sign in (("is", "=="), ("from", ">="), ("to", "<=")):
        if part in one:
            conditions.append(Compare(name, sign, read_value(name, one[part], kind)))
    if "contains" in one:
        conditions.append(Like(name, f"%{read_value(name, one['contains'], pa.string())}%"))
    return conditions


def read_value(name: str, value: Any, kind: pa.DataType) -> Any:
    """A value of JSON as one of a column.

    Raises:
        RequestError: the column cannot have such a value.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RequestError(f"{value!r} is no value of {name!r}")
    written = "number" if not isinstance(value, str) else "string"
    if pa.types.is_boolean(kind):
        written = "keyword"
    if pa.types.is_integer(kind) and isinstance(value, float):
        value = round(value)
    found = literal(Token(written, str(value), 0), kind)
    if found is None:
        raise RequestError(f"{value!r} is no value of {name!r}")
    return found


def classify(collection: Collection, labels: Any, rejects: bool = False) -> list[dict[str, Any]]:
    """Every picture under the label that fits best: how many, and the surest of each label.

    Args:
        collection: that the page shows.
        labels: as the visitor typed them.
        rejects: whether pictures that no label fits go into a group of their own, which is the
            last one and otherwise empty.

    Raises:
        RequestError: the labels are too few, too many or not texts, or the index is too large.
    """
    is_list = isinstance(labels, list) and all(isinstance(it, str) and it for it in labels)
    if not is_list or not 2 <= len(labels) <= MOST_LABELS:
        raise RequestError(f"labels must be 2 to {MOST_LABELS} texts")
    contents = collection.contents
    if contents.vectors is None:
        raise RequestError("tooLargeToSort")
    with collection.lock:
        texts_CP = collection.search.text_encoder([label[:MOST_CHARACTERS] for label in labels])
    best, shares = choose_labels(contents.vectors, texts_CP, collection.model["logit_scale"])
    if rejects:
        margins = class_margins(contents.vectors, texts_CP, collection.read_background())
        best = np.where(margins < LEAST_MARGIN, len(labels), best)
    groups = []
    for label in range(len(labels) + 1):
        rows = np.flatnonzero(best == label)
        chosen = rows[np.argsort(-shares[rows], kind="stable")[:PER_LABEL]]
        found = zip(contents.rows.take(chosen).to_pylist(), shares[chosen].tolist(), strict=True)
        pictures = [{**collection.picture(row), "share": share} for row, share in found]
        groups.append({"count": len(rows), "pictures": pictures})
    return groups


def choose_labels(
    pictures: np.ndarray, labels: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best label of each picture (N,), and its softmax probability (N,).

    Args:
        pictures: embeddings (N, P).
        labels: embeddings (C, P).
        scale: the factor on cosines that makes them logits.
    """
    logits_NC = scale * (pictures @ labels.T)
    logits_NC -= logits_NC.max(1, keepdims=True)
    return logits_NC.argmax(1), 1 / np.exp(logits_NC).sum(1)


def embed_upload(collection: Collection, content: bytes) -> list[float]:
    """The vector of a picture file.

    Raises:
        RequestError: it is not a picture, is damaged, or has too many pixels.
    """
    side = 2 * collection.preparation["image_size"]
    try:
        image = decode_image(content, least_side=side)
    except BadImageError as error:
        raise RequestError(f"the file is no picture that can be read: {error}") from error
    with collection.lock:
        [vector] = collection.search.image_encoder([image])
    return vector.tolist()
