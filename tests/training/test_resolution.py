"""A checkpoint with learned positions goes on at another image size."""

import json
from types import SimpleNamespace

import pytest
import torch
from open_clip.model import resize_pos_embed
from transformers import AutoProcessor

from modeling_clip_vit import ClipVitForImageClassification, ClipVitModel
from modeling_clip_vit.training.models import build_model, build_processor, load_model
from modeling_clip_vit.training.options import ModelOptions
from modeling_clip_vit.training.tasks.classification import load_classifier
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY
from tests.support.models import make_texts, small_model

EMOJI = REPOSITORY / "configuration" / "model" / "emoji"
LARGER = ModelOptions(vision_fields={"image_size": 48})


class Words:
    """A few captions, for a tokenizer to learn from."""

    def corpus(self):
        return ["a red square", "a blue circle"]


@pytest.fixture(scope="module")
def processor():
    tokenizer = build_model(ModelOptions(str(EMOJI)), Words())[1].tokenizer
    return build_processor(tokenizer, 32)


def save(folder, processor, **vision) -> ClipVitModel:
    """A checkpoint for images of 32 pixels: 4 x 4 patches."""
    model = small_model(vision)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def positions(model) -> torch.Tensor:
    return model.vision_model.embeddings.position_embedding.weight.detach()


def resized_by_open_clip(weight: torch.Tensor, side: int) -> torch.Tensor:
    state = {"visual.positional_embedding": weight.clone()}
    resize_pos_embed(state, SimpleNamespace(visual=SimpleNamespace(grid_size=(side, side))))
    return state["visual.positional_embedding"]


@pytest.mark.parametrize("side", [3, 6])
def test_positions_are_those_that_open_clip_interpolates(tmp_path, processor, side):
    before = positions(save(tmp_path, processor, use_cls_token=True, pooling="cls"))
    options = ModelOptions(vision_fields={"image_size": 8 * side})
    after = positions(load_model(str(tmp_path), options)[0])
    torch.testing.assert_close(after, resized_by_open_clip(before, side))


def test_the_model_takes_images_of_the_new_size_and_learns(tmp_path, processor):
    save(tmp_path, processor)
    model, _ = load_model(str(tmp_path), LARGER)
    model(pixel_values=torch.rand(2, 3, 48, 48), **make_texts([3, 4])).image_embeds[0, 0].backward()
    assert model.vision_model.embeddings.position_embedding.weight.grad.abs().sum() > 0


def test_the_model_is_saved_and_loaded_at_the_new_size(tmp_path, processor):
    save(tmp_path, processor)
    model, _ = load_model(str(tmp_path), LARGER)
    model.save_pretrained(tmp_path / "larger")
    again = ClipVitModel.from_pretrained(tmp_path / "larger")
    assert torch.equal(positions(again), positions(model))


def test_the_processor_makes_images_of_the_new_size_and_is_saved(tmp_path, processor):
    save(tmp_path, processor)
    load_model(str(tmp_path), LARGER)[1].save_pretrained(tmp_path / "larger")
    again = AutoProcessor.from_pretrained(tmp_path / "larger")
    pixels = again.image_processor(torch.zeros(3, 60, 50), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 48, 48)


def test_one_line_says_so(tmp_path, processor, caplog):
    save(tmp_path, processor)
    load_model(str(tmp_path), LARGER)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["learned positions are interpolated from 4 x 4 to 6 x 6 patches"]


def test_a_class_head_goes_on_at_another_size(tmp_path, processor):
    before = positions(save(tmp_path, processor))
    model, images = load_classifier(str(tmp_path), LARGER, ["a", "b"])
    assert isinstance(model, ClipVitForImageClassification)
    torch.testing.assert_close(positions(model), resized_by_open_clip(before, 6))
    assert dict(images.crop_size)["height"] == 48


def test_a_pretrained_image_tower_goes_on_at_another_size(tmp_path, processor):
    before = positions(save(tmp_path, processor))
    joint = ClipVitModel.from_vision_text_pretrained(
        str(tmp_path), str(tmp_path), {"image_size": 48}
    )
    torch.testing.assert_close(positions(joint), resized_by_open_clip(before, 6))


def test_another_number_of_positions_than_the_configuration_says_is_refused(tmp_path, processor):
    save(tmp_path, processor)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["image_size"] = 24
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"position_embedding.weight \(17, 32\) instead of \(10"):
        load_model(str(tmp_path), LARGER)


def test_flattened_tokens_are_refused_at_another_size(tmp_path, processor):
    save(tmp_path, processor, pooling="flatten")
    with pytest.raises(UserError, match="has in another shape"):
        load_model(str(tmp_path), LARGER)
