"""One training step of a CLIP as clip-vit, open_clip and Transformers make it, on the same weights.

Shape legend: `B` pairs, `L` tokens.
"""

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from accelerate.state import AcceleratorState
from open_clip.loss import ClipLoss as OpenClipLoss
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import AutoConfig, CLIPTokenizer

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.conversion import to_hf_clip, to_open_clip
from modeling_clip_vit.data.packing import plan_for_mask
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.models import build_processor
from modeling_clip_vit.training.trainer import Trainer, build_trainer

ROOT = Path(__file__).parent.parent
LEARNING_RATE, BETAS, DECAY = 1e-5, (0.9, 0.98), 0.2
#: Tokens that CLIP pads texts to, and the last one of a text.
PADDED_LENGTH, END = 77, 49407
#: Our engine's settings -> options of its recipe.
OUR_OPTIONS: dict[str, dict[str, str]] = {
    "ours": {},
    "ours, compiled": {"torch_compile": "true"},
    "ours, checkpointed": {"gradient_checkpointing": "true"},
    "ours, packed": {"pack_texts": "true"},
    "ours, padded": {"pack_texts": "false"},
    "ours, eager attention": {"attn_implementation": "eager"},
    "ours, LoRA": {"peft_type": "LORA", "lora_rank": "16"},
    "ours, gradient cache": {"gradient_cache_batch_size": "1024"},
    "ours, compiled, gradient cache": {
        "torch_compile": "true",
        "gradient_cache_batch_size": "1024",
    },
}
PEERS = (
    *("open_clip", "open_clip, compiled"),
    *("transformers", "transformers, compiled", "transformers, LoRA"),
)


@dataclass
class Setup:
    """What all engines have in common.

    Args:
        start: folder of the weights that all start from.
        folder: for what ours writes.
        device: such as `cpu` or `cuda`.
        batch: pairs in a step.
        precision: `fp32`, `tf32` (products of float32 in fewer digits) or `bf16` (autocast).
        workers: processes that read data.
    """

    start: Path
    folder: Path
    device: str
    batch: int
    precision: str
    workers: int = 0


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, from the merges that open_clip's package ships."""
    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokens = open_clip.SimpleTokenizer().encoder
    vocab = {names.get(token, token): number for token, number in tokens.items()}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=PADDED_LENGTH)


def save_start(folder: Path, name: str = "clip-vit-base-patch32"):
    """The weights that all start from, with CLIP's tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(ROOT / "configuration" / "model" / name)
    # The plain GELU: open_clip's default, and what torch fuses.
    config.vision_config.hidden_act = config.text_config.hidden_act = "gelu"
    ClipVitModel(config).save_pretrained(folder)
    build_processor(clip_tokenizer(), config.vision_config.image_size).save_pretrained(folder)


class RandomInputs:
    """Random images and texts, made once and kept on the device.

    Args:
        setup: of the engines.
        image_size: side in pixels.
        mean_length: tokens of a text: 77, or a mean of log-normal lengths from 5 to 77.
    """

    def __init__(self, setup: Setup, image_size: int, mean_length: int):
        generator = torch.Generator().manual_seed(0)
        shape = (setup.batch, 3, image_size, image_size)
        torch.manual_seed(0)
        self.images = torch.randn(shape, device=setup.device)
        lengths_B = torch.full((setup.batch,), PADDED_LENGTH)
        if mean_length < PADDED_LENGTH:
            # The spread of captions from the web; exp(0.7² / 2) is the mean of the exponential.
            spread_B = (0.7 * torch.randn(setup.batch, generator=generator)).exp()
            lengths_B = (mean_length * spread_B / 1.278).long().clamp(5, PADDED_LENGTH)
        ids_BL = torch.randint(1, 49000, (setup.batch, PADDED_LENGTH), generator=generator)
        ids_BL[torch.arange(setup.batch), lengths_B - 1] = END
        mask_BL = (torch.arange(PADDED_LENGTH) < lengths_B[:, None]).long()
        self.ids_BL, self.mask_BL = (ids_BL * mask_BL).to(setup.device), mask_BL.to(setup.device)
        self.longest = int(lengths_B.max())
        self.mean_length = float(lengths_B.float().mean())

    def ours(self) -> dict:
        """A batch of our loader: texts padded to the longest."""
        ids = torch.arange(len(self.images), device=self.images.device)
        return {
            "pixel_values": self.images,
            "input_ids": self.ids_BL[:, : self.longest],
            "attention_mask": self.mask_BL[:, : self.longest],
            "image_ids": ids,
            "text_ids": ids,
            "first_views": torch.arange(len(ids), device=ids.device),
            "other_views": ids[:0],
            "mix_seed": 0,
            "skipped": [],
        }


def start_ours(setup: Setup, **options: str) -> Trainer:
    """Our engine, as a recipe sets it up."""
    is_bf16 = setup.precision == "bf16"
    fields = {
        "dataset": str(ROOT / "data" / "emoji"),
        "evaluations": "[]",
        "cache_images": "false",
        "caption_columns": "[caption_en]",
        "model_name_or_path": str(setup.start),
        "loss": "clip",
        "max_steps": "100000",
        # The bundled dataset has no more pictures for a batch; random inputs have.
        "per_device_train_batch_size": str(min(setup.batch, 2048)),
        "dataloader_num_workers": str(setup.workers),
        "learning_rate": str(LEARNING_RATE),
        "weight_decay": str(DECAY),
        "adam_beta1": str(BETAS[0]),
        "adam_beta2": str(BETAS[1]),
        "max_grad_norm": "0",
        "lr_scheduler_type": "constant",
        "warmup_ratio": "0",
        "bf16": str(is_bf16).lower(),
        "report_to": "none",
        "output_dir": str(setup.folder),
        **options,
    }
    if setup.device == "cpu" and is_bf16:
        # Short sequences in bfloat16 on a CPU: torch's fused kernel goes backward slowly.
        fields.setdefault("attn_implementation", "eager")
    AcceleratorState._reset_state(reset_partial_state=True)
    arguments = [part for name, value in fields.items() for part in (f"--{name}", value)]
    training = build_trainer(parse_arguments(arguments))
    training.set_training_mode()
    return training


class OurEngine:
    """Our trainer's step."""

    def __init__(self, setup: Setup, name: str, inputs: RandomInputs | None):
        self.training = start_ours(setup, **OUR_OPTIONS[name])
        self.batches = self.training.batches()
        self.batch = inputs.ours() if inputs else None
        if self.batch and self.training.preparation.data.collate.packs_texts:
            # The loader plans it, which is not timed.
            places = plan_for_mask(self.batch["attention_mask"].cpu())
            if places is not None:
                self.batch["packed_places"] = places.to(setup.device)

    def step(self) -> torch.Tensor:
        """One update; returns the loss."""
        loss = self.training.train_step(self.batch or next(self.batches))["loss"]
        self.training.progress.step += 1
        return loss


