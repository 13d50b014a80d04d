"""The model and the losses on a GPU against a CPU, and a GPU's kernels against each other."""

import copy

import pytest
import torch
from transformers import set_seed

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from modeling_clip_vit.data.batches import Collator
from modeling_clip_vit.data.packing import plan_packing
from modeling_clip_vit.data.transforms import NOISE_SIZE, AugmentOptions
from modeling_clip_vit.losses import ClipLoss, HardNegativeLoss, MultiPositiveLoss, SigLipLoss
from modeling_clip_vit.training.gradient_cache import cached_backward, cut

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

VISION = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "vocab_size": 300,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Architectures whose operations have kernels of their own on a GPU.
ARCHITECTURES: dict[str, tuple[dict, dict]] = {
    "CLIP": ({}, {}),
    "modern": (
        {
            "patch_embedding": "conv_stem",
            "norm_type": "rmsnorm",
            "mlp_type": "glu",
            "hidden_act": "silu",
            "position_embedding_type": "rope",
            "qk_norm": True,
            "num_key_value_heads": 2,
            "num_register_tokens": 2,
            "pooling": "map",
            "attention_gate": "headwise",
            "value_residual": True,
        },
        {
            "is_causal": False,
            "pooling": "mean",
            "norm_type": "groupnorm",
            "attention_gate": "elementwise",
            "value_residual": True,
        },
    ),
    "linear patches": (
        {"patch_embedding": "linear", "pooling": "flatten", "layer_scale_init_value": 0.1},
        {"position_embedding_type": "sincos", "pooling": "last"},
    ),
}


@pytest.fixture(autouse=True)
def exact_products():
    """Convolutions in float32: by default cuDNN takes TF32, which has ten binary digits."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def build(architecture: str = "CLIP", **top) -> ClipVitModel:
    """A small CLIP in float32 on the CPU, the same every time."""
    vision, text = ARCHITECTURES[architecture]
    set_seed(0)
    return ClipVitModel(
        ClipVitConfig(
            vision_config={**VISION, **vision},
            text_config={**TEXT, **text},
            projection_dim=32,
            **top,
        )
    )


def make_inputs(device: str, count: int = 12) -> dict[str, torch.Tensor]:
    """Images, and texts of uneven lengths."""
    generator = torch.Generator().manual_seed(1)
    lengths = 3 + torch.arange(count) % 10
    ids = torch.randint(3, 300, (count, 12), generator=generator)
    ids[torch.arange(count), lengths - 1] = 2
    mask = (torch.arange(12) < lengths[:, None]).long()
    inputs = {
        "pixel_values": torch.randn(count, 3, 32, 32, generator=generator),
        "input_ids": ids * mask,
        "attention_mask": mask,
    }
    return {name: value.to(device) for name, value in inputs.items()}


def gradients(model: ClipVitModel, inputs: dict) -> dict[str, torch.Tensor]:
    """The gradient of each weight, on the CPU."""
    model.zero_grad()
    model(**inputs, return_loss=True).loss.backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def assert_near(given: dict, expected: dict, tolerance: float):
    """Each tensor is near the expected one, relative to the expected one's norm."""
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        distance = float((given[name] - value).norm() / value.norm().clamp(min=1e-4))
        assert distance < tolerance, f"{name} is off by {distance}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_those_of_a_cpu(architecture):
    model = build(architecture)
    expected = gradients(model, make_inputs("cpu"))
    given = gradients(copy.deepcopy(model).cuda(), make_inputs("cuda"))
    assert_near(given, expected, 1e-4)


def test_updates_equal_those_of_a_cpu():
    weights = {}
    for device in ("cpu", "cuda"):
        model, inputs = build().to(device), make_inputs(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4, fused=True)
        for _ in range(5):
            gradients(model, inputs)
            optimizer.step()
        weights[device] = {name: p.detach().cpu() for name, p in model.named_parameters()}
    assert_near(weights["cuda"], weights["cpu"], 1e-4)


@pytest.mark.parametrize("kernel", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_agree(architecture, kernel):
    inputs, model = make_inputs("cuda"), build(architecture).cuda()
    model.set_attn_implementation("eager")
    expected = gradients(model, inputs)
    model.set_attn_implementation(kernel)
    assert_near(gradients(model, inputs), expected, 1e-4)


def test_images_are_augmented_as_on_a_cpu():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (8, 3, 32, 32), generator=generator, dtype=torch.uint8)
    noise = torch.rand(8, NOISE_SIZE, generator=generator)
    options = AugmentOptions(rotation=20, zoom=0.3, saturation=0.5, hue=30, erase_probability=0.5)
    collate = Collator(None, options, [0.4] * 3, [0.6] * 3)
    given = collate.vary(pixels.cuda(), noise.cuda()).cpu()
    torch.testing.assert_close(given, collate.vary(pixels, noise), atol=1e-3, rtol=0)


