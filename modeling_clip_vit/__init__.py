"""clip-vit: ViT and CLIP models for Hugging Face Transformers.

Importing this package registers its models with the Auto classes. Nothing else is imported that a
forward pass does not need: training, evaluation and the rest live in sub-packages.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    CLIPProcessor,
)

from .configuration_clip_vit import ClipVitConfig, ClipVitTextConfig, ClipVitVisionConfig
from .modeling_clip_vit import (
    ClipVitForImageClassification,
    ClipVitModel,
    ClipVitPreTrainedModel,
    ClipVitTextModel,
    ClipVitTextModelWithProjection,
    ClipVitVisionModel,
    ClipVitVisionModelWithProjection,
)
from .utils.versions import __version__

for _config_class, _model_class in (
    (ClipVitConfig, ClipVitModel),
    (ClipVitVisionConfig, ClipVitVisionModel),
    (ClipVitTextConfig, ClipVitTextModel),
):
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)
    AutoModel.register(_config_class, _model_class, exist_ok=True)
AutoModelForZeroShotImageClassification.register(ClipVitConfig, ClipVitModel, exist_ok=True)
AutoModelForImageClassification.register(
    ClipVitVisionConfig, ClipVitForImageClassification, exist_ok=True
)
AutoProcessor.register(ClipVitConfig, CLIPProcessor, exist_ok=True)

__all__ = [
    "ClipVitConfig",
    "ClipVitForImageClassification",
    "ClipVitModel",
    "ClipVitPreTrainedModel",
    "ClipVitTextConfig",
    "ClipVitTextModel",
    "ClipVitTextModelWithProjection",
    "ClipVitVisionConfig",
    "ClipVitVisionModel",
    "ClipVitVisionModelWithProjection",
    "__version__",
]
