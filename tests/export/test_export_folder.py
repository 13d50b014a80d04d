"""An exported folder, other files in it and in its place; and images of every kind."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.inference.loading import load_encoder
from tests.support.processes import run_example


def draw(kind: str, path: Path):
    """A picture of the model's own size, so that nothing is resized, and not as RGB as others."""
    numbers = np.random.default_rng(0).integers(0, 256, (32, 32, 4))
    if kind == "sixteen bits":
        Image.fromarray((numbers[..., 0] * 257).astype(np.uint16)).save(path)
    elif kind == "on its side":
        exif = Image.Exif()
        exif[0x0112] = 6
        rows = np.repeat(np.arange(32)[:, None] * 8, 32, 1).astype(np.uint8)
        Image.fromarray(rows).convert("RGB").save(path, "PNG", exif=exif)
    elif kind == "palette":
        indices = Image.fromarray((numbers[..., 0] // 64).astype(np.uint8), "P")
        indices.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
        indices.save(path, transparency=0)
    else:
        numbers[:8, :, 3] = 0
        Image.fromarray(numbers.astype(np.uint8)).save(path)


@pytest.mark.parametrize("kind", ["transparent", "palette", "on its side", "sixteen bits"])
def test_the_example_sees_every_picture_as_the_package_does(tmp_path, exported, kind):
    path = tmp_path / "picture.png"
    draw(kind, path)
    texts = ["a red square", "蓝色方块", "green"]
    printed = run_example(exported, str(path), *texts)
    cosines = [float(line.split()[0]) for line in printed.splitlines()]
    encoder = load_encoder(str(exported))
    text_embeds = encoder.encode_text(texts)
    expected = text_embeds @ encoder.encode_image([decode_image(str(path))])[0]
    assert cosines == pytest.approx(expected.tolist(), abs=1e-3)
    # The picture as Pillow converts it by itself is another one.
    plain = Image.fromarray(np.asarray(Image.open(path).convert("RGB")))
    plain = text_embeds @ encoder.encode_image([plain])[0]
    assert (plain - expected).abs().max() > 5e-3


@pytest.fixture(scope="module")
def programs(tmp_path_factory, checkpoint, color_dataset) -> dict[str, Path]:
    """The image tower as a program of torch, in float and in int8."""
    root = tmp_path_factory.mktemp("programs")
    calibration = ["--calibration", str(color_dataset), "--num_calibration", "8"]
    options = {"fp32": [], "int8": ["--precision", "int8", *calibration]}
    for precision, more in options.items():
        command = ["export", str(checkpoint), str(root / precision), "--format", "torch_export"]
        assert main([*command, "--part", "image", *more]) == 0
    return {precision: root / precision for precision in options}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_program_of_torch_holds_one_tower(programs, precision):
    program = torch.export.load(programs[precision] / "image.pt2")
    assert not [key for key in program.state_dict if "text" in key]


def test_the_examples_of_programs_of_torch_need_torch_alone_and_agree(programs, tmp_path):
    draw("palette", tmp_path / "picture.png")
    others = ("torchao", "transformers", "modeling_clip_vit")
    embeds = [
        torch.tensor(
            json.loads(run_example(folder, str(tmp_path / "picture.png"), without=others))
        ).flatten()
        for folder in programs.values()
    ]
    assert 0.97 < cosine_similarity(*embeds, dim=0) < 1 - 1e-7


def test_files_added_to_an_export_are_not_read(tmp_path, exported):
    folder = Path(shutil.copytree(exported, tmp_path / "copied"))
    texts = ["a red square", "unknown ☃ words"]
    expected = load_encoder(str(exported)).encode_text(texts)
    (folder / "special_tokens_map.json").write_text('{"unk_token": "a"}')
    (folder / "added_tokens.json").write_text('{"red": 6000}')
    (folder / "chat_template.json").write_text("{}")
    torch.testing.assert_close(load_encoder(str(folder)).encode_text(texts), expected)


def export_to(target: str, checkpoint: Path) -> int:
    return main(["export", str(checkpoint), target, "--format", "onnx", "--part", "text"])


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (".", "the current folder cannot be replaced"),
        ("notes/sub", "cannot be made: .*notes' is a file"),
    ],
)
def test_a_place_where_no_folder_can_be_made_is_rejected(
    target, sentence, tmp_path, checkpoint, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("mine")
    assert export_to(target, checkpoint) == 1
    assert re.search(sentence, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_link_to_an_empty_folder_leads_to_it(tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert export_to(str(tmp_path / "link"), checkpoint) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "text.onnx").is_file()
