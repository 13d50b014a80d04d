"""The gate on what heads attend to, and values mixed with the first block's."""

import pytest
import torch
from torch.testing import assert_close

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.training.muon import Muon
from modeling_clip_vit.training.optimizer import build_optimizer
from modeling_clip_vit.training.options import OptimizerOptions
from tests.support.models import make_images, make_texts, small_config, small_model

GATES = ["none", "headwise", "elementwise"]
LENGTHS = [4, 7, 6, 5]


def both(**fields) -> dict[str, dict]:
    """The same fields in both towers, of three blocks."""
    fields = {"num_hidden_layers": 3, **fields}
    return {"vision": fields, "text": fields}


def stirred(**fields) -> ClipVitModel:
    """A small model whose shares of values and biases of gates are no longer those of the start."""
    model = small_model(**both(**fields))
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "value_share" in name or "gate_proj" in name:
                weight.add_(0.4 * torch.randn(weight.shape, generator=generator))
    return model


def plain_text_tower(model: ClipVitModel, texts: dict) -> torch.Tensor:
    """The causal text tower written out from its weights, text by text and head by head: (B, L, D).

    Padding on the right is left out, so that rows have zeros there.
    """
    state, config = model.text_model.state_dict(), model.config.text_config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size, width = config.head_dim, config.hidden_size

    def norm(values: torch.Tensor, name: str) -> torch.Tensor:
        centred = values - values.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(values: torch.Tensor, name: str) -> torch.Tensor:
        return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    result = torch.zeros(*texts["input_ids"].shape, width)
    for row, ids in enumerate(texts["input_ids"]):
        count = int(texts["attention_mask"][row].sum())
        hidden = state["embeddings.token_embedding.weight"][ids[:count]]
        hidden = hidden + state["embeddings.position_embedding.weight"][:count]
        first_values = None
        for number in range(config.num_hidden_layers):
            at = f"encoder.layers.{number}"
            seen = norm(hidden, f"{at}.norm1")
            states = linear(seen, f"{at}.attention.qkv_proj")
            query, key, value = states.split((heads * size, groups * size, groups * size), dim=-1)
            if config.value_residual and number == 0:
                first_values = value
            elif config.value_residual:
                share = state[f"{at}.attention.value_share"]
                value = share * value + (1 - share) * first_values
            attended = []
            for head in range(heads):
                pair = head * groups // heads
                scores = query[:, head * size :][:, :size] @ key[:, pair * size :][:, :size].T
                scores = scores / size**0.5
                scores[torch.ones(count, count).triu(1).bool()] = -torch.inf
                attended.append(scores.softmax(dim=-1) @ value[:, pair * size :][:, :size])
            if config.attention_gate != "none":
                gates = 1 / (1 + torch.exp(-linear(seen, f"{at}.attention.gate_proj")))
                share_of_gates = gates.shape[-1] // heads
                for head, values in enumerate(attended):
                    gate = gates[:, head * share_of_gates :][:, :share_of_gates]
                    attended[head] = values * gate
            hidden = hidden + linear(torch.cat(attended, dim=-1), f"{at}.attention.out_proj")
            inner = linear(norm(hidden, f"{at}.norm2"), f"{at}.feed_forward.fc1")
            hidden = hidden + linear(torch.nn.functional.gelu(inner), f"{at}.feed_forward.fc2")
        result[row, :count] = norm(hidden, "final_norm")
    return result


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("num_key_value_heads", [1, 2])
@pytest.mark.parametrize("value_residual", [False, True])
@pytest.mark.parametrize("gate", GATES)
@torch.no_grad()
def test_a_tower_equals_its_formulas(gate, value_residual, num_key_value_heads, kernel):
    model = stirred(
        attention_gate=gate,
        value_residual=value_residual,
        num_key_value_heads=num_key_value_heads,
    )
    model.set_attn_implementation(kernel)
    texts = make_texts(LENGTHS)
    hidden = model.text_model(**texts).last_hidden_state
    mask = texts["attention_mask"].unsqueeze(-1)
    assert_close(hidden * mask, plain_text_tower(model, texts), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_flexible_attention_computes_the_same():
    """Without compiling its kernel, which takes a minute on a CPU."""
    model = stirred(attention_gate="elementwise", value_residual=True)
    inputs = {"pixel_values": make_images(4), **make_texts(LENGTHS)}
    expected = model(**inputs).logits_per_image
    model.set_attn_implementation("flex_attention")
    with torch.compiler.set_stance("force_eager"):
        assert_close(model(**inputs).logits_per_image, expected, atol=1e-4, rtol=1e-4)


def test_a_gate_starts_near_one_half():
    """Small weights and no bias, as every other layer: sigmoid(0) in the mean."""
    model = ClipVitModel(small_config(**both(attention_gate="elementwise")))
    for name, weight in model.named_parameters():
        if "gate_proj.weight" in name:
            assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        if "gate_proj.bias" in name:
            assert not weight.any()


def test_values_start_as_the_mean_of_both():
    model = ClipVitModel(small_config(**both(value_residual=True)))
    shares = [weight for name, weight in model.named_parameters() if "value_share" in name]
    assert [weight.tolist() for weight in shares] == [[0.5]] * 4  # two later blocks, two towers


def test_a_share_of_one_is_a_model_without_it():
    model, plain = small_model(**both(value_residual=True)), small_model(**both())
    state = model.state_dict()
    shares = [name for name in state if "value_share" in name]
    for name in shares:
        state[name].fill_(1)
    plain.load_state_dict({name: value for name, value in state.items() if name not in shares})
    inputs = {"pixel_values": make_images(4), **make_texts(LENGTHS)}
    assert_close(model(**inputs).logits_per_image, plain(**inputs).logits_per_image)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"attention_gate": "headwise"}, {"gate_proj.weight": (2, 24), "gate_proj.bias": (2,)}),
        (
            {"attention_gate": "headwise", "attention_gate_bias": False},
            {"gate_proj.weight": (2, 24)},
        ),
        (
            {"attention_gate": "elementwise", "attention_bias": False},
            {"gate_proj.weight": (24, 24)},
        ),
        ({"value_residual": True}, {"value_share": (1,)}),
        ({}, {}),
    ],
)
def test_which_weights_an_option_adds_to_a_block(fields, names):
    attention = small_model(text=fields).text_model.encoder.layers[1].attention
    added = {
        name: tuple(weight.shape)
        for name, weight in attention.named_parameters()
        if not name.startswith(("qkv_proj", "out_proj"))
    }
    assert added == names


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_keeps_every_gradient(use_reentrant):
    inputs = {"pixel_values": make_images(4), **make_texts(LENGTHS)}
    gradients = []
    for is_checkpointed in (False, True):
        model = stirred(attention_gate="elementwise", value_residual=True).double().train()
        if is_checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            # Reentrant checkpoints need an input with a gradient.
            model.vision_model.embeddings.register_forward_hook(
                lambda module, args, output: (output[0].requires_grad_(), *output[1:])
            )
        inputs["pixel_values"] = inputs["pixel_values"].double()
        model(**inputs, return_loss=True).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        assert_close(gradients[1][name], gradient, atol=1e-12, rtol=1e-9)


