"""Which columns the page shows, and how they are filtered."""

from datetime import datetime

import pyarrow as pa
import pytest

from modeling_clip_vit.page.fields import choose_columns, describe_columns
from modeling_clip_vit.utils.errors import UserError

COLUMNS = ["id", "path", "taken", "latitude", "longitude", "artist"]


def describe(**columns):
    fields, values = describe_columns(pa.table(columns), list(columns))
    return {field.name: field.to_json() for field in fields}, values


def test_places_are_published_only_if_the_user_says_so():
    assert choose_columns(COLUMNS, None) == ["folder", "taken", "artist"]
    assert choose_columns(COLUMNS, ["latitude"]) == ["latitude"]


def test_a_column_that_is_none_is_refused_with_those_that_there_are():
    with pytest.raises(UserError, match="--columns has 'id', and can have folder, taken"):
        choose_columns(COLUMNS, ["id"])


def test_few_texts_are_chosen_from_and_many_are_searched_in():
    few, _ = describe(artist=["a", "b", None])
    many, _ = describe(artist=[str(number) for number in range(100)])
    assert few["artist"] == {"name": "artist", "kind": "category", "values": ["a", "b"]}
    assert many["artist"] == {"name": "artist", "kind": "text"}


def test_numbers_have_a_range_and_what_is_not_finite_is_missing():
    fields, values = describe(size=[1.5, float("nan"), 4.0, float("inf")])
    assert fields["size"] == {"name": "size", "kind": "number", "min": 1.5, "max": 4.0}
    assert values["size"] == [1.5, None, 4.0, None]


def test_dates_are_texts_that_sort_as_dates_do():
    fields, values = describe(taken=[datetime(2024, 5, 6, 7), datetime(2023, 1, 1), None])
    assert fields["taken"]["kind"] == "date"
    assert fields["taken"]["min"] == "2023-01-01T00:00:00"
    assert values["taken"] == ["2024-05-06T07:00:00", "2023-01-01T00:00:00", None]


def test_a_column_that_says_the_same_of_every_picture_is_left_out():
    fields, values = describe(artist=["a", "a"], other=pa.array([None, None], pa.string()))
    assert fields == {}
    assert values == {}


def test_lists_of_texts_are_joined_and_other_lists_left_out():
    _, values = describe(tags=[["red", "round"], None], numbers=[[1], [2]])
    assert values == {"tags": ["red, round", None]}


def test_folders_can_be_chosen_with_all_that_is_in_them():
    table = pa.table({"path": ["a/b/1.png", "a/2.png", "3.png"]})
    fields, values = describe_columns(table, ["folder"])
    assert fields[0].to_json() == {"name": "folder", "kind": "folder", "values": ["a", "a/b"]}
    assert values["folder"] == ["a/b", "a", None]
