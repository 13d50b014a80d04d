"""Fixtures that several folders use, and which tests a plain `pytest` runs."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from accelerate.state import AcceleratorState
from huggingface_hub import constants
from transformers import AutoProcessor

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.training.models import build_native_processor, build_processor
from tests.support.datasets import write_squares
from tests.support.hub_server import HubServer
from tests.support.models import RANDOM_CONFIG, small_model
from tests.support.pictures import COLORS
from tests.support.processes import wait_until

#: Markers that Transformers' own tests carry.
FOREIGN_MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "torch_compile_test",
)


#: Folders whose tests are a tier of their own, which a plain `pytest` leaves out.
TIERS = (
    "contract",
    "distributed",
    "export",
    "faults",
    "gpu",
    "install",
    "quantization",
    "releases",
)


def pytest_configure(config):
    for marker in FOREIGN_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of Transformers")
    for tier in TIERS:
        config.addinivalue_line("markers", f"{tier}: the tests of tests/{tier}")
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Workers share the processor, and so do the processes that their tests start.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Mark the tests of each tier; leave them out where nothing was asked for by name."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in TIERS:
            item.add_marker(folder)
    is_plain = config.args_source.name == "TESTPATHS" and not config.option.markexpr
    if not is_plain or config.option.keyword:
        return
    tiers = {*TIERS, "slow"}
    left_out = [item for item in items if tiers & {mark.name for mark in item.iter_markers()}]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session", autouse=True)
def converted_models(tmp_path_factory):
    """Models of peers that tests convert on the way are kept apart from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        yield


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """The Hub's cache, still empty, on a machine without network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A running Hub, which this process talks to with a token that may write."""
    with HubServer(tmp_path / "hub_files") as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        yield server


@pytest.fixture(scope="session")
def color_dataset(tmp_path_factory) -> Path:
    """A folder with the squares of eight colours as Parquet."""
    folder = tmp_path_factory.mktemp("colors")
    write_squares(folder)
    return folder


@pytest.fixture(scope="session")
def model_config_folder(tmp_path_factory) -> Path:
    """A configuration folder of a small CLIP with every kind of randomness in training."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "config.json").write_text(json.dumps(RANDOM_CONFIG))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A saved small CLIP with a tokenizer and an image processor, untrained."""
    folder = tmp_path_factory.mktemp("checkpoint")
    texts = [f"a {name} square {chinese}方块" for name, chinese in COLORS.items()]
    tokenizer = train_tokenizer(texts, vocab_size=300, max_length=16)
    model = small_model(text={"pooling": "mean", "is_causal": False})
    model.save_pretrained(folder)
    build_processor(tokenizer, image_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory, checkpoint) -> Path:
    """That CLIP as ONNX."""
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    assert main(["export", str(checkpoint), str(folder), "--format", "onnx"]) == 0
    return folder


@pytest.fixture(scope="session")
def processor(checkpoint):
    """The tokenizer and image processor of that CLIP."""
    return AutoProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def native_checkpoint(tmp_path_factory, checkpoint) -> Path:
    """That CLIP, made for images in their own aspect ratio in at most 36 patches."""
    folder = tmp_path_factory.mktemp("native") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    native = AutoProcessor.from_pretrained(folder)
    native.image_processor = build_native_processor(native.image_processor, 8, 36)
    (folder / "processor_config.json").unlink()
    native.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def native_export(tmp_path_factory, native_checkpoint) -> Path:
    """The latter as ONNX."""
    folder = tmp_path_factory.mktemp("native_export") / "onnx"
    assert main(["export", str(native_checkpoint), str(folder), "--format", "onnx"]) == 0
    return folder


@pytest.fixture
def fresh_accelerate():
    """Accelerate's state, such as the precision, stays behind, and the next run would meet it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def linear_config(tmp_path_factory, model_config_folder) -> Path:
    """The small model without batch norm, and with a pooling that any image size can have."""
    folder = tmp_path_factory.mktemp("linear")
    config = json.loads((model_config_folder / "config.json").read_text())
    config["vision_config"] |= {"patch_embedding": "linear", "pooling": "mean"}
    config["logit_bias_init_value"] = -3.0
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def object_store(tmp_path_factory):
    """A server on this machine that speaks S3, with the bucket `bucket`."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as stream:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stderr=stream)
    address = re.compile(r"http://127\.0\.0\.1:\d+")
    wait_until(lambda: address.search(log.read_text()), "the server's address")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setitem(
            fsspec.config.conf, "s3", {"endpoint_url": address.search(log.read_text())[0]}
        )
        files = fsspec.filesystem("s3")
        files.mkdir("bucket")
        yield files
    server.kill()
    server.wait()
