"""Saving and loading: bit-equal, as a tower, and without this package."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor
from transformers.dynamic_module_utils import get_relative_imports

from modeling_clip_vit import (
    ClipVitForImageClassification,
    ClipVitModel,
    ClipVitVisionConfig,
)
from tests.support.models import PARTS, make_images, make_texts, small_model
from tests.support.pictures import COLORS, draw_picture
from tests.support.processes import run_without_package

MODEL_FILES = {
    "attention.py",
    "companions.py",
    "configuration_clip_vit.py",
    "embeddings.py",
    "encoder.py",
    "feed_forward.py",
    "modeling_clip_vit.py",
    "normalization.py",
    "pooling.py",
    "pretrained.py",
    "packing.py",
    "projection.py",
    "towers.py",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_is_bit_equal(tmp_path, dtype):
    model = small_model(vision={"patch_embedding": "conv_stem"}, logit_bias_init_value=-3.0)
    model.to(dtype).save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.dtype == dtype
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    inputs = {"pixel_values": make_images(2), **make_texts([4, 6])}
    assert torch.equal(again.eval()(**inputs).logits_per_text, model(**inputs).logits_per_text)


def test_a_folder_holds_weights_as_safetensors_and_the_files_of_the_model(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == MODEL_FILES | {"config.json", "model.safetensors"}
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_clip_vit.ClipVitConfig",
        "AutoModel": "modeling_clip_vit.ClipVitModel",
        "AutoModelForZeroShotImageClassification": "modeling_clip_vit.ClipVitModel",
    }


def test_the_file_of_the_models_imports_every_other_itself(tmp_path):
    """Transformers before 5.15 copies from a local folder only what the file itself imports."""
    small_model().save_pretrained(tmp_path)
    imported = set(get_relative_imports(tmp_path / "modeling_clip_vit.py"))
    assert {f"{name}.py" for name in imported} == MODEL_FILES - {"modeling_clip_vit.py"}


#: A class head takes the image tower alone.
WITH_HEAD = {
    **PARTS,
    ClipVitForImageClassification: (
        lambda part, images, texts: part.vision_model(images).pooler_output,
        lambda whole, images, texts: whole.vision_model(images).pooler_output,
    ),
}


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A model of both towers, and the folder that it is saved in."""
    model, folder = small_model(), tmp_path_factory.mktemp("joint")
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("model_class", WITH_HEAD)
def test_every_part_loads_from_the_joint_folder(joint, model_class):
    model, folder = joint
    of_part, of_whole = WITH_HEAD[model_class]
    part = model_class.from_pretrained(folder).eval()
    images, texts = make_images(2), make_texts([4, 6])
    assert torch.equal(of_part(part, images, texts), of_whole(model, images, texts))


@pytest.mark.parametrize("model_class", WITH_HEAD)
def test_a_part_misses_no_weight_of_the_joint_folder_but_a_class_head(joint, model_class):
    _, info = model_class.from_pretrained(joint[1], output_loading_info=True)
    is_classifier = model_class is ClipVitForImageClassification
    head = {"classifier.weight", "classifier.bias"} if is_classifier else set()
    assert (info["missing_keys"], info["unexpected_keys"]) == (head, set())


def test_a_classifier_learns_from_labels_and_comes_back(tmp_path):
    torch.manual_seed(0)
    config = ClipVitVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    model = ClipVitForImageClassification(config)
    images, labels = make_images(10), torch.arange(10) % 5
    first = model(images, labels=labels)
    assert first.logits.shape == (10, 5)
    expected = torch.nn.functional.cross_entropy(first.logits, labels)
    torch.testing.assert_close(first.loss, expected)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model(images, labels=labels).loss.backward()
        optimizer.step()
    assert (model(images).logits.argmax(dim=1) == labels).all()
    model.eval().save_pretrained(tmp_path)
    again = ClipVitForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(again(images).logits, model(images).logits)


@pytest.mark.slow
def test_a_folder_loads_where_the_package_is_not_installed(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    picture = draw_picture("red", seed=5)
    picture.save(tmp_path / "red.png")
    texts = [f"a {color} square" for color in COLORS]
    model = AutoModelForZeroShotImageClassification.from_pretrained(checkpoint).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    inputs = processor(text=texts, images=picture, return_tensors="pt", padding=True)
    with torch.inference_mode():
        expected = model(**inputs)
    torch.save(
        {"image": expected.image_embeds, "text": expected.text_embeds}, tmp_path / "expected.pt"
    )
    tower = tmp_path / "classifier"
    ClipVitForImageClassification(model.config.vision_config).save_pretrained(tower)
    code = f"""
        import torch
        from PIL import Image
        from transformers import (AutoModel, AutoModelForImageClassification,
            AutoModelForZeroShotImageClassification, AutoProcessor, CLIPProcessor, pipeline)
        folder, texts = {str(checkpoint)!r}, {texts!r}
        picture = Image.open("red.png")
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        assert type(processor) is CLIPProcessor
        inputs = processor(text=texts, images=picture, return_tensors="pt", padding=True)
        expected = torch.load("expected.pt", weights_only=True)
        for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
            model = auto_class.from_pretrained(folder, trust_remote_code=True).eval()
            assert type(model).__module__.startswith("transformers_modules")
            with torch.inference_mode():
                outputs = model(**inputs)
            assert torch.equal(outputs.image_embeds, expected["image"])
            assert torch.equal(outputs.text_embeds, expected["text"])
        pipe = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
        scores = pipe(picture, candidate_labels=texts, hypothesis_template="{{}}")
        best = texts[int(outputs.logits_per_image.argmax())]
        assert scores[0]["label"] == best, scores
        classifier = AutoModelForImageClassification.from_pretrained(
            {str(tower)!r}, trust_remote_code=True)
        assert type(classifier).__name__ == "ClipVitForImageClassification"
        assert type(AutoModel.from_pretrained({str(tower)!r}, trust_remote_code=True)
            ).__name__ == "ClipVitVisionModel"
        model.save_pretrained("again")
        print("loaded")
    """
    assert run_without_package(code, tmp_path).endswith("loaded\n")
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names == MODEL_FILES | {"config.json", "model.safetensors"}
    assert "AutoConfig" in json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    again = ClipVitModel.from_pretrained(tmp_path / "again").eval()
    with torch.inference_mode():
        assert torch.equal(again(**inputs).image_embeds, expected.image_embeds)


@pytest.mark.slow
def test_importing_the_models_imports_nothing_that_a_forward_pass_does_not_need():
    """Beside what Transformers imports for any model: quantisers, where they are installed."""
    code = """
        import sys, transformers.modeling_utils
        before = set(sys.modules)
        import modeling_clip_vit
        heavy = {"datasets", "torchao", "matplotlib", "jsonargparse", "tensorboard", "gradio"}
        print(sorted(heavy & (set(sys.modules) - before)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
