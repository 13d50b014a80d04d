"""Options of fine-tuning: adapters, and what keeps a model close to its start."""

from dataclasses import dataclass, field
from typing import Any

#: Kinds of adapters, by PEFT's names, that can be merged into the weights and need nothing but
#: gradients in training.
PEFT_TYPES = (
    "LORA",
    "C3A",
    "DELORA",
    "FOURIERFT",
    "GRALORA",
    "HIRA",
    "HRA",
    "IA3",
    "LOHA",
    "LOKR",
    "MISS",
    "OFT",
    "RANDLORA",
    "ROAD",
    "SHIRA",
    "VBLORA",
    "VERA",
    "WAVEFT",
)
#: As teacher: the checkpoint that the run starts from.
START = "start"


@dataclass
class AdapterOptions:
    """Train small matrices beside the weights, through PEFT, in place of the weights themselves.

    Args:
        peft_type: kind of adapter by PEFT's name: `LORA` (Hu et al., 2022), `LOHA`, `LOKR`, `OFT`,
            `IA3`, `VERA` and others; null trains the weights themselves. Needs
            model_name_or_path.
        lora_rank: rank of the matrices, for `LORA`.
        lora_vision_rank: rank in the image tower and its projection; null is lora_rank, and 0
            leaves the tower as it is.
        lora_text_rank: the same for the text tower.
        lora_alpha: the matrices' product is scaled by this over the rank, for `LORA`; null is
            twice the rank.
        lora_dropout: dropout before the matrices, for `LORA`.
        adapter_targets: layers to adapt: `all-linear`, a list of names or of their last parts, such
            as `[qkv_proj, out_proj]`, or a regular expression of whole names.
        modules_to_save: modules to train in full beside the adapter, and to save with it, such as
            `[similarity]` for the logit scale, or `[visual_projection, text_projection]`. The head
            of a classifier is always one of them.
        peft_fields: other fields of PEFT's configuration by its names, such as `{use_dora: true}`,
            `{use_rslora: true}`, or `{r: 4}` for other kinds than `LORA`.
        adapter_name_or_path: adapter of the same model to go on with, as PEFT saves it; its own
            configuration replaces the options above.
    """

    peft_type: str | None = None
    lora_rank: int = 8
    lora_vision_rank: int | None = None
    lora_text_rank: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    adapter_targets: str | list[str] = "all-linear"
    modules_to_save: list[str] = field(default_factory=list)
    peft_fields: dict[str, Any] = field(default_factory=dict)
    adapter_name_or_path: str | None = None

    @property
    def is_on(self) -> bool:
        """Whether an adapter is trained."""
        return self.peft_type is not None or self.adapter_name_or_path is not None


@dataclass
class FinetuningOptions:
    """Keep what a pretrained model knew.

    Args:
        head_first_steps: number of updates in which only what follows the towers learns: the class
            head, or projections and logit scale (LP-FT: Kumar et al., 2022). All weights learn
            after.
        l2_sp_weight: weight of a penalty of half the squared distance to the weights at the start
            (L2-SP: Li et al., 2018); 0 disables it. A new class head is not held.
        wise_ft: shares at which to measure the model between its start and its end, such as
            `[0, 0.25, 0.5, 0.75, 1]` (WiSE-FT: Wortsman et al., 2022); `[]` measures none.
        wise_ft_alpha: share of the end in the weights that are saved; 1 saves the end.
    """

    head_first_steps: int = 0
    l2_sp_weight: float = 0.0
    wise_ft: list[float] = field(default_factory=list)
    wise_ft_alpha: float = 1.0
