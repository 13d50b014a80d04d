"""Pipelines of Transformers and models of Sentence Transformers, made from our folders."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize
from torch.testing import assert_close
from transformers import AutoProcessor, BertConfig, pipeline

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitForImageClassification,
    ClipVitModel,
    ClipVitTextConfig,
    ClipVitTextModel,
    ClipVitVisionConfig,
    ClipVitVisionModel,
)
from modeling_clip_vit.hub.sentence_transformers import write_sentence_transformers_files
from tests.support.models import TEXT, VISION, small_model
from tests.support.pictures import COLORS, draw_picture
from tests.support.processes import run_without_package

pytestmark = pytest.mark.slow

TEXTS = ["a red square", "红色方块", "a green square and a blue square"]
LABELS = ["cat", "dog", "bird"]


def pictures() -> list:
    return [draw_picture(color, seed) for seed, color in enumerate(("red", "green", "blue"))]


@torch.no_grad()
def test_image_classification_names_the_labels(tmp_path, processor):
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    config = ClipVitVisionConfig(
        **VISION, id2label=names, label2id={name: number for number, name in names.items()}
    )
    model = ClipVitForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    inputs = processor.image_processor(pictures(), return_tensors="pt")
    expected = model(**inputs).logits.softmax(dim=-1)
    answers = pipeline("image-classification", model=str(tmp_path))(pictures(), top_k=3)
    for entries, scores in zip(answers, expected, strict=True):
        assert [entry["label"] for entry in entries] == [
            LABELS[number] for number in scores.argsort(descending=True)
        ]
        listed = torch.tensor([entry["score"] for entry in entries])
        assert_close(listed, scores.sort(descending=True).values)


@pytest.mark.parametrize(("pool", "field"), [(False, "last_hidden_state"), (True, "pooler_output")])
@torch.no_grad()
def test_image_feature_extraction_gives_states_or_pooled_output(tmp_path, processor, pool, field):
    torch.manual_seed(0)
    model = ClipVitVisionModel(ClipVitVisionConfig(**VISION)).eval()
    model.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    picture = pictures()[0]
    expected = model(**processor.image_processor(picture, return_tensors="pt"))
    extract = pipeline("image-feature-extraction", model=str(tmp_path), pool=pool)
    assert torch.equal(extract(picture, return_tensors=True), expected[field])


@torch.no_grad()
def test_feature_extraction_gives_the_tokens_states(tmp_path, processor):
    torch.manual_seed(0)
    model = ClipVitTextModel(ClipVitTextConfig(**TEXT)).eval()
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    extract = pipeline("feature-extraction", model=str(tmp_path))
    for text in TEXTS[:2]:
        expected = model(**processor.tokenizer(text, return_tensors="pt")).last_hidden_state
        assert torch.equal(extract(text, return_tensors=True), expected)


@torch.no_grad()
def test_zero_shot_scores_are_a_softmax_also_with_a_bias(tmp_path, processor):
    model = small_model(text={"pooling": "mean", "is_causal": False}, logit_bias_init_value=-3.0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    picture, texts = pictures()[0], [f"a {color}" for color in COLORS]
    answers = classify(picture, candidate_labels=texts, hypothesis_template="{}")
    inputs = processor(text=texts, images=picture, return_tensors="pt", padding=True)
    scores = model(**inputs).logits_per_image[0].softmax(dim=0)
    assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in answers} == dict(
        zip(texts, scores.tolist(), strict=True)
    )


def test_pipelines_run_where_the_package_is_not_installed(tmp_path, monkeypatch, processor):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    images = ClipVitVisionConfig(**VISION)
    models = {
        "image-classification": ClipVitForImageClassification(images),
        "image-feature-extraction": ClipVitVisionModel(images),
        "feature-extraction": ClipVitTextModel(ClipVitTextConfig(**TEXT)),
    }
    for task, model in models.items():
        model.save_pretrained(tmp_path / task)
        part = processor.image_processor if "image" in task else processor.tokenizer
        part.save_pretrained(tmp_path / task)
    pictures()[0].save(tmp_path / "red.png")
    code = f"""
        from transformers import pipeline
        for task in {list(models)!r}:
            run = pipeline(task, model=task, trust_remote_code=True)
            assert type(run.model).__module__.startswith("transformers_modules"), task
            assert len(run("red.png" if "image" in task else "a red square")), task
        print("ran")
    """
    assert run_without_package(code, tmp_path).endswith("ran\n")


def bert_clip() -> ClipVitModel:
    """A CLIP whose text tower is a BERT, which has token types."""
    text = BertConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=300,
        max_position_embeddings=32,
        pooling="mean",
    )
    torch.manual_seed(0)
    config = ClipVitConfig(vision_config=VISION, text_config=text.to_dict(), projection_dim=16)
    return ClipVitModel(config).eval()


@torch.no_grad()
def embed(model, processor) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's own embeddings of the texts and the pictures, of length 1."""
    texts = processor.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    images = processor.image_processor(pictures(), return_tensors="pt")
    return (
        normalize(model.get_text_features(**texts).pooler_output, dim=-1),
        normalize(model.get_image_features(**images).pooler_output, dim=-1),
    )


