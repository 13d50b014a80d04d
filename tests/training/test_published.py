"""Fine-tuning a published model, and taking it back to where it came from."""

import open_clip
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoModel, AutoProcessor, CLIPModel, CLIPProcessor

from modeling_clip_vit.cli import main
from modeling_clip_vit.conversion.published import local_checkpoint
from modeling_clip_vit.inference.loading import load_encoder
from tests.support.hub import fill_hub_cache
from tests.support.peers import save_hf_clip, save_open_clip, save_timm
from tests.support.pictures import COLORS

TEXTS = [f"a {name} square" for name in COLORS]


@pytest.fixture
def train(tmp_path, color_dataset, fresh_accelerate):
    """Trains for two updates on the squares; returns the exit code."""
    options = {"max_steps": 2, "per_device_train_batch_size": 8, "bf16": "false"}
    options |= {"report_to": "none", "save_steps": 0, "output_dir": tmp_path / "run"}

    def run(*arguments: str) -> int:
        fixed = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        return main(["train", "--dataset", str(color_dataset), *fixed, *arguments])

    return run


@pytest.fixture
def image() -> Image.Image:
    return Image.new("RGB", (32, 32), (200, 30, 40))


def test_a_model_of_open_clip_goes_back_to_open_clip(tmp_path, train, image):
    save_open_clip(tmp_path / "peer")
    source = f"local-dir:{tmp_path / 'peer'}"
    start = load_encoder(local_checkpoint(source)).encode_text(TEXTS)
    assert train("--model_name_or_path", source, "--save_as", "open_clip") == 0
    ours = load_encoder(str(tmp_path / "run"))
    name = f"local-dir:{tmp_path / 'run' / 'open_clip'}"
    peer, preprocess = open_clip.create_model_from_pretrained(name)
    with torch.no_grad():
        images = peer.eval().encode_image(preprocess(image)[None], normalize=True)
        texts = peer.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)
    assert not torch.equal(texts, start)  # it was trained
    torch.testing.assert_close(ours.encode_text(TEXTS), texts, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.encode_image([image]), images, rtol=0, atol=1e-5)


def test_a_clip_of_transformers_goes_back_to_transformers(tmp_path, train, image):
    save_hf_clip(tmp_path / "peer")
    assert train("--model_name_or_path", str(tmp_path / "peer"), "--save_as", "hf_clip") == 0
    ours = load_encoder(str(tmp_path / "run"))
    folder = tmp_path / "run" / "hf_clip"
    peer, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=TEXTS, images=image, return_tensors="pt", padding=True)
    with torch.no_grad():
        outputs = peer.eval()(**inputs)
    torch.testing.assert_close(ours.encode_text(TEXTS), outputs.text_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.encode_image([image]), outputs.image_embeds, rtol=0, atol=1e-5)


def test_the_next_run_removes_what_it_does_not_write(tmp_path, train):
    save_hf_clip(tmp_path / "peer")
    source = ["--model_name_or_path", str(tmp_path / "peer")]
    assert train(*source, "--save_as", "hf_clip") == 0
    assert train(*source, "--overwrite_output_dir", "true") == 0
    assert not (tmp_path / "run" / "hf_clip").exists()
    AutoModel.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vit_pytorch", "choose from"),
        ("hf_siglip", "cannot hold"),
        ("clip_vit", "save_as='clip_vit' is not allowed"),
    ],
)
def test_what_cannot_be_saved_is_rejected_before_training(tmp_path, train, capsys, name, sentence):
    save_hf_clip(tmp_path / "peer")
    assert train("--model_name_or_path", str(tmp_path / "peer"), "--save_as", name) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_card_names_origin_and_licence(tmp_path, train):
    save_hf_clip(tmp_path / "peer")
    (tmp_path / "peer" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert train("--model_name_or_path", str(tmp_path / "peer")) == 0
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.license == "mit"
    assert f"Fine-tuned from `{tmp_path / 'peer'}`." in card.text
    assert f'model_name_or_path: "{tmp_path / "peer"}"' in card.text


def test_the_card_of_a_model_from_the_hub_has_its_base_model(tmp_path, train, offline):
    save_hf_clip(tmp_path / "peer")
    fill_hub_cache(offline, "user/clip", tmp_path / "peer")
    assert train("--model_name_or_path", "hf-hub:user/clip") == 0
    data = ModelCard.load(tmp_path / "run" / "README.md").data
    assert (data.base_model, data.base_model_relation) == (["user/clip"], "finetune")


def test_a_resumed_run_finds_it_again(tmp_path, train, capsys):
    save_hf_clip(tmp_path / "peer")
    source = ["--model_name_or_path", str(tmp_path / "peer"), "--save_steps", "1"]
    assert train(*source) == 0
    assert train(*source, "--max_steps", "3", "--resume_from_checkpoint", "latest") == 0
    assert capsys.readouterr().err.count("was converted") == 1


def test_a_vit_of_timm_gets_a_class_head(tmp_path, train):
    save_timm(tmp_path / "peer")
    arguments = ["--task", "classification", "--label_column", "kind"]
    assert train("--model_name_or_path", str(tmp_path / "peer"), *arguments) == 0


def test_a_vit_of_timm_is_an_image_tower(tmp_path, train, model_config_folder):
    save_timm(tmp_path / "peer")
    tower = ["--vision_model_name_or_path", str(tmp_path / "peer")]
    assert train(*tower, "--model_config", str(model_config_folder)) == 0
    config = AutoModel.from_pretrained(tmp_path / "run").config
    assert config.vision_config.model_type == "clip_vit_vision_model"
    mean = AutoProcessor.from_pretrained(tmp_path / "run").image_processor.image_mean
    assert list(mean) == [0.5, 0.5, 0.5]


def test_a_tower_alone_does_not_replace_a_model_of_images_and_texts(tmp_path, train, capsys):
    save_timm(tmp_path / "peer")
    assert train("--model_name_or_path", str(tmp_path / "peer")) == 1
    assert "is an image tower alone (timm)" in capsys.readouterr().err


def test_another_kind_of_model_is_one_sentence(tmp_path, train, capsys):
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "config.json").write_text('{"model_type": "detr"}')
    assert train("--model_name_or_path", str(tmp_path / "peer")) == 1
    assert "holds a model of type 'detr'" in capsys.readouterr().err
