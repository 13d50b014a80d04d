"""To the Hub and back: other processes, most of them without this package, load what went up."""

import json
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, AutoProcessor

from modeling_clip_vit.hub.sentence_transformers import write_sentence_transformers_files
from modeling_clip_vit.inference.loading import load_encoder
from tests.support import REPOSITORY
from tests.support.hub_server import HubServer
from tests.support.peers import save_hf_clip
from tests.support.pictures import COLORS, draw_picture
from tests.support.processes import run_command, run_without_package

pytestmark = pytest.mark.slow

REPO = "user/squares"
TEXTS = ["a red square", "红色方块", "a green square"]


@dataclass
class Published:
    """A Hub with a model that was pushed twice.

    Args:
        hub: the running server.
        home: HF_HOME of those who download.
        folder: the model on this machine, as it was pushed last.
        commits: of the first and of the last version.
        embeds: of `TEXTS`, by either version.
    """

    hub: HubServer
    home: Path
    folder: Path
    commits: list[str]
    embeds: list[torch.Tensor]

    def environment(self, **others: str) -> dict[str, str]:
        """The environment of a process that downloads without a token."""
        return self.hub.environment(self.home, token="", **others)

    def run(self, *arguments: str, **options):
        """Run `clip-vit` as a user with a token who works with this Hub."""
        return run_command(self.hub.environment(self.home), *arguments, **options)


