"""Uses of a built-in model: compile, export, fine-tune, train with Trainer."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import Trainer, TrainingArguments

from modeling_clip_vit import ClipVitForImageClassification
from tests.support.models import make_images, make_texts, small_model

MODERN = {
    "norm_type": "rmsnorm",
    "mlp_type": "glu",
    "hidden_act": "silu",
    "position_embedding_type": "rope",
    "qk_norm": True,
    "num_key_value_heads": 2,
    "attention_gate": "elementwise",
    "value_residual": True,
}
VARIANTS = [
    ({}, {}),
    ({**MODERN, "num_register_tokens": 2, "pooling": "map"}, {**MODERN, "pooling": "last"}),
    (
        {"patch_embedding": "conv_stem", "pooling": "flatten"},
        {"pooling": "mean", "is_causal": False},
    ),
]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]


def example() -> dict[str, torch.Tensor]:
    return {"pixel_values": make_images(3), **make_texts([4, 7, 6])}


@pytest.mark.parametrize(("vision", "text"), VARIANTS)
def test_it_compiles_without_a_graph_break(vision, text):
    model, inputs = small_model(vision, text), example()
    expected = model(**inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    assert_close(compiled.logits_per_image, expected.logits_per_image, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("vision", "text"), VARIANTS)
def test_it_exports(vision, text):
    model, inputs = small_model(vision, text), example()
    program = torch.export.export(model, (), inputs)
    again = program.module()(**inputs)
    assert_close(again["logits_per_image"], model(**inputs).logits_per_image, atol=1e-4, rtol=1e-4)


@pytest.fixture
def tuned():
    """A model with LoRA on every linear layer."""
    return get_peft_model(small_model(), LoraConfig(r=2, target_modules="all-linear"))


def test_lora_changes_nothing_at_first(tuned):
    expected = small_model()(**example()).logits_per_image
    assert_close(tuned(**example()).logits_per_image, expected)


def test_lora_is_on_every_kind_of_linear_layer_and_the_rest_is_frozen(tuned):
    names = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name in names)
    for part in ("qkv_proj", "out_proj", "fc1", "fc2", "text_projection", "visual_projection"):
        assert any(part in name for name in names), part


def test_lora_has_gradients(tuned):
    tuned(**example(), return_loss=True).loss.backward()
    assert all(p.grad is not None for p in tuned.parameters() if p.requires_grad)


def arguments(folder) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=30,
        per_device_train_batch_size=8,
        learning_rate=3e-3,
        report_to=[],
        save_strategy="no",
        logging_steps=10,
        use_cpu=True,
        remove_unused_columns=False,
    )


class Pairs(torch.utils.data.Dataset):
    """Eight images, each with a text of its own."""

    def __init__(self):
        self.images, self.texts = make_images(8), make_texts([5] * 8)

    def __len__(self):
        return 80

    def __getitem__(self, index):
        row = index % 8
        texts = {name: values[row] for name, values in self.texts.items()}
        return {"pixel_values": self.images[row], **texts}


def test_trainer_trains_the_joint_model_with_its_own_loss(tmp_path):
    model = small_model(text={"pooling": "mean", "is_causal": False})

    def collate(rows):
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        return {**batch, "return_loss": True}

    trainer = Trainer(model, arguments(tmp_path), collate, Pairs())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_trainer_trains_the_classifier_from_labels(tmp_path):
    config = small_model().config.vision_config
    config.num_labels = 8
    torch.manual_seed(0)
    images = make_images(8)
    rows = [{"pixel_values": images[i % 8], "labels": i % 8} for i in range(80)]
    trainer = Trainer(
        ClipVitForImageClassification(config), arguments(tmp_path), train_dataset=rows
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