@dataclass
class Folders:
    """A model with its processor, its folder, and one that Sentence Transformers saved of it."""

    model: ClipVitModel
    processor: object
    folder: Path
    again: Path


@pytest.fixture(scope="module", params=["own", "bert"])
def folders(request, checkpoint, tmp_path_factory) -> Folders:
    model = small_model(text={"pooling": "mean"}) if request.param == "own" else bert_clip()
    processor = AutoProcessor.from_pretrained(checkpoint)
    root = tmp_path_factory.mktemp(request.param)
    folder, again = root / "folder", root / "again"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_transformers_files(folder)
    SentenceTransformer(str(folder), device="cpu").save_pretrained(str(again))
    return Folders(model, processor, folder, again)


def test_sentence_transformers_build_the_model_and_its_norm(folders):
    encoder = SentenceTransformer(str(folders.folder), device="cpu")
    assert [type(module).__name__ for module in encoder] == ["Transformer", "Normalize"]
    assert encoder.get_embedding_dimension() == 16


@pytest.mark.parametrize("saved_by", ["folder", "again"])
def test_sentence_transformers_embed_as_the_model(folders, saved_by):
    texts, images = embed(folders.model, folders.processor)
    encoder = SentenceTransformer(str(getattr(folders, saved_by)), device="cpu")
    assert_close(encoder.encode(TEXTS, convert_to_tensor=True), texts, atol=1e-5, rtol=0)
    assert_close(encoder.encode(pictures(), convert_to_tensor=True), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "modules.json"])
def test_our_files_for_sentence_transformers_are_those_that_it_writes(folders, name):
    ours, theirs = (
        json.loads((path / name).read_text()) for path in (folders.folder, folders.again)
    )
    assert ours == theirs


def test_sentence_transformers_need_no_package(tmp_path, monkeypatch, processor):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    model = small_model(text={"pooling": "mean"})
    model.save_pretrained(tmp_path / "folder")
    processor.save_pretrained(tmp_path / "folder")
    write_sentence_transformers_files(tmp_path / "folder")
    torch.save(torch.cat(embed(model, processor)), tmp_path / "expected.pt")
    for number, picture in enumerate(pictures()):
        picture.save(tmp_path / f"{number}.png")
    code = f"""
        import torch
        from PIL import Image
        from sentence_transformers import SentenceTransformer
        model = SentenceTransformer("folder", trust_remote_code=True, device="cpu")
        assert type(model[0].model).__module__.startswith("transformers_modules")
        images = [Image.open(f"{{number}}.png") for number in range(3)]
        parts = [model.encode(inputs, convert_to_tensor=True) for inputs in ({TEXTS!r}, images)]
        expected = torch.load("expected.pt", weights_only=True)
        torch.testing.assert_close(torch.cat(parts), expected, atol=1e-5, rtol=0)
        print("equal")
    """
    assert run_without_package(code, tmp_path).endswith("equal\n")