def test_packed_texts_have_the_same_embeddings():
    inputs, model = make_inputs("cuda"), build().cuda().eval()
    lengths = inputs["attention_mask"].sum(dim=1).tolist()
    places = plan_packing(lengths, inputs["input_ids"].shape[1])
    with torch.inference_mode():
        expected = model(**inputs).text_embeds
        given = model(**inputs, packed_places=places.cuda()).text_embeds
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_blocks_compute_the_same(architecture):
    inputs, model = make_inputs("cuda"), build(architecture).cuda()
    expected = gradients(model, inputs)
    for tower in (model.vision_model, model.text_model):
        for block in tower.encoder.layers:
            block.compile()
    assert_near(gradients(model, inputs), expected, 1e-4)


def test_embeddings_in_bfloat16_are_close():
    inputs, model = make_inputs("cuda"), build().cuda().eval()
    with torch.inference_mode():
        expected = model(**inputs)
        with torch.autocast("cuda", torch.bfloat16):
            given = model(**inputs)
    for name in ("image_embeds", "text_embeds"):
        cosines = torch.nn.functional.cosine_similarity(given[name].float(), expected[name])
        assert float(cosines.min()) > 0.999


LOSSES = {
    "clip": lambda tile: ClipLoss(tile_size=tile),
    "multi_positive": lambda tile: MultiPositiveLoss(0.1, tile),
    "siglip": lambda tile: SigLipLoss(tile_size=tile),
    "hard_negative": lambda tile: HardNegativeLoss(tile_size=tile),
}


@pytest.mark.parametrize("tile_size", ["auto", None, 100])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_those_of_a_cpu_in_double_precision(name, tile_size):
    generator = torch.Generator().manual_seed(0)
    embeds = [
        torch.nn.functional.normalize(torch.randn(250, 32, generator=generator), dim=-1)
        for _ in range(2)
    ]
    numbers = [torch.tensor(20.0), torch.tensor(-5.0)]
    targets = None
    if name == "multi_positive":
        targets = (torch.arange(250) // 2, torch.arange(250) // 2)
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        leaves = [v.to(device, dtype).requires_grad_() for v in (*embeds, *numbers)]
        ids = None if targets is None else tuple(part.to(device) for part in targets)
        loss = LOSSES[name](tile_size)(*leaves, targets=ids)
        found = torch.autograd.grad(loss, leaves[:3])
        results.append({str(i): v.detach().double().cpu() for i, v in enumerate((loss, *found))})
    assert_near(results[1], results[0], 1e-5)


def test_the_gradient_cache_repeats_what_is_random():
    """With the same seed, one part of all is what a plain pass computes, dropout included."""
    model = build()
    for tower in (model.vision_model, model.text_model):
        tower.embeddings.dropout.p = 0.3
    model, inputs, loss = model.cuda().train(), make_inputs("cuda"), ClipLoss()

    def contrast(images, texts, scale, bias):
        return loss(images, texts, scale, bias), None

    found = []
    for is_cached in (False, True):
        model.zero_grad()
        set_seed(3)
        if is_cached:
            cached_backward(model, model.similarity, cut(inputs, 12), contrast)
        else:
            outputs = model(**inputs)
            scale = model.get_logit_scale()
            contrast(outputs.image_embeds, outputs.text_embeds, scale, None)[0].backward()
        found.append({name: p.grad.cpu() for name, p in model.named_parameters()})
    assert_near(found[1], found[0], 1e-5)


def test_a_gradient_cache_of_parts_has_the_gradients_of_the_whole():
    model, inputs, loss = build().cuda(), make_inputs("cuda"), ClipLoss()
    outputs = model(**inputs)
    loss(outputs.image_embeds, outputs.text_embeds, model.get_logit_scale()).backward()
    expected = {name: p.grad.cpu() for name, p in model.named_parameters()}
    model.zero_grad()
    cached_backward(model, model.similarity, cut(inputs, 5), lambda *e: (loss(*e), None))
    given = {name: p.grad.cpu() for name, p in model.named_parameters()}
    assert_near(given, expected, 1e-4)
