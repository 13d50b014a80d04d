"""The server of the page, as a process of its own."""

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

import pytest
from PIL import Image

from modeling_clip_vit.page.serve_command import run_serve
from modeling_clip_vit.search.engine import PictureSearch
from modeling_clip_vit.search.index_command import run_index
from modeling_clip_vit.utils.errors import UserError
from tests.support.pictures import encode
from tests.support.processes import kill

from .conftest import HOSTILE_NAME

pytestmark = pytest.mark.slow


@contextmanager
def serving(index: str, *options: str) -> Iterator[str]:
    """The address of a server of an index, as it prints it."""
    command = [sys.executable, "-m", "clip_vit", "serve", index, "--port", "0", "--threads", "1"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield re.search(r"http://\S+", line)[0]
    finally:
        kill(process)


@pytest.fixture(scope="module")
def own_index(tmp_path_factory, picture_index) -> str:
    """A copy of the index, which a test may change."""
    folder = tmp_path_factory.mktemp("served") / "pictures.index"
    shutil.copytree(picture_index.name, folder)
    return str(folder)


@pytest.fixture(scope="module")
def served(own_index) -> Iterator[str]:
    with serving(own_index, "--upload_limit", "1") as address:
        yield address


def ask(address: str, content=None, **headers) -> dict:
    """The answer to a question; content that is no bytes is sent as JSON."""
    data = content if isinstance(content, bytes | None) else json.dumps(content).encode()
    request = urllib.request.Request(address, data, headers)
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read())


def refusal(address: str, content=None, **headers) -> tuple[int, str]:
    """The status and the sentence of an answer that is an error."""
    with pytest.raises(HTTPError) as error:
        ask(address, content, **headers)
    body = error.value.read().decode()
    return error.value.code, json.loads(body)["error"] if body.startswith("{") else body


def ids(found: dict) -> list[str]:
    return [hit["key"] for hit in found["hits"]]


@pytest.mark.parametrize("query", ["a cat", "一只猫", "2:dog - .5:cat"])
def test_a_query_finds_what_the_command_finds(served, picture_index, query):
    search = PictureSearch(picture_index)
    expected = search(search.embed(query), top_k=10).hits
    found = ask(f"{served}search?{urlencode({'q': query, 'count': 10})}")
    assert ids(found) == [hit.row["id"] for hit in expected]
    assert [hit["fits"] for hit in found["hits"]] == [hit.fits for hit in expected]


def test_a_picture_is_searched_with_by_its_id_and_as_an_upload(served, pictures):
    name = "drawings/007.webp"
    by_id = ask(f"{served}search", {"terms": [{"id": name, "weight": 1}], "count": 5})
    vector = ask(f"{served}embed", (pictures / name).read_bytes())["vector"]
    by_upload = ask(f"{served}search", {"terms": [{"vector": vector}], "count": 5})
    assert ids(by_id)[0] == name
    assert ids(by_id) == ids(by_upload)


def test_filters_leave_out_the_rest(served):
    filters = [{"name": "folder", "under": "photos"}]
    found = ask(f"{served}search", {"terms": [{"text": "a cat"}], "filters": filters})
    assert found["total"] == 3
    assert all(key.startswith("photos/") for key in ids(found))


@pytest.mark.parametrize("value", ["' OR '1'='1", "x'; DROP TABLE pictures; --", '"', "\\", "%"])
def test_the_text_of_a_filter_is_a_value_and_no_statement(served, value):
    filters = [{"name": "camera", "is": value}]
    found = ask(f"{served}search", {"terms": [{"text": "a cat"}], "filters": filters})
    assert found["hits"] == []


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        (b"no json", "a question must be an object in JSON"),
        ({"terms": [{"text": "a", "weight": -1}]}, "onlyMinus"),
        ({"terms": [{"text": "a" * 2001}]}, "longQuery"),
        ({"terms": [{"vector": [1, 2]}]}, "a term must be a text, an id or a vector of 16"),
        ({"terms": [{"id": "../secret.png"}]}, "there is no such picture in the index"),
        ({"filters": [{"name": "root", "is": "x"}]}, "there is no column 'root' to filter by"),
        ({"filters": [{"name": "taken", "from": "soon"}]}, "'soon' is no value of 'taken'"),
        ({"count": 10**9}, "count is 1000000000, and can be 1 to 1000"),
    ],
)
def test_a_question_that_is_none_is_refused_in_a_sentence(served, question, sentence):
    status, found = refusal(f"{served}search", question)
    assert status == 400
    assert sentence in found


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"no picture", 400, "the file is no picture that can be read"),
        (b"", 400, "the file is no picture that can be read"),
        (b"\0" * 1_000_001, 413, "a picture may have at most 1 MB"),
        (encode(Image.new("1", (20_000, 20_000))), 400, "pixels"),
    ],
    ids=["text", "empty", "huge", "bomb"],
)
def test_an_upload_that_is_no_picture_is_refused_in_a_sentence(served, content, status, sentence):
    found = refusal(f"{served}embed", content)
    assert found[0] == status
    assert sentence in found[1]