def test_hidden_states_and_attention_maps_are_recorded():
    model = stirred(attention_gate="headwise", value_residual=True)
    model.set_attn_implementation("eager")
    outputs = model.vision_model(make_images(2), output_hidden_states=True, output_attentions=True)
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, 17, 32)] * 4
    assert [tuple(weights.shape) for weights in outputs.attentions] == [(2, 4, 17, 17)] * 3


def test_muon_takes_gates_and_adamw_the_shares():
    model = stirred(attention_gate="headwise", value_residual=True)
    optimizer = build_optimizer(model, OptimizerOptions(optim="muon"))
    assert isinstance(optimizer, Muon)
    kinds = {
        id(weight): (group["use_muon"], group["weight_decay"] > 0)
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    for name, weight in model.named_parameters():
        if "gate_proj.weight" in name:
            assert kinds[id(weight)] == (True, True), name
        if "gate_proj.bias" in name or "value_share" in name:
            assert kinds[id(weight)] == (False, False), name


def test_a_checkpoint_loads_as_it_was(tmp_path):
    model = stirred(attention_gate="elementwise", value_residual=True)
    model.save_pretrained(tmp_path)
    again = ClipVitModel.from_pretrained(tmp_path).eval()
    inputs = {"pixel_values": make_images(4), **make_texts(LENGTHS)}
    assert torch.equal(again(**inputs).logits_per_image, model(**inputs).logits_per_image)
