"""Whole training steps at ViT-B/32 size against open_clip's: data, forward, loss, backward, update.

    python benchmarks/training_throughput.py [--batch 64] [--rounds 6] [--precision fp32 bf16]

Both start from the same weights and see the same pictures and captions of data/emoji at 224 pixels,
with the same batch, optimiser, precision and threads; they take turns within every round. Each
reads its own way: ours pads texts to the longest of the batch, open_clip to 77 tokens. Then both
train on the very same tensors, and the losses of the two are compared step by step.
"""

import argparse
import gzip
import io
import json
import statistics
import tempfile
import time
from pathlib import Path

import open_clip
import torch
from accelerate.state import AcceleratorState
from open_clip.loss import ClipLoss as OpenClipLoss
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import AutoConfig, CLIPTokenizer

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.conversion import to_open_clip
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.models import build_processor
from modeling_clip_vit.training.trainer import Trainer, build_trainer

ROOT = Path(__file__).parent.parent
LEARNING_RATE, BETAS, DECAY = 1e-5, (0.9, 0.98), 0.2


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, from the merges that open_clip's package ships."""
    path = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    tokens = open_clip.SimpleTokenizer().encoder
    vocab = {names.get(token, token): number for token, number in tokens.items()}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77)


def save_start(folder: Path):
    """The weights that both start from, with CLIP's tokenizer."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(ROOT / "configuration" / "model" / "clip-vit-base-patch32")
    # The plain GELU: open_clip's default, and what torch fuses.
    config.vision_config.hidden_act = config.text_config.hidden_act = "gelu"
    ClipVitModel(config).save_pretrained(folder)
    build_processor(clip_tokenizer(), config.vision_config.image_size).save_pretrained(folder)


def start_ours(start: Path, folder: Path, batch: int, precision: str) -> Trainer:
    """Our engine, as a recipe sets it up."""
    fields = {
        "dataset": str(ROOT / "data" / "emoji"),
        "evaluations": "[]",
        "cache_images": "false",
        "caption_columns": "[caption_en]",
        "model_name_or_path": str(start),
        # Short sequences in bfloat16 on a CPU: torch's fused kernel goes backward slowly.
        "attn_implementation": "eager" if precision == "bf16" else "sdpa",
        "loss": "clip",
        "max_steps": "1000",
        "per_device_train_batch_size": str(batch),
        "learning_rate": str(LEARNING_RATE),
        "weight_decay": str(DECAY),
        "adam_beta1": str(BETAS[0]),
        "adam_beta2": str(BETAS[1]),
        "max_grad_norm": "0",
        "lr_scheduler_type": "constant",
        "warmup_ratio": "0",
        "bf16": str(precision == "bf16").lower(),
        "report_to": "none",
        "output_dir": str(folder),
    }
    AcceleratorState._reset_state(reset_partial_state=True)
    arguments = [part for name, value in fields.items() for part in (f"--{name}", value)]
    training = build_trainer(parse_arguments(arguments))
    training.set_training_mode()
    return training


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


class OpenClipTraining:
    """open_clip's step, as its `train_one_epoch` makes it."""

    def __init__(self, start: Path, batch: int, precision: str):
        self.model = to_open_clip(ClipVitModel.from_pretrained(start)).train()
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        rest = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": rest, "weight_decay": 0.0},
            {"params": decayed, "weight_decay": DECAY},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS)
        self.loss = OpenClipLoss()
        self.is_bf16 = precision == "bf16"
        samples = OpenClipSamples(open_clip.image_transform(224, is_train=True))
        self.loader = DataLoader(samples, batch, shuffle=True, drop_last=True)

    def batches(self):
        """Batches without end."""
        while True:
            yield from self.loader

    def step(self, images: torch.Tensor, texts: torch.Tensor) -> float:
        """Forward, loss, backward, update; returns the loss."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_bf16):
            image_features, text_features, scale = self.model(images, texts)
            loss = self.loss(image_features, text_features, scale)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, 4.6052)
        return loss.item()


def measure(start: Path, batch: int, rounds: int, precision: str) -> dict:
    """Seconds of whole steps of both, taking turns."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (
            start_ours(start, Path(folder), batch, precision),
            OpenClipTraining(start, batch, precision),
        )
        our_batches, their_batches = ours.batches(), theirs.batches()

        def our_step():
            float(ours.train_step(next(our_batches))["loss"])
            ours.progress.step += 1

        steps = {"ours": our_step, "open_clip": lambda: theirs.step(*next(their_batches))}
        times: dict[str, list[float]] = {name: [] for name in steps}
        for turn in range(rounds + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                if turn:  # the first warms up
                    times[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(
            f"| {precision} | {name} | {min(values):.2f} s | {middle[name]:.2f} s "
            f"| {max(values):.2f} s | {batch / middle[name]:.1f} "
            f"| {middle['open_clip'] / middle[name]:.2f} |",
            flush=True,
        )
    return times


def compare_losses(start: Path, batch: int, steps: int) -> list[tuple[float, float]]:
    """Losses of both on the very same tensors, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = (
            start_ours(start, Path(folder), batch, "fp32"),
            OpenClipTraining(start, batch, "fp32"),
        )
        losses = []
        for number, tensors in zip(range(steps), ours.batches(), strict=False):
            images = tensors["pixel_values"]
            texts = torch.nn.functional.pad(
                tensors["input_ids"] * tensors["attention_mask"],
                (0, 77 - tensors["input_ids"].shape[1]),
            )
            mine = float(ours.train_step(tensors)["loss"])
            ours.progress.step += 1
            losses.append((mine, theirs.step(images, texts)))
            print(f"step {number + 1}: ours {losses[-1][0]:.5f}, open_clip {losses[-1][1]:.5f}")
    largest = max(abs(a - b) for a, b in losses)
    print(f"largest difference over {steps} steps: {largest:.1e}")
    return losses


def main():
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--precision", nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--loss_steps", type=int, default=20)
    parser.add_argument("--loss_batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        save_start(Path(folder))
        print(f"batch {options.batch}, {torch.get_num_threads()} threads")
        print("| precision | engine | min | median | max | pairs/s | times open_clip |")
        print("| --- " * 7 + "|")
        for precision in options.precision:
            result[precision] = measure(Path(folder), options.batch, options.rounds, precision)
        if options.loss_steps:
            result["losses"] = compare_losses(Path(folder), options.loss_batch, options.loss_steps)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
