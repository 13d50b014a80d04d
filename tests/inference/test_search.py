"""Searching a gallery, and what cannot be searched."""

import json
import shutil

import pytest
import torch
from transformers import BertConfig, BertModel

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.inference.embedding import embed_images, embed_texts
from modeling_clip_vit.inference.gallery import open_gallery
from modeling_clip_vit.inference.loading import LoadError, load_clip, load_encoder
from modeling_clip_vit.inference.pictures import wrap
from modeling_clip_vit.inference.search import ImageSearch
from tests.support.checkpoints import MISFITS, spoil
from tests.support.pictures import COLORS, draw_picture


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders of their own, an unreadable one, and a file that is no picture."""
    for number, color in enumerate(COLORS):
        path = tmp_path / "pictures" / f"{number % 2}" / f"{color}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_picture(color, number).save(path)
    whole = (tmp_path / "pictures" / "0" / "red.png").read_bytes()
    (tmp_path / "pictures" / "cut.PNG").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures" / "notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


@pytest.fixture
def search(folder, checkpoint) -> ImageSearch:
    """These pictures, embedded in several batches."""
    encoder = load_encoder(str(checkpoint))
    return ImageSearch(encoder, open_gallery(str(folder)), batch_size=3)


def test_a_gallery_takes_sub_folders(search):
    assert [p.name for p in search.pictures] == sorted(
        f"{number % 2}/{color}.png" for number, color in enumerate(COLORS)
    )


def test_a_gallery_names_what_it_cannot_read(search):
    [name] = search.unreadable
    assert name.startswith("cut.PNG")


def test_the_best_are_those_of_largest_cosine_in_order(search, checkpoint):
    model, processor = load_clip(str(checkpoint))
    found, pictures = search("a red square", top_k=4), search.pictures
    images = embed_images(model, processor, [picture.decode() for picture in pictures])
    text = embed_texts(model, processor.tokenizer, ["a red square"])[0]
    expected = sorted(
        ((image @ text).item(), p.name) for image, p in zip(images, pictures, strict=True)
    )
    assert [picture.name for picture, _ in found] == [name for _, name in expected[::-1][:4]]
    torch.testing.assert_close(
        torch.tensor([score for _, score in found]),
        torch.tensor([score for score, _ in expected[::-1][:4]]),
    )


def test_more_than_there_are_gives_all(search):
    assert len(search("red", 99)) == 8


def test_a_chinese_query_is_embedded_otherwise_than_an_english_one(checkpoint):
    model, processor = load_clip(str(checkpoint))
    texts = embed_texts(model, processor.tokenizer, ["红色方块", "a red square"])
    assert (texts[0] - texts[1]).norm() > 1e-3


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_rejected(search, query):
    with pytest.raises(ValueError, match="the query is empty"):
        search(query)


def test_a_missing_split_is_rejected_with_those_there_are(color_dataset):
    with pytest.raises(DataError, match="no split 'tset': it has train, validation"):
        list(open_gallery(str(color_dataset), split="tset"))


def test_a_folder_of_unreadable_pictures_is_rejected(tmp_path, checkpoint):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture at all")
    with pytest.raises(DataError, match=r"no readable picture.*broken\.jpg"):
        ImageSearch(load_encoder(str(checkpoint)), open_gallery(str(tmp_path)))


def test_one_file_is_a_gallery_of_one(folder):
    path = folder / "0" / "red.png"
    assert [picture.source for picture in open_gallery(str(path))] == [str(path)]


def test_what_a_system_hides_is_not_searched(folder):
    for name in ("._red.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/red.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no picture")
    names = [picture.name for picture in open_gallery(str(folder))]
    assert len(names) == 9
    assert not any("/." in f"/{name}" or name == "Thumbs.db" for name in names)


def test_a_link_to_a_folder_that_holds_it_is_not_followed(folder):
    (folder / "0" / "loop").symlink_to("../..")
    assert len(list(open_gallery(str(folder)))) == 9


def test_a_picture_next_to_a_dataset_is_not_searched_in_its_place(color_dataset, tmp_path):
    shutil.copytree(color_dataset, tmp_path / "data")
    draw_picture("red", 1).save(tmp_path / "data" / "preview.png")
    assert len(list(open_gallery(str(tmp_path / "data")))) == 24


@pytest.mark.parametrize(
    ("save", "sentence"),
    [
        ("found.docx", "cannot be the name of a picture: it must end in one of"),
        ("found", "cannot be the name of a picture: it must end in one of"),
        ("folder.png", "is a folder: name a file"),
        ("file/found.png", "cannot be made"),
    ],
)
def test_a_picture_that_cannot_be_saved_is_rejected_before_the_search(
    save, sentence, tmp_path, capsys
):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    arguments = ["search", "./nowhere", "red", "--images", "./nowhere"]
    assert main([*arguments, "--save", str(tmp_path / save)]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        ("0.45 grinning_face_with_big_eyes.png", ["0.45 grinning_", "face_with_big_", "eyes.png"]),
        ("2024-05/holidays-in-rome.jpg", ["2024-05/holidays-", "in-rome.jpg"]),
        ("0123456789abcdef0123", ["0123456789abcdef0", "123"]),
        ("a picture of 1 - -0.5", ["a picture of 1 -", "-0.5"]),
    ],
)
def test_a_title_breaks_where_no_word_is_torn_if_that_is_possible(title, lines):
    assert wrap(title, 17) == "\n".join(lines)


def test_a_model_that_does_not_embed_both_is_rejected(tmp_path, processor):
    config = BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertModel(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="'bert', which does not embed images and texts"):
        load_clip(str(tmp_path))


@pytest.fixture(scope="module", params=["checkpoint", "export"])
def encoder(request, tmp_path_factory, checkpoint):
    """The same model in torch and in ONNX Runtime."""
    folder = checkpoint
    if request.param == "export":
        folder = tmp_path_factory.mktemp("export") / "onnx"
        assert main(["export", str(checkpoint), str(folder), "--format", "onnx"]) == 0
    return load_encoder(str(folder))


def test_a_string_is_one_text(encoder):
    torch.testing.assert_close(encoder.encode_text("a cat"), encoder.encode_text(["a cat"]))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_nothing_embeds_to_no_rows_of_the_usual_width(encoder, kind):
    encode = getattr(encoder, f"encode_{kind}")
    assert encode([]).shape == (0, encoder.encode_text(["a cat"]).shape[1])


def test_the_code_that_a_checkpoint_carries_is_not_run(tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('the code of the checkpoint ran')\n")
    auto_map = {"AutoConfig": "trap.Config", "AutoModel": "trap.Model"}
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "not_known", "auto_map": auto_map})
    )
    with pytest.raises(LoadError):
        load_clip(str(tmp_path))


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_checkpoint_with_other_weights_ends_in_one_sentence(
    tmp_path, folder, checkpoint, capsys, misfit
):
    spoiled = tmp_path / "spoiled"
    shutil.copytree(checkpoint, spoiled)
    spoil(spoiled, misfit)
    assert main(["search", str(spoiled), "a cat", "--images", str(folder)]) == 1
    # Transformers reports the weights in a table of its own first.
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: '{spoiled}' does not fit a ClipVitModel: ")
    assert MISFITS[misfit] in message


def test_a_missing_checkpoint_ends_in_one_sentence(tmp_path, folder, capsys):
    missing = str(tmp_path / "nothing")
    assert main(["search", missing, "a cat", "--images", str(folder)]) == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith(f"error: no checkpoint folder '{missing}'")
    assert "\n" not in message
