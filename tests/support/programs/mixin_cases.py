"""Transformers' own model tests, run on our four kinds of model by `test_mixins.py`."""

import importlib
import unittest

import torch

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitForImageClassification,
    ClipVitModel,
    ClipVitTextConfig,
    ClipVitTextModel,
    ClipVitTextModelWithProjection,
    ClipVitVisionConfig,
    ClipVitVisionModel,
    ClipVitVisionModelWithProjection,
)
from tests.support.transformers_tests import PACKAGE

common = importlib.import_module(f"{PACKAGE}.test_modeling_common")
configuration = importlib.import_module(f"{PACKAGE}.test_configuration_common")

BATCH, LENGTH, SIZE = 4, 7, 30
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
}
VISION = {**SHAPE, "image_size": SIZE, "patch_size": 6}
TEXT = {
    **SHAPE,
    "vocab_size": 99,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class VisionTester:
    is_training = False
    batch_size = BATCH
    seq_length = (SIZE // 6) ** 2 + 1
    encoder_seq_length = seq_length
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    image_size, num_channels = SIZE, 3

    def get_config(self):
        return ClipVitVisionConfig(**VISION)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": torch.rand(BATCH, 3, SIZE, SIZE)}


class TextTester:
    is_training = False
    batch_size = BATCH
    seq_length = encoder_seq_length = LENGTH
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def get_config(self):
        return ClipVitTextConfig(**TEXT)

    def prepare_config_and_inputs_for_common(self):
        mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
        mask[:, -2:] = 0
        ids = torch.randint(3, 99, (BATCH, LENGTH))
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


class JointTester:
    is_training = False
    batch_size = BATCH
    seq_length = encoder_seq_length = LENGTH
    vision_model_tester, text_model_tester = VisionTester(), TextTester()

    def get_config(self):
        return ClipVitConfig(vision_config=VISION, text_config=TEXT, projection_dim=32)

    def prepare_config_and_inputs_for_common(self):
        _, images = self.vision_model_tester.prepare_config_and_inputs_for_common()
        _, texts = self.text_model_tester.prepare_config_and_inputs_for_common()
        return self.get_config(), {**images, **texts, "return_loss": True}


class ContractMixin(common.ModelTesterMixin):
    tester_class: type
    config_class: type
    has_text_modality = True

    def setUp(self):
        self.model_tester = self.tester_class()
        self.config_tester = configuration.ConfigTester(
            self,
            config_class=self.config_class,
            has_text_modality=self.has_text_modality,
            hidden_size=48,
        )

    def test_config(self):
        self.config_tester.run_common_tests()


class ImageMixin(ContractMixin):
    """What Transformers' own CLIP tests differently for images: patches are no embedding table."""

    def test_model_get_set_embeddings(self):
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config)
            assert isinstance(model.get_input_embeddings(), torch.nn.Module)
            assert model.get_output_embeddings() is None


class VisionContractTest(ImageMixin, unittest.TestCase):
    all_model_classes = (ClipVitVisionModel, ClipVitVisionModelWithProjection)
    tester_class, config_class, has_text_modality = VisionTester, ClipVitVisionConfig, False
    test_resize_embeddings = False


class TextContractTest(ContractMixin, unittest.TestCase):
    all_model_classes = (ClipVitTextModel, ClipVitTextModelWithProjection)
    tester_class, config_class = TextTester, ClipVitTextConfig


class JointContractTest(ContractMixin, unittest.TestCase):
    all_model_classes = (ClipVitModel,)
    tester_class, config_class, has_text_modality = JointTester, ClipVitConfig, False
    _is_composite = True
    test_resize_embeddings = False
    has_attentions = False

    def test_hidden_states_output(self):
        self.skipTest("each tower's hidden states are in its own output, and tested there")

    def test_retain_grad_hidden_states_attentions(self):
        self.skipTest("each tower's hidden states are in its own output, and tested there")


class ClassifierContractTest(ImageMixin, unittest.TestCase):
    all_model_classes = (ClipVitForImageClassification,)
    tester_class, config_class, has_text_modality = VisionTester, ClipVitVisionConfig, False
    test_resize_embeddings = False