class PeerEngine:
    """A step with AdamW on a peer's model, without what only our engine does around it."""

    #: Whether AdamW runs as one kernel.
    is_fused = False

    def __init__(self, setup: Setup, model: torch.nn.Module, compiled: bool):
        self.setup = setup
        self.model = model.to(setup.device).train()
        if compiled:
            self.model.compile()
        learning = [p for p in self.model.parameters() if p.requires_grad]
        decayed = [p for p in learning if p.ndim >= 2]
        rest = [p for p in learning if p.ndim < 2]
        groups = [
            {"params": rest, "weight_decay": 0.0},
            {"params": decayed, "weight_decay": DECAY},
        ]
        fused = self.is_fused or None
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=fused)

    def autocast(self) -> torch.autocast:
        """bfloat16 autocast, where the precision is that."""
        is_bf16 = self.setup.precision == "bf16"
        return torch.autocast(self.setup.device, torch.bfloat16, enabled=is_bf16)


class OpenClipEngine(PeerEngine):
    """open_clip's step, as its `train_one_epoch` makes it, with the backends as its `main` sets."""

    def __init__(self, setup: Setup, name: str, inputs: RandomInputs | None):
        super().__init__(
            setup, to_open_clip(ClipVitModel.from_pretrained(setup.start)), "compiled" in name
        )
        self.loss = OpenClipLoss()
        self.inputs = (inputs.images, inputs.ids_BL) if inputs else None
        if inputs is None:
            self.batches = self.read()

    def read(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches without end."""
        loader = DataLoader(
            OpenClipSamples(open_clip.image_transform(224, is_train=True)),
            self.setup.batch,
            shuffle=True,
            drop_last=True,
            num_workers=self.setup.workers,
            persistent_workers=self.setup.workers > 0,
            pin_memory=self.setup.device == "cuda",
        )
        while True:
            for tensors in loader:
                yield tuple(t.to(self.setup.device, non_blocking=True) for t in tensors)

    def step(self) -> torch.Tensor:
        """Forward, loss, backward, update; returns the loss."""
        return self.train(*(self.inputs or next(self.batches)))

    def train(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """One update on these inputs; returns the loss."""
        with open_clip_backends():
            self.optimizer.zero_grad()
            with self.autocast():
                image_features, text_features, scale = self.model(images, texts)
                loss = self.loss(image_features, text_features, scale)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, 4.6052)
        return loss.detach()


@contextmanager
def open_clip_backends() -> Iterator[None]:
    """cuDNN measures its kernels and takes the fastest, as open_clip's `main` sets it.

    It also sets TF32, which here is a precision of its own.
    """
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


class OpenClipSamples(Dataset):
    """Rows read and transformed as open_clip's CSV dataset does."""

    def __init__(self, transform):
        self.rows = open_dataset(str(ROOT / "data" / "emoji"))["train"]
        self.transform, self.tokenize = transform, open_clip.get_tokenizer("ViT-B-32")

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number: int):
        row = self.rows[number]
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        return self.transform(image), self.tokenize([row["caption_en"]])[0]


class TransformersEngine(PeerEngine):
    """Transformers' CLIP, its own loss and the fused AdamW of its Trainer; random inputs only.

    With LoRA, PEFT puts adapters on every linear layer, as in our recipe.
    """

    is_fused = True

    def __init__(self, setup: Setup, name: str, inputs: RandomInputs | None):
        if inputs is None:
            raise SystemExit("transformers is measured on random inputs only: use --tokens")
        model = to_hf_clip(ClipVitModel.from_pretrained(setup.start))
        if "LoRA" in name:
            from peft import LoraConfig, get_peft_model

            config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
            model = get_peft_model(model, config)
        super().__init__(setup, model, "compiled" in name)
        self.inputs = {
            "pixel_values": inputs.images,
            "input_ids": inputs.ids_BL,
            "attention_mask": inputs.mask_BL,
            "return_loss": True,
        }

    def step(self) -> torch.Tensor:
        """Forward with the loss, backward, update; returns the loss."""
        self.optimizer.zero_grad()
        with self.autocast():
            loss = self.model(**self.inputs).loss
        loss.backward()
        self.optimizer.step()
        return loss.detach()


Engine = OurEngine | OpenClipEngine | TransformersEngine


def build_engine(setup: Setup, name: str, inputs: RandomInputs | None) -> Engine:
    """The engine of a name."""
    if name in OUR_OPTIONS:
        return OurEngine(setup, name, inputs)
    kind = OpenClipEngine if name.startswith("open_clip") else TransformersEngine
    return kind(setup, name, inputs)
