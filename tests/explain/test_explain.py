"""Explaining from Python and from the command line: what is written, and what is rejected."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.explain.explain import explain
from modeling_clip_vit.explain.figure import overlay
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY
from tests.support.matches import noise


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return load_encoder(str(checkpoint))


@pytest.fixture
def picture(tmp_path):
    """A picture that is wider than high."""
    noise(96, 64).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_parts_and_rest_are_the_cosine(encoder):
    found = explain(encoder, noise(), "a red square", words_method="shares")
    cosine = (encoder.encode_image([noise()]) @ encoder.encode_text("a red square").t()).item()
    assert found.cosine == pytest.approx(cosine, abs=1e-5)
    assert found.patches.sum() + found.patches_rest == pytest.approx(cosine, abs=1e-5)
    words = sum(word.value for word in found.words)
    assert words + found.words_rest == pytest.approx(cosine, abs=1e-5)


def test_a_grid_of_ones_own_is_cut_into_as_many_cells(encoder):
    assert explain(encoder, noise(), "red", grid=5).patches.shape == (5, 5)


def test_words_say_where_they_are(encoder):
    found = explain(encoder, noise(), "a red, 方块 ")
    assert [found.text[word.start : word.end] for word in found.words] == [
        word.text for word in found.words
    ]
    assert [word.text for word in found.words] == ["a", "red", ",", "方", "块"]


def test_one_word_alone_can_be_explained(encoder):
    [word] = explain(encoder, noise(), "红").words
    texts = encoder.encode_text(["红", ""])
    cosines = texts @ encoder.encode_image([noise()])[0]
    assert word.value == pytest.approx((cosines[0] - cosines[1]).item(), abs=1e-5)


def test_what_the_model_does_not_read_is_said(encoder):
    text = "a red square " * 10
    found = explain(encoder, noise(), text)
    assert found.unread
    assert text.rstrip().endswith(found.unread)
    read = text.rstrip()[: -len(found.unread)]
    assert found.words[-1].end == len(read.rstrip())
    first = explain(encoder, noise(), read)
    assert first.cosine == pytest.approx(found.cosine, abs=1e-5)


def test_an_overlay_is_grey_where_nothing_matters(encoder):
    found = explain(encoder, noise(64, 32), "a red square")
    found.patches[:] = 0
    found.patches[0, 0] = 1
    pixels = np.asarray(overlay(found, noise(64, 32))).astype(int)
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    assert spread[:10, :10].min() > 20
    assert spread[len(pixels) // 2 :].max() <= 2
    assert pixels[5, 5, 0] > pixels[5, 5, 2]


def test_the_command_prints_and_writes(checkpoint, picture, tmp_path, capsys):
    text = "a $red$ <b>方块</b>"
    names = [str(tmp_path / "made" / name) for name in ("why.png", "why.json")]
    arguments = ["explain", str(checkpoint), str(picture), text]
    assert main([*arguments, "--save", *names, "--method", "occlusion"]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{text!r} and {picture}: cosine ")
    assert "picture, 8 x 8 cells, by occlusion:" in output
    content = json.loads((tmp_path / "made" / "why.json").read_text())
    found = explain(load_encoder(str(checkpoint)), Image.open(picture), text, "occlusion")
    assert content["text"] == text
    assert content["patches"]["box"] == [16, 0, 80, 64]
    assert np.allclose(content["patches"]["values"], found.patches, atol=1e-6)
    assert [word["text"] for word in content["words"]["values"]] == [w.text for w in found.words]
    assert Image.open(tmp_path / "made" / "why.png").width > 500


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"picture": "nothing.png"}, "there is no picture 'nothing.png'"),
        ({"picture": "."}, "'.' is a folder: name one picture in it"),
        ({"picture": "text.png"}, "UnidentifiedImageError"),
        ({"text": " \n"}, "the text is empty: say what the picture is compared with"),
        ({"text": "a" * 10_000}, "the text has 10,000 characters: at most 2,000 are allowed"),
        ({"--method": "magic"}, "method='magic' is not allowed: allowed is auto, integrated_gra"),
        ({"--words_method": "magic"}, "words_method='magic' is not allowed: allowed is auto"),
        ({"--words_method": "legrad"}, "words_method='legrad' is not allowed: allowed is auto"),
        ({"--blank": "pink"}, "blank='pink' is not allowed: allowed is mean, white, black, blur"),
        ({"--grid": "33"}, "grid=33 is not allowed: the model sees 32 x 32 pixels, so 1 to 32"),
        ({"--grid": "3", "--method": "shares"}, "grid=3 is not allowed with method='shares'"),
        ({"--method": "shares", "checkpoint": "./nowhere"}, "no checkpoint folder './nowhere'"),
        ({"--save": "why.docx"}, "'why.docx' cannot be the name of a picture"),
        ({"--runtime": "onnxruntime"}, "runtime 'onnxruntime' runs exports"),
    ],
)
def test_what_cannot_be_explained_ends_in_one_sentence(
    arguments, sentence, checkpoint, picture, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    before = sorted(tmp_path.rglob("*"))
    given = {"checkpoint": str(checkpoint), "picture": str(picture), "text": "red"} | arguments
    given = {"--save": "why.json"} | given
    positional = [given.pop(name) for name in ("checkpoint", "picture", "text")]
    options = [part for option in given.items() for part in option]
    assert main(["explain", *positional, *options]) == 1
    [message] = capsys.readouterr().err.strip().splitlines()[-1:]
    assert message.startswith("error: ")
    assert sentence in message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def export(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("export") / "onnx"
    assert main(["export", str(checkpoint), str(folder), "--format", "onnx"]) == 0
    return load_encoder(str(folder))


def test_a_wrong_argument_is_found_without_torch():
    code = """
        import sys, clip_vit
        clip_vit.main(["explain", "outputs/emoji", "nothing.png", "a cat"])
        print("torch" in sys.modules)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert "there is no picture 'nothing.png'" in done.stderr
    assert done.stdout.split() == ["False"]


@pytest.mark.slow
def test_an_export_is_explained_as_its_checkpoint_is(encoder, export):
    text = "a red square 蓝色方块"
    found = explain(export, noise(64, 32), text)
    expected = explain(encoder, noise(64, 32), text, "occlusion")
    assert found.patches_method == "occlusion"
    assert found.patches.shape == expected.patches.shape
    assert np.abs(found.patches - expected.patches).max() < 1e-4
    for one, other in zip(found.words, expected.words, strict=True):
        assert one.text == other.text
        assert one.value == pytest.approx(other.value, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["integrated_gradients", "shares", "legrad"])
def test_methods_that_look_into_the_model_are_rejected_for_exports(export, method):
    with pytest.raises(UserError, match="an export has no gradients; use occlusion"):
        explain(export, noise(), "red", method)