def test_a_picture_is_sent_as_it_is_and_in_ranges(served, pictures):
    name = f"photos/{HOSTILE_NAME}"
    content = (pictures / name).read_bytes()
    address = f"{served}picture?id={quote(name)}"
    with urllib.request.urlopen(address) as response:
        assert response.read() == content
        assert response.headers["Content-Type"] == "image/png"
        assert "immutable" in response.headers["Cache-Control"]
    part = urllib.request.Request(address, headers={"Range": "bytes=5-19"})
    with urllib.request.urlopen(part) as response:
        assert response.status == 206
        assert response.read() == content[5:20]


@pytest.mark.parametrize(
    "path",
    [
        "picture?id=../../etc/passwd",
        "picture?id=/etc/passwd",
        "thumbnail?id=photos/../../x.png",
        "model/../index.json",
        "model/%2e%2e/index.json",
        "vendor/../server.py",
        "%2e%2e/server.py",
        "vendor/..%2f..%2fserver.py",
    ],
)
def test_no_path_leads_out_of_the_collection(served, path):
    status, sentence = refusal(served + path)
    assert status in (400, 404)
    assert "root:" not in sentence


def test_a_link_out_of_the_collection_is_not_followed(tmp_path, exported, pictures):
    folder, secret = tmp_path / "pictures", tmp_path / "secret.png"
    folder.mkdir()
    shutil.copy(pictures / "photos" / HOSTILE_NAME, folder / "a.png")
    index = str(tmp_path / "index")
    run_index([str(exported), str(folder), index, "--threads", "1"])
    Image.new("RGB", (8, 8)).save(secret)
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(secret)
    with serving(index) as address:
        status, sentence = refusal(f"{address}picture?id=a.png")
        assert status == 400
        assert "lies outside the collection" in sentence
        assert str(tmp_path) not in sentence


def test_a_page_of_another_name_for_this_machine_is_refused(served):
    # A page of another host cannot make its name mean this machine and read the answers.
    status, _ = refusal(f"{served}data/site.json", Host="evil.example")
    assert status == 400


def test_pictures_that_are_indexed_meanwhile_are_found(served, own_index, exported, pictures):
    before = ask(f"{served}data/site.json")["count"]
    new = pictures / "drawings" / "new.png"
    Image.effect_noise((50, 50), 70).convert("RGB").save(new)
    try:
        run_index([str(exported), str(pictures), own_index, "--threads", "1"])
        assert ask(f"{served}data/site.json")["count"] == before + 1
        terms = [{"id": "drawings/new.png"}]
        assert ids(ask(f"{served}search", {"terms": terms}))[0] == "drawings/new.png"
    finally:
        new.unlink()
        run_index([str(exported), str(pictures), own_index, "--threads", "1"])


def test_labels_share_out_all_pictures(served):
    groups = ask(f"{served}classify", {"labels": ["a cat", "a house", "食物"]})["groups"]
    assert sum(group["count"] for group in groups) == ask(f"{served}data/site.json")["count"]
    for group in groups:
        shares = [picture["share"] for picture in group["pictures"]]
        assert shares == sorted(shares, reverse=True)
        assert all(1 / 3 <= share <= 1 for share in shares)


def test_pictures_that_no_label_fits_are_a_group_of_their_own(served):
    labels = ["a cat", "a house", "食物"]
    plain, kept = (
        ask(f"{served}classify", {"labels": labels, "rejects": rejects})["groups"]
        for rejects in (False, True)
    )
    assert len(plain) == len(kept) == 4
    assert plain[-1]["count"] == 0 < kept[-1]["count"]
    assert sum(it["count"] for it in plain) == sum(it["count"] for it in kept)
    assert all(fewer["count"] <= all["count"] for fewer, all in zip(kept[:3], plain, strict=False))


def test_only_who_has_the_token_is_answered(own_index):
    with serving(own_index, "--token", "let-me-in") as address:
        plain = address.partition("?")[0]
        assert refusal(f"{plain}data/site.json")[0] == 401
        assert refusal(f"{plain}data/site.json", Cookie="clip_vit_token=wrong")[0] == 401
        assert ask(f"{plain}data/site.json", Authorization="Bearer let-me-in")["count"]
        visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with visitor.open(address) as response:
            assert response.url == plain
        assert json.loads(visitor.open(f"{plain}data/site.json").read())["count"]


def test_a_port_in_use_is_refused_in_a_sentence(own_index):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on port {port}.*--port"):
            run_serve([own_index, "--port", str(port)])


def test_a_folder_that_is_no_index_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no index in"):
        run_serve([str(tmp_path)])


def test_the_page_works_on_the_server(served, shared_browser, emoji):
    window = shared_browser
    window.errors()
    window.open(served)
    window.search("a cat")
    expected = ids(ask(f"{served}search?q=a+cat"))
    assert window.texts("#search-view .title") == [Path(key).name for key in expected]
    window.click("#search-view .card")
    window.click("#why")
    window.wait("return document.querySelector('.reason[data-done]')")
    window.click("#picture .close")
    window.drop("mine.webp", emoji[7]["image"]["bytes"], "image/webp")
    window.wait("return document.querySelector('#terms img')")
    window.click("a[data-view=map]")
    window.wait("return Number(document.querySelector('canvas')?.dataset.painted) > 100")
    window.click("a[data-view=labels]")
    window.click(".labels .main")
    window.wait("return document.querySelector('#sorted .group')")
    assert window.errors() == []
