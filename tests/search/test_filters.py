"""Filters mean the same here and in LanceDB, and what is none is named."""

import itertools
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from modeling_clip_vit.search.filters import (
    FilterError,
    all_of,
    evaluate,
    parse_filter,
    since,
    to_sql,
    under_folder,
)

START = datetime(2024, 1, 1)


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Rows with every kind of column, some values missing, and awkward texts."""
    number = range(60)
    cameras = ["x", "it's", 'say "hi"', "100%", "a_b", None]
    folders = ["2024", "2024/may", "2024x", "it's", "100%"]
    days = [START + timedelta(days=10 * n) if n % 4 else None for n in number]
    return pa.table(
        {
            "id": [str(n) for n in number],
            "path": [f"{folders[n % 5]}/{n}.jpg" for n in number],
            "camera": [cameras[n % 6] for n in number],
            "width": pa.array([None if n % 7 == 0 else n for n in number], pa.int32()),
            "perceptual_hash": pa.array([9 * 10**18 - 5 + n for n in number], pa.uint64()),
            "latitude": pa.array([None if n % 5 == 0 else n / 2 - 9 for n in number]),
            "taken": pa.array(days, pa.timestamp("us")),
            "modified": pa.array(
                [(START + timedelta(days=10 * n)).replace(tzinfo=UTC) for n in number],
                pa.timestamp("us", "UTC"),
            ),
            "kept": pa.array([None if n % 9 == 0 else n % 2 == 0 for n in number]),
            "my column": [f"v{n % 3}" for n in number],
            "tags": [["a"] for _ in number],
        }
    )


@pytest.fixture(scope="module")
def table(rows, tmp_path_factory):
    return lancedb.connect(tmp_path_factory.mktemp("lance")).create_table("rows", rows)


FILTERS = [
    "camera = 'x'",
    "camera = 'x' and taken > '2024-06-01'",
    "camera = 'it''s' or camera = 'say \"hi\"'",
    "NOT (camera = 'x')",
    "not camera = 'x' and width >= 20",
    "camera = 'x' or width < 10 and latitude > 0",
    "(camera = 'x' or width < 10) and latitude > 0",
    "camera is null",
    "camera IS NOT NULL and kept = true",
    "kept = false or kept is null",
    "width in (3, 5, 8)",
    "width not in (3, 5, 8)",
    "width between 10 and 20",
    "latitude > 12",
    "width <> 12",
    "width != -1",
    "latitude between -5 and 2.5",
    "latitude < 1e0",
    "perceptual_hash > 9000000000000000000",
    "taken between '2024-06-01' and '2024-12-31 23:59'",
    "taken < date '2024-06-01'",
    "modified >= timestamp '2024-06-01T00:00:00Z'",
    "path like '2024/%'",
    "path not like '%.jpg'",
    "camera like '100\\%'",
    "camera like 'a_b'",
    "`my column` = 'v1'",
    "\"my column\" = 'v2' AND Width > 3",
]


@pytest.mark.parametrize("text", FILTERS)
def test_a_filter_lets_through_what_it_lets_through_in_lancedb(text, rows, table):
    condition = parse_filter(text, rows.schema)
    mask = evaluate(condition, rows).fill_null(False).to_numpy()
    expected = table.search().where(to_sql(condition)).select(["id"]).to_arrow()["id"]
    assert sorted(np.array(rows["id"])[mask]) == sorted(expected.to_pylist())


def test_the_filters_of_this_test_let_something_through_and_not_everything(rows):
    for text in FILTERS:
        mask = evaluate(parse_filter(text, rows.schema), rows).fill_null(False).to_numpy()
        assert mask.any() != (text in ("path not like '%.jpg'",)), text
        assert not mask.all() or text in ("width != -1",), text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it is empty"),
        ("colour = 'x'", "there is no column 'colour'"),
        ("camera", "a comparison is missing after the column 'camera'"),
        ("camera =", "not with the end"),
        ("camera = 3", "'camera' is compared with a string in single quotes, not with '3'"),
        ("width = 'x'", "'width' is compared with a whole number, not with 'x'"),
        ("width = 1.5", "'width' is compared with a whole number, not with '1.5'"),
        ("taken > 'yesterday'", "'taken' is compared with a date such as"),
        (
            "width > 1000000000000",
            "'width' is compared with a whole number, not with '1000000000000'",
        ),
        ("kept = 1", "'kept' is compared with true or false"),
        ("camera = 'x'; drop table pictures", "'; drop table picture' is not expected there"),
        ("camera = 'x' camera = 'y'", "'camera' is not expected there"),
        ("(camera = 'x'", "'\\)' is missing before the end"),
        ("camera = 'x", "is not expected there"),
        ("camera = (select 1)", "not with '\\('"),
        ("1 = 1", "a column is missing before '1'"),
        ("tags = 'a'", "there is no column 'tags'"),
        ("width like '1%'", "compared with a whole number"),
        ("camera is x", "'NULL' is missing before 'x'"),
    ],
)
def test_what_is_no_filter_ends_in_one_sentence_with_the_columns(text, sentence, rows):
    with pytest.raises(FilterError, match=sentence) as error:
        parse_filter(text, rows.schema)
    assert "the columns are id, path, camera, width" in str(error.value)
    assert "tags" not in str(error.value).partition("the columns are")[2]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["2024", "2024/", "./2024".removeprefix("./"), "it's", "100%"])
def test_under_a_folder_are_its_files_and_those_of_its_sub_folders(folder, rows):
    mask = evaluate(under_folder(folder), rows).to_numpy()
    paths = np.array(rows["path"])
    expected = [path.startswith(folder.rstrip("/") + "/") for path in paths]
    assert mask.tolist() == expected
    assert any(expected)


@pytest.mark.parametrize("folder", ["", ".", "/"])
def test_under_names_a_folder(folder):
    with pytest.raises(FilterError, match="names no folder below"):
        under_folder(folder)


def test_since_a_date_is_by_the_camera_or_else_by_the_file(rows):
    mask = evaluate(since("2024-12-01"), rows).fill_null(False).to_numpy()
    local = [when.astimezone().replace(tzinfo=None) for when in rows["modified"].to_pylist()]
    dates = [taken or file for taken, file in zip(rows["taken"].to_pylist(), local, strict=True)]
    assert mask.tolist() == [date >= datetime(2024, 12, 1) for date in dates]
    assert 0 < mask.sum() < len(mask)


def test_a_time_span_ends_now(rows):
    now = datetime.now(UTC).replace(tzinfo=None)
    recent = pa.table(
        {
            "taken": pa.array([now - timedelta(days=d) for d in (1, 5, 20)], pa.timestamp("us")),
            "modified": pa.array([None] * 3, pa.timestamp("us", "UTC")),
        }
    )
    counts = [evaluate(since(s), recent).to_numpy().sum() for s in ("3d", "1w", "6m", "2y")]
    assert counts == [1, 2, 3, 3]


@pytest.mark.parametrize("text", ["yesterday", "", "3", "2024-13-01", "3 fortnights"])
def test_since_something_else_is_rejected(text):
    with pytest.raises(FilterError, match="is not a date: write one such as 2024-01-31"):
        since(text)


def test_conditions_together_are_all_true(rows):
    parts = [
        parse_filter(text, rows.schema) for text in ("width > 5", "camera = 'x'", "kept = true")
    ]
    masks = [evaluate(part, rows).fill_null(False).to_numpy() for part in parts]
    whole = evaluate(all_of(parts), rows).fill_null(False).to_numpy()
    assert whole.tolist() == np.logical_and.reduce(masks).tolist()
    assert all_of([]) is None


def test_any_text_is_a_filter_or_one_sentence(rows):
    pieces = ["camera", "=", "'x'", "and", "(", ")", "not", "width", "3", "is null", "in", ","]
    for words in itertools.product(pieces, repeat=4):
        with suppress(FilterError):
            parse_filter(" ".join(words), rows.schema)
