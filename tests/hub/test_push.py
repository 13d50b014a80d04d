"""Uploading to a Hub on this machine over HTTP, with the real client."""

import hashlib
import os
import subprocess
import sys
import textwrap
import time

import pytest
from huggingface_hub import HfApi, constants, snapshot_download

from modeling_clip_vit.cli import main
from modeling_clip_vit.hub.contents import read_contents
from tests.support import REPOSITORY

REPO = "user/squares"


def digest(folder) -> dict[str, str]:
    """Name -> hash of every file of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_what_goes_up_is_listed_and_arrives_byte_for_byte(hub, folder, tmp_path, capsys):
    (folder / ".env").write_text("PASSWORD=1")
    assert main(["push", str(folder), REPO]) == 0
    printed = capsys.readouterr().out
    assert hub.store.names("model", REPO) == read_contents(folder).files
    assert all(f"  {name}  (" in printed for name in hub.store.names("model", REPO))
    snapshot_download(REPO, local_dir=tmp_path / "copy")
    copied = digest(tmp_path / "copy")
    assert {name: copied[name] for name in read_contents(folder).files} == {
        name: value for name, value in digest(folder).items() if name != ".env"
    }


def test_all_files_are_one_commit(hub, folder):
    assert main(["push", str(folder), REPO]) == 0
    titles = [commit.title for commit in hub.store.repositories["model", REPO].history("main")]
    assert titles == ["Upload a checkpoint (clip-vit)", "initial commit"]


def test_a_dry_run_sends_nothing(hub, folder, capsys):
    assert main(["push", str(folder), REPO, "--dry_run"]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert hub.requests == []


def test_what_has_not_changed_makes_no_commit(hub, folder, capsys):
    assert main(["push", str(folder), REPO]) == 0
    assert main(["push", str(folder), REPO]) == 0
    assert "nothing has changed" in capsys.readouterr().out
    assert len(hub.store.repositories["model", REPO].commits) == 2


def test_only_what_changed_is_sent_again(hub, folder):
    assert main(["push", str(folder), REPO]) == 0
    (folder / "README.md").write_text("# Mine\n")
    hub.requests.clear()
    assert main(["push", str(folder), REPO]) == 0
    assert hub.asked("PUT", "") == []
    assert hub.store.read("model", REPO, "README.md") == b"# Mine\n"


@pytest.mark.parametrize(("options", "private"), [([], False), (["--private"], True)])
def test_a_repository_is_public_unless_told_otherwise(hub, folder, options, private):
    assert main(["push", str(folder), REPO, *options]) == 0
    assert hub.store.repositories["model", REPO].private is private


def test_a_name_alone_is_the_users(hub, folder):
    assert main(["push", str(folder), "squares"]) == 0
    assert ("model", REPO) in hub.store.repositories


def test_a_branch_leaves_main_alone(hub, folder):
    assert main(["push", str(folder), REPO, "--branch", "v2"]) == 0
    assert "model.safetensors" in hub.store.names("model", REPO, "v2")
    assert hub.store.names("model", REPO) == []


def test_a_pull_request_changes_nothing(hub, folder, capsys):
    hub.store.create("model", REPO, False, {})
    assert main(["push", str(folder), REPO, "--create_pr"]) == 0
    assert f"{REPO}/discussions/1" in capsys.readouterr().out
    assert hub.store.names("model", REPO) == []
    assert "model.safetensors" in hub.store.names("model", REPO, "refs/pr/1")


def test_who_may_only_read_can_propose(hub, folder, monkeypatch):
    hub.store.create("model", REPO, False, {})
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert main(["push", str(folder), REPO]) == 1
    assert main(["push", str(folder), REPO, "--create_pr"]) == 0


def test_a_dataset_comes_with_its_card(hub):
    assert main(["push", "data/digits", "user/digits"]) == 0
    names = hub.store.names("dataset", "user/digits")
    assert "README.md" in names
    assert any(name.endswith(".parquet") for name in names)


def test_a_page_is_a_static_space(hub, tmp_path):
    site = tmp_path / "site"
    (site / "data").mkdir(parents=True)
    (site / "index.html").write_text("<p>")
    (site / "data" / "site.json").write_text("{}")
    assert main(["push", str(site), "user/page"]) == 0
    assert hub.store.repositories["space", "user/page"].request["sdk"] == "static"


def test_what_a_page_has_no_longer_goes_from_the_hub(hub, tmp_path):
    site = tmp_path / "site"
    (site / "data").mkdir(parents=True)
    for name in ("index.html", "data/site.json", "data/old.webp"):
        (site / name).write_text(name)
    assert main(["push", str(site), "user/page"]) == 0
    (site / "data" / "old.webp").unlink()
    assert main(["push", str(site), "user/page"]) == 0
    assert hub.store.names("space", "user/page") == ["data/site.json", "index.html"]


# What is on the Hub and would be lost


def push_then_edit(hub, folder):
    """Upload a folder, let somebody edit the card on the Hub, and change the local one."""
    (folder / "README.md").write_text("# Mine\n")
    assert main(["push", str(folder), REPO]) == 0
    hub.store.write("model", REPO, {"README.md": b"# Theirs\n"}, "Update README.md")
    (folder / "README.md").write_text("# Mine, again\n")


def test_an_edit_on_the_hub_is_not_overwritten(hub, folder, capsys):
    push_then_edit(hub, folder)
    assert main(["push", str(folder), REPO]) == 1
    error = capsys.readouterr().err
    assert "README.md on the Hub would be overwritten" in error
    assert "Update README.md" in error
    assert hub.store.read("model", REPO, "README.md") == b"# Theirs\n"


def test_force_overwrites_it(hub, folder):
    push_then_edit(hub, folder)
    assert main(["push", str(folder), REPO, "--force"]) == 0
    assert hub.store.read("model", REPO, "README.md") == b"# Mine, again\n"


def test_an_edit_of_what_is_not_uploaded_stays(hub, folder):
    assert main(["push", str(folder), REPO]) == 0
    hub.store.write("model", REPO, {"notes.md": b"theirs"}, "Add notes")
    (folder / "README.md").write_text("# Mine\n")
    assert main(["push", str(folder), REPO]) == 0
    assert hub.store.read("model", REPO, "notes.md") == b"theirs"


def test_an_older_folder_does_not_replace_a_newer_upload(hub, folder, tmp_path, capsys):
    (folder / "README.md").write_text("# New\n")
    assert main(["push", str(folder), REPO]) == 0
    (folder / "README.md").write_text("# Old\n")
    yesterday = time.time() - 86400
    os.utime(folder / "README.md", (yesterday, yesterday))
    assert main(["push", str(folder), REPO]) == 1
    assert "it is newer there" in capsys.readouterr().err
    assert hub.store.read("model", REPO, "README.md") == b"# New\n"


def test_a_commit_at_the_same_time_is_not_lost(hub, folder, capsys):
    hub.store.create("model", REPO, False, {})

    def edit():
        hub.store.write("model", REPO, {"README.md": b"theirs"}, "At the same time")

    hub.fail("POST", "/commit/", action=edit)
    assert main(["push", str(folder), REPO]) == 1
    assert "was changed on the Hub at the same time" in capsys.readouterr().err
    assert hub.store.names("model", REPO) == ["README.md"]


def test_a_repository_of_another_kind_is_not_mixed_with(hub, folder, tmp_path, capsys):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "export.json").write_text('{"files": {}}')
    assert main(["push", str(tmp_path / "export"), REPO]) == 0
    assert main(["push", str(folder), REPO]) == 1
    assert "holds an export" in capsys.readouterr().err


# What the Hub and the network refuse

REFUSALS = {
    "wrong token": ({"HF_TOKEN": "hf_nobody"}, REPO, "does not accept the token"),
    "no token": ({"HF_TOKEN": ""}, REPO, "there is no token of the Hub"),
    "may only read": ({"HF_TOKEN": "hf_reader"}, REPO, "the token may not write to"),
    "of somebody else": ({}, "other/squares", "the token may not write to 'other/squares'"),
    "not a name": ({}, "user/squares..git", "is not a valid name"),
    "two slashes": ({}, "a/b/c", "is not a valid name"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_is_one_sentence(hub, folder, monkeypatch, capsys, case):
    variables, repo_id, sentence = REFUSALS[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = digest(folder)
    assert main(["push", str(folder), repo_id]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert digest(folder) == before
    assert not hub.store.repositories


def test_a_card_that_the_hub_refuses_is_one_sentence(hub, folder, capsys):
    (folder / "README.md").write_text("---\nlicense: made-up\n---\n# Mine\n")
    assert main(["push", str(folder), REPO]) == 1
    assert 'the Hub refuses the card README.md: "license" must be' in capsys.readouterr().err
    assert hub.store.names("model", REPO) == []


FAULTS = {
    "create": ("POST", "/repos/create", {"status": 503}, "has a fault (503)"),
    "wait": ("GET", "/api/models/", {"status": 429, "headers": {"Retry-After": "60"}}, "60 sec"),
    "commit": ("POST", "/commit/", {"status": 500}, "has a fault (500)"),
    "commit cut": ("POST", "/commit/", {"cut": 100}, "cannot be reached"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_of_the_hub_is_one_sentence(hub, folder, capsys, case):
    method, pattern, fields, sentence = FAULTS[case]
    hub.fail(method, pattern, **fields)
    before = digest(folder)
    assert main(["push", str(folder), REPO]) == 1
    assert sentence in capsys.readouterr().err
    assert digest(folder) == before
    if hub.store.repositories:
        assert hub.store.names("model", REPO) == []


def test_without_a_network_it_is_one_sentence(hub, folder, capsys):
    hub.server.server_close()
    assert main(["push", str(folder), REPO]) == 1
    error = capsys.readouterr().err
    assert f"the Hub at {hub.url} cannot be reached" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "fault",
    [
        ("PUT", "/lfs/upload/", {"cut": 1000}),
        ("PUT", "/lfs/upload/", {"status": 500}),
        ("POST", "/preupload/", {"status": 429, "headers": {"Retry-After": "0"}}),
        ("POST", "/objects/batch", {"status": 503}),
    ],
)
def test_a_passing_fault_is_passed(hub, folder, fault):
    method, pattern, fields = fault
    hub.fail(method, pattern, **fields)
    assert main(["push", str(folder), REPO]) == 0
    assert hub.store.names("model", REPO) == read_contents(folder).files
    assert hub.faults[0].times == 0


def test_a_download_that_is_cut_goes_on_where_it_ended(hub, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    assert main(["push", str(folder), REPO]) == 0
    hub.fail("GET", "/lfs/download/", cut=5000)
    path = HfApi().hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path / "cache")
    with open(path, "rb") as file:
        content = file.read()
    assert content == (folder / "model.safetensors").read_bytes()
    ranges = [request.range for request in hub.asked("GET", "/lfs/download/")]
    assert ranges == ["", "bytes=5000-"]


def test_the_token_does_not_leave_the_hub(hub, folder, tmp_path):
    assert main(["push", str(folder), REPO]) == 0
    HfApi().hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path / "cache")
    downloads = hub.asked("GET", "/lfs/download/")
    assert downloads[0].host.startswith("localhost")
    assert [request.token for request in downloads] == [""]


def test_a_push_needs_no_torch(hub, folder, tmp_path):
    code = f"""
        import sys
        import clip_vit
        print(clip_vit.main(["push", {str(folder)!r}, {REPO!r}]), "torch" in sys.modules)
    """
    environment = hub.environment(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_offline_it_is_one_sentence(hub, folder, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["push", str(folder), REPO]) == 1
    assert "HF_HUB_OFFLINE is set, so nothing is sent" in capsys.readouterr().err
    assert hub.requests == []