@pytest.fixture(scope="module")
def published(tmp_path_factory, checkpoint):
    folder = Path(shutil.copytree(checkpoint, tmp_path_factory.mktemp("round") / "squares"))
    write_sentence_transformers_files(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Squares\n")
    with HubServer(tmp_path_factory.mktemp("hub_files")) as hub:
        home = tmp_path_factory.mktemp("home")
        published = Published(hub, home, folder, [], [])
        for version in range(2):
            if version:  # another model with the same processor
                model = AutoModel.from_pretrained(folder)
                torch.nn.init.normal_(model.text_projection.weight)
                model.save_pretrained(folder)
            done = published.run("push", str(folder), REPO)
            assert done.returncode == 0, done.stderr
            published.commits.append(hub.store.repositories["model", REPO].branches["main"])
            published.embeds.append(load_encoder(str(folder)).encode_text(TEXTS))
        yield published


@pytest.fixture(scope="module")
def loaded(published, tmp_path_factory) -> dict:
    """What a process without this package gets of the model by its name."""
    code = f"""
        import json, sys, torch
        from PIL import Image
        from sentence_transformers import SentenceTransformer
        from transformers import AutoModel, AutoProcessor, pipeline
        repo, first = sys.argv[1:]
        texts = {TEXTS!r}
        processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
        inputs = processor(text=texts, return_tensors="pt", padding=True)

        def embed(model):
            with torch.no_grad():
                embeds = model.eval().get_text_features(**inputs).pooler_output
            return torch.nn.functional.normalize(embeds).tolist()

        model = AutoModel.from_pretrained(repo, trust_remote_code=True)
        old = AutoModel.from_pretrained(repo, revision=first, trust_remote_code=True)
        classify = pipeline(
            "zero-shot-image-classification", model=repo, trust_remote_code=True, device="cpu"
        )
        answers = classify(Image.new("RGB", (32, 32), "red"), candidate_labels=texts)
        encoder = SentenceTransformer(repo, trust_remote_code=True, device="cpu")
        result = {{
            "model": embed(model),
            "old": embed(old),
            "pipeline": {{answer["label"]: answer["score"] for answer in answers}},
            "sentence_transformer": encoder.encode(texts).tolist(),
        }}
        print(json.dumps(result))
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    arguments = (REPO, published.commits[0])
    output = run_without_package(code, folder, *arguments, environment=published.environment())
    return json.loads(output.splitlines()[-1])


def test_auto_model_and_auto_processor_load_it_by_its_name(published, loaded):
    torch.testing.assert_close(torch.tensor(loaded["model"]), published.embeds[1])


def test_a_revision_is_the_model_of_that_commit(published, loaded):
    torch.testing.assert_close(torch.tensor(loaded["old"]), published.embeds[0])
    assert not torch.allclose(published.embeds[0], published.embeds[1], atol=0.1)


def test_a_pipeline_classifies_with_it(published, loaded):
    model = AutoModel.from_pretrained(published.folder).eval()
    processor = AutoProcessor.from_pretrained(published.folder)
    # As the pipeline writes labels into its template.
    texts = [f"This is a photo of {text}." for text in TEXTS]
    image = Image.new("RGB", (32, 32), "red")
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    inputs = processor(text=texts, images=image, **options)
    with torch.no_grad():
        scores = model(**inputs).logits_per_image.softmax(dim=1)[0]
    found = torch.tensor([loaded["pipeline"][text] for text in TEXTS])
    torch.testing.assert_close(found, scores, rtol=0, atol=1e-4)


def test_sentence_transformers_loads_it_by_its_name(published, loaded):
    embeds = torch.tensor(loaded["sentence_transformer"])
    torch.testing.assert_close(embeds, published.embeds[1], rtol=0, atol=1e-5)


def test_what_was_loaded_once_loads_without_the_hub(published, loaded, tmp_path):
    code = """
        import sys
        from transformers import AutoModel, AutoProcessor
        AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
        AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    """
    asked = len(published.hub.requests)
    environment = published.environment(HF_HUB_OFFLINE="1")
    run_without_package(code, tmp_path, REPO, environment=environment)
    assert len(published.hub.requests) == asked


def draw_colors(folder: Path) -> Path:
    """A folder of pictures named by what they show."""
    folder.mkdir()
    for color in COLORS:
        draw_picture(color, 0).save(folder / f"{color}.png")
    return folder


def test_pictures_are_searched_with_it_by_its_name(published, tmp_path):
    pictures = draw_colors(tmp_path / "pictures")
    query = ["a red square", "--images", str(pictures)]
    by_name = published.run("search", REPO, *query)
    assert by_name.returncode == 0, by_name.stderr
    by_folder = published.run("search", str(published.folder), *query)
    assert by_name.stdout == by_folder.stdout


def test_training_starts_from_it_by_its_name(published, tmp_path, color_dataset):
    done = published.run(
        *("train", "--model_name_or_path", REPO, "--dataset", str(color_dataset)),
        *("--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--save_steps", "0"),
        *("--per_device_train_batch_size", "8", "--bf16", "false", "--report_to", "none"),
    )
    assert done.returncode == 0, done.stderr
    data = ModelCard.load(tmp_path / "run" / "README.md").data
    assert (data.base_model, data.license) == ([REPO], "mit")


def test_a_model_of_another_implementation_is_converted_by_its_name(published, tmp_path):
    save_hf_clip(tmp_path / "peer")
    pushed = published.run("push", str(tmp_path / "peer"), "user/clip")
    assert pushed.returncode == 0, pushed.stderr
    converted = published.run("convert", "user/clip", str(tmp_path / "ours"))
    assert converted.returncode == 0, converted.stderr
    assert AutoModel.from_pretrained(tmp_path / "ours").config.model_type == "clip_vit"


def test_an_export_is_searched_with_by_its_name(published, tmp_path):
    export = tmp_path / "export"
    done = published.run("export", REPO, str(export), "--format", "onnx")
    assert done.returncode == 0, done.stderr
    assert json.loads((export / "export.json").read_text())["base_model"] == REPO
    assert published.run("push", str(export), "user/squares-onnx").returncode == 0
    query = ["a red square", "--images", str(draw_colors(tmp_path / "pictures"))]
    by_name = published.run("search", "user/squares-onnx", *query)
    assert by_name.returncode == 0, by_name.stderr
    assert by_name.stdout == published.run("search", str(export), *query).stdout


# An index of pictures


@pytest.fixture(scope="module")
def index(published, tmp_path_factory) -> str:
    """A folder with an index, which is on the Hub as user/pictures."""
    folder = tmp_path_factory.mktemp("index")
    pictures = str(draw_colors(folder / "pictures"))
    done = published.run("index", REPO, pictures, str(folder / "index"))
    assert done.returncode == 0, done.stderr
    assert published.run("push", str(folder / "index"), "user/pictures").returncode == 0
    return str(folder / "index")


def test_an_index_is_searched_by_its_name(published, index):
    by_name = published.run("search", "user/pictures", "a red square", "--format", "json")
    assert by_name.returncode == 0, by_name.stderr
    by_path = published.run("search", index, "a red square", "--format", "json")
    assert json.loads(by_name.stdout)["hits"] == json.loads(by_path.stdout)["hits"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("user/nothing", "there is no 'user/nothing' on the Hub"),
        ("user/digits", "'user/digits' on the Hub is a dataset, but not an index"),
    ],
)
def test_a_name_without_an_index_is_refused_in_a_sentence(published, digits, name, sentence):
    done = published.run("search", name, "a red square")
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]


# Datasets


@pytest.fixture(scope="module")
def digits(published) -> str:
    """The name of a dataset on the Hub."""
    done = published.run("push", "data/digits", "user/digits")
    assert done.returncode == 0, done.stderr
    return "user/digits"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_is_read_by_its_name(published, digits, tmp_path, streaming):
    code = """
        import json, sys
        from datasets import load_dataset
        rows = load_dataset(sys.argv[1], split="validation", streaming=sys.argv[2] == "True")
        print(json.dumps([row["label"] for row in rows]))
    """
    arguments = (digits, str(streaming))
    output = run_without_package(code, tmp_path, *arguments, environment=published.environment())
    rows = load_dataset(str(REPOSITORY / "data" / "digits"), split="validation")
    assert json.loads(output.splitlines()[-1]) == rows["label"]


@pytest.mark.parametrize("option", ["--dataset", "--stream_sources"])
def test_training_reads_a_dataset_by_its_name(published, tmp_path, color_dataset, option):
    pushed = published.run("push", str(color_dataset), "user/colors")
    assert pushed.returncode == 0, pushed.stderr
    done = published.run(
        *("train", option, "user/colors", "--model_name_or_path", str(published.folder)),
        *("--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--save_steps", "0"),
        *("--per_device_train_batch_size", "8", "--bf16", "false", "--report_to", "none"),
        *("--caption_columns", "caption_en", "--evaluations", "[]"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()


# What goes wrong


def refused(published: Published, *arguments: str, **options) -> str:
    """The sentence with which a command ends."""
    done = published.run(*arguments, **options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_the_name_of_a_dataset_is_no_model(published, digits, tmp_path):
    sentence = refused(published, "search", digits, "one", "--images", str(tmp_path))
    assert "'user/digits' is a dataset, and this needs a model" in sentence


def test_a_name_that_the_hub_does_not_know_is_one_sentence(published, tmp_path):
    sentence = refused(published, "search", "user/nothing", "one", "--images", str(tmp_path))
    assert "cannot load 'user/nothing'" in sentence


def limit_files():
    """Let this process write no file above 50 kB, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def test_a_full_disk_while_downloading_is_one_sentence(published, tmp_path):
    environment = published.environment(HF_HOME=str(tmp_path / "home"))
    query = ["search", REPO, "one", "--images", str(tmp_path)]
    done = run_command(environment, *query, preexec_fn=limit_files)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "HF_HOME chooses another disk" in done.stderr.splitlines()[-1]


def test_a_download_that_is_cut_again_and_again_is_one_sentence(published, tmp_path):
    fault = published.hub.fail("GET", "/lfs/download/", times=-1, cut=1000)
    environment = published.environment(HF_HOME=str(tmp_path / "home"))
    done = run_command(environment, "search", REPO, "one", "--images", str(tmp_path))
    published.hub.faults.remove(fault)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[-1]
    assert f"cannot download {REPO!r}: the connection to the Hub failed" in sentence


# The token


def commands_running() -> str:
    """The command lines and the names of all processes of this machine."""
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines.append((entry / "cmdline").read_bytes().decode("utf-8", "replace"))
            except OSError:  # it has ended
                continue
    return "\n".join(lines)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="there is no /proc here")
@pytest.mark.parametrize("status", [0, 500])
def test_a_token_is_in_no_output_and_in_no_command_line(published, tmp_path, checkpoint, status):
    seen: list[str] = []
    note: Callable[[], None] = lambda: seen.append(commands_running())  # noqa: E731
    published.hub.fail("POST", "/commit/", status=status, action=note)
    name = f"user/secret-{status}"
    arguments = ("--debug", "push", str(checkpoint), name)
    done = run_command(published.hub.environment(tmp_path, HF_DEBUG="1"), *arguments)
    assert len(seen) == 1
    assert "hf_writer" not in seen[0]
    assert done.returncode == (1 if status else 0)
    assert "hf_writer" not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"hf_writer" in path.read_bytes()]


def test_a_hub_without_xet_is_one_sentence(published, checkpoint, tmp_path):
    environment = published.hub.environment(tmp_path, HF_HUB_DISABLE_XET="0")
    done = run_command(environment, "push", str(checkpoint), "user/xet")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "uploading to 'user/xet' failed" in done.stderr.splitlines()[-1]
    assert published.hub.asked("GET", "/xet-write-token/")
