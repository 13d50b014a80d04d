"""Which files of a folder go to the Hub, and which never do."""

import json
import shutil

import pytest

from modeling_clip_vit.hub.contents import read_contents
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY


def test_a_checkpoint_goes_up_whole(folder):
    contents = read_contents(folder)
    assert contents.kind.name == "checkpoint"
    assert contents.files == sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        "secret.env",
        "notes.txt",
        "train.py",
        "optimizer.bin",
        "data/train.parquet",
        "runs/events.out.tfevents.1",
        "checkpoints/step-2/model.safetensors",
        "step-2/progress.json",
        ".git/config",
    ],
)
def test_nothing_else_goes_up(folder, name):
    before = read_contents(folder).files
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("private")
    contents = read_contents(folder)
    assert contents.files == before
    assert name.split("/")[0] in [left.rstrip("/") for left in contents.left_out]


def test_a_checkpoint_to_resume_from_stays_even_within_the_folder(folder):
    before = read_contents(folder).files
    shutil.copytree(folder, folder / "step-2")
    (folder / "step-2" / "progress.json").write_text("{}")
    assert read_contents(folder).files == before


def test_code_that_the_configuration_does_not_name_stays(folder):
    (folder / "modeling_other.py").write_text("")
    assert "modeling_other.py" not in read_contents(folder).files
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModel"] = "modeling_other.Model"
    (folder / "config.json").write_text(json.dumps(config))
    assert "modeling_other.py" in read_contents(folder).files


def test_an_adapter_within_the_folder_goes_up(folder):
    (folder / "adapter").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt"):
        (folder / "adapter" / name).write_text("{}")
    added = [name for name in read_contents(folder).files if name.startswith("adapter/")]
    assert added == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]


def test_an_export_is_what_its_list_names(tmp_path):
    (tmp_path / "export.json").write_text(json.dumps({"files": {"text.onnx": {}}}))
    for name in ("text.onnx", "image.onnx", "README.md"):
        (tmp_path / name).write_text("")
    contents = read_contents(tmp_path)
    assert (contents.kind.name, contents.kind.repo_type) == ("export", "model")
    assert contents.files == ["README.md", "export.json", "text.onnx"]


def test_an_export_that_lacks_a_file_is_rejected(tmp_path):
    (tmp_path / "export.json").write_text(json.dumps({"files": {"text.onnx": {}}}))
    with pytest.raises(UserError, match=r"lacks text\.onnx"):
        read_contents(tmp_path)


def test_an_index_is_private_unless_told_otherwise(tmp_path):
    for name in ("index.json", "pictures.lance/data/a.lance", "model/text.onnx", "staging/b.arrow"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    contents = read_contents(tmp_path)
    assert (contents.kind.repo_type, contents.kind.is_private) == ("dataset", True)
    assert contents.files == ["index.json", "model/text.onnx", "pictures.lance/data/a.lance"]


def test_a_static_page_is_a_space(tmp_path):
    for name in ("index.html", "data/site.json", "vendor/a.mjs", ".git/config"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    contents = read_contents(tmp_path)
    assert contents.kind.repo_type == "space"
    assert contents.files == ["data/site.json", "index.html", "vendor/a.mjs"]


def test_a_dataset_goes_up_with_card_and_licences_and_without_its_script():
    contents = read_contents(REPOSITORY / "data" / "emoji")
    assert contents.kind.repo_type == "dataset"
    assert {"README.md", "README.zh-CN.md", "LICENSES.md"} <= set(contents.files)
    assert any(name.startswith("data/train") for name in contents.files)
    assert any(name.startswith("licenses/") for name in contents.files)
    assert "build.py" not in contents.files


def test_a_link_to_elsewhere_does_not_take_files_along(tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "a.png").write_bytes(b"")
    (tmp_path / "private.png").write_bytes(b"")
    (tmp_path / "dataset" / "b.png").symlink_to(tmp_path / "private.png")
    assert read_contents(tmp_path / "dataset").files == ["a.png"]


@pytest.mark.parametrize("text", ["hf_" + "a1B2" * 8, "my-own-token"])
def test_a_token_in_a_file_is_found_and_not_repeated(folder, monkeypatch, text):
    monkeypatch.setenv("HF_TOKEN", "my-own-token")
    (folder / "README.md").write_text(f"curl -H 'Authorization: Bearer {text}'")
    with pytest.raises(UserError, match=r"README\.md' contains a token") as error:
        read_contents(folder)
    assert text not in str(error.value)


@pytest.mark.parametrize(
    ("name", "sentence"), [("nowhere", "no folder"), ("empty", "nothing that can be uploaded")]
)
def test_what_cannot_be_uploaded_is_one_sentence(tmp_path, name, sentence):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        read_contents(tmp_path / name)
