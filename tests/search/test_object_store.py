"""An index in an object store."""

import pytest

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.settings import PictureIndexError
from tests.support.indexes import make_index, rows_of, write_pictures

pytestmark = pytest.mark.slow


def test_an_index_in_an_object_store_is_that_of_a_folder(tmp_path, exported, object_store):
    pictures = tmp_path / "pictures"
    write_pictures(pictures)
    local = make_index(exported, pictures, tmp_path / "local")
    stored = make_index(exported, pictures, "s3://bucket/index")
    assert rows_of(stored) == rows_of(local)
    assert (stored.text_encoder()(["red"]) == local.text_encoder()(["red"])).all()
    (pictures / "b/000 red.png").unlink()
    assert main(["index", str(exported), str(pictures), "s3://bucket/index"]) == 0
    assert len(rows_of(stored)) == 7


def test_where_an_object_store_has_no_index_one_is_told_so(object_store):
    with pytest.raises(PictureIndexError, match="there is no index in 's3://bucket/nothing'"):
        PictureIndex.open("s3://bucket/nothing")
