"""Small configurations and models, and inputs for them."""

import torch

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitModel,
    ClipVitTextModel,
    ClipVitTextModelWithProjection,
    ClipVitVisionModel,
    ClipVitVisionModelWithProjection,
)

VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

#: A model that draws random numbers in training in every way that it can.
RANDOM_CONFIG = {
    "model_type": "clip_vit",
    "projection_dim": 16,
    "vision_config": {
        **VISION,
        "model_type": "clip_vit_vision_model",
        "patch_embedding": "conv_stem",
        "pooling": "flatten",
        "drop_path_rate": 0.1,
        "hidden_dropout": 0.1,
    },
    "text_config": {
        **TEXT,
        "model_type": "clip_vit_text_model",
        "is_causal": False,
        "pooling": "mean",
    },
}


def small_config(vision: dict | None = None, text: dict | None = None, **top) -> ClipVitConfig:
    """A CLIP of a few thousand parameters."""
    return ClipVitConfig(
        vision_config={**VISION, **(vision or {})},
        text_config={**TEXT, **(text or {})},
        **{"projection_dim": 16, **top},
    )


def small_model(vision: dict | None = None, text: dict | None = None, **top) -> ClipVitModel:
    """A CLIP of a few thousand parameters with the same random weights every time.

    Larger weights than those that training starts from: attention that is all but even would hide
    a wrong mask or position.
    """
    torch.manual_seed(0)
    model = ClipVitModel(small_config(vision, text, **top)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("proj.weight"):
                weight.mul_(8)
    return model


def make_texts(lengths: list[int], length: int | None = None) -> dict[str, torch.Tensor]:
    """Token ids of texts of the given lengths, each ending in its end token, padded right."""
    generator = torch.Generator().manual_seed(1)
    length = length or max(lengths)
    ids = torch.zeros(len(lengths), length, dtype=torch.long)
    for row, count in enumerate(lengths):
        ids[row, :count] = torch.randint(3, 300, (count,), generator=generator)
        ids[row, 0], ids[row, count - 1] = 1, 2
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def make_images(count: int, size: int = 32) -> torch.Tensor:
    """Random normalised pixels."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


#: Class of the model or of a part -> what it computes of images and texts, and what the whole model
#: computes.
PARTS = {
    ClipVitModel: (
        lambda part, images, texts: part(pixel_values=images, **texts).logits_per_image,
        lambda whole, images, texts: whole(pixel_values=images, **texts).logits_per_image,
    ),
    ClipVitVisionModel: (
        lambda part, images, texts: part(images).pooler_output,
        lambda whole, images, texts: whole.vision_model(images).pooler_output,
    ),
    ClipVitTextModel: (
        lambda part, images, texts: part(**texts).pooler_output,
        lambda whole, images, texts: whole.text_model(**texts).pooler_output,
    ),
    ClipVitVisionModelWithProjection: (
        lambda part, images, texts: part(images).image_embeds,
        lambda whole, images, texts: whole.get_image_features(images).pooler_output,
    ),
    ClipVitTextModelWithProjection: (
        lambda part, images, texts: part(**texts).text_embeds,
        lambda whole, images, texts: whole.get_text_features(**texts).pooler_output,
    ),
}
