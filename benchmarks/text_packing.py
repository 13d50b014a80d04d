"""What padding costs: texts of many lengths, and images in their own aspect ratio.

    taskset -c 0 python benchmarks/text_packing.py [--batch 64] [--rounds 2] [--json FILE]
    taskset -c 0 python benchmarks/text_packing.py --native [--json FILE]

Captions have lengths as on the web: log-normal, the median 13 tokens, cut at 77, and words of
data/emoji. Every way of arranging them trains the same weights with the same loss, AdamW and batch,
in turns, first the text tower alone and then the whole pair; before that, its embeddings are
compared with those of texts padded to 77 tokens.

With --native, the image tower trains on pictures of the aspect ratios of cameras and screens, as
squares and in their own aspect ratio, with the same number of patches at most.

Shape legend: `B` pairs, `L` tokens or patches, `P` projection, `D` numbers of a patch.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from devices import describe_device
from torch.nn.functional import normalize, pad
from training_engines import BETAS, DECAY, LEARNING_RATE, PADDED_LENGTH, ROOT, clip_tokenizer
from transformers import AutoConfig

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.conversion import to_open_clip
from modeling_clip_vit.data.grids import fit_size
from modeling_clip_vit.data.native import cut_patches
from modeling_clip_vit.data.packing import plan_for_mask
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.losses import ClipLoss

#: Tokens of captions: the median of a log-normal distribution, and its sigma.
MEDIAN, SIGMA = 13, 0.6
#: Parts that a batch sorted by length is cut into.
PARTS = 4
#: Width and height of pictures from cameras, telephones and screens, in turns.
RATIOS = ((4, 3), (3, 2), (3, 4), (16, 9), (1, 1), (2, 3), (9, 16), (5, 4))
Embed = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def draw_captions(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of captions, (B, 77), with zeros as padding."""
    rng = np.random.default_rng(seed)
    captions = open_dataset(str(ROOT / "data" / "emoji"))["train"]["caption_en"]
    lengths = np.exp(rng.normal(np.log(MEDIAN), SIGMA, count)).round().astype(int)
    tokenizer = clip_tokenizer()
    ids_BL = torch.zeros(count, PADDED_LENGTH, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, length in enumerate(lengths.clip(4, PADDED_LENGTH)):
        words = " ".join(captions[int(number)] for number in rng.integers(len(captions), size=40))
        ids = tokenizer(words, truncation=True, max_length=int(length)).input_ids
        ids_BL[row, : len(ids)], mask_BL[row, : len(ids)] = torch.tensor(ids), 1
    return ids_BL, mask_BL


def text_arrangements(ours: ClipVitModel, theirs: torch.nn.Module) -> dict[str, Embed]:
    """Name -> embeds padded texts, (B, 77), with what a loader would cut and plan."""

    def embed(ids_BL: torch.Tensor, mask_BL: torch.Tensor, **options) -> torch.Tensor:
        longest = int(mask_BL.sum(dim=1).max())
        outputs = ours.get_text_features(ids_BL[:, :longest], mask_BL[:, :longest], **options)
        return outputs.pooler_output

    def in_parts(ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        order_B = mask_BL.sum(dim=1).argsort()
        embeds_BP = torch.cat([embed(ids_BL[b], mask_BL[b]) for b in order_B.chunk(PARTS)])
        return embeds_BP[order_B.argsort()]

    def packed(ids_BL: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        places = plan_for_mask(mask_BL[:, : int(mask_BL.sum(dim=1).max())])
        return embed(ids_BL, mask_BL, packed_places=places)

    return {
        "padded to 77": lambda ids, mask: ours.get_text_features(ids, mask).pooler_output,
        "padded to the longest": embed,
        "in parts sorted by length": in_parts,
        "packed": packed,
        "open_clip": lambda ids, mask: theirs.encode_text(ids),
    }


class Step:
    """Forward, contrastive loss, backward and AdamW of one model.

    Args:
        model: ours or open_clip's.
    """

    def __init__(self, model: torch.nn.Module):
        model.train()
        self.loss = ClipLoss()
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=DECAY
        )

    def run(self, embed_pair: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> float:
        """One step with images and texts as `embed_pair` embeds them, (B, P) each.

        Returns:
            Seconds of the processor: a busy machine changes them less than those of the clock. With
            several threads, all of theirs count.
        """
        started = time.process_time()
        self.optimizer.zero_grad()
        images_BP, texts_BP = (normalize(embeds, dim=-1) for embeds in embed_pair())
        self.loss(images_BP, texts_BP, torch.tensor(100.0)).backward()
        self.optimizer.step()
        return time.process_time() - started


def read_config(options: argparse.Namespace):
    """The configuration of the pair, with the plain GELU, which torch fuses."""
    config = AutoConfig.from_pretrained(ROOT / "configuration" / "model" / options.model)
    config.vision_config.hidden_act = config.text_config.hidden_act = "gelu"
    config.vision_config.patch_size = options.patch_size or config.vision_config.patch_size
    return config


@torch.no_grad()
def compare(arrangements: dict[str, Embed], batch: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Name -> largest difference of a number of a normalised embedding from padding to 77."""
    embeds = {name: normalize(embed(*batch), dim=-1) for name, embed in arrangements.items()}
    reference = embeds["padded to 77"]
    return {name: float((value - reference).abs().max()) for name, value in embeds.items()}


class TextContest:
    """Arrangements of texts that take turns.

    Args:
        options: of the command.
    """

    def __init__(self, options: argparse.Namespace):
        torch.manual_seed(0)
        self.options = options
        self.ours = ClipVitModel(read_config(options)).eval()
        self.theirs = to_open_clip(self.ours).eval()
        self.arrangements = text_arrangements(self.ours, self.theirs)
        self.batches = [draw_captions(options.batch, seed) for seed in range(options.rounds)]
        side = self.ours.config.vision_config.image_size
        self.images = torch.randn(options.batch, 3, side, side)
        self.fixed_BP = torch.randn(options.batch, self.ours.config.projection_dim)

    def measure(self) -> dict:
        """Compare the embeddings, then time; returns the figures."""
        differences = compare(self.arrangements, self.batches[0])
        self.steps = {"ours": Step(self.ours), "open_clip": Step(self.theirs)}
        lengths = torch.cat([mask.sum(dim=1) for _, mask in self.batches]).float()
        return {
            "lengths": {
                "median": float(lengths.median()),
                "mean": float(lengths.mean()),
                "longest": float(lengths.max()),
            },
            "differences": differences,
            "seconds": {
                "text tower": self.time(embeds_images=False),
                "whole step": self.time(embeds_images=True),
            },
        }

    def time(self, embeds_images: bool) -> dict[str, list[float]]:
        """Seconds of the steps of each arrangement, after one with a few texts."""
        seconds: dict[str, list[float]] = {name: [] for name in self.arrangements}
        for name in self.arrangements:
            self.step(name, [tensor[:8] for tensor in self.batches[0]], embeds_images)
        for batch in self.batches:
            for name, values in seconds.items():
                values.append(self.step(name, batch, embeds_images))
        return seconds

    def step(self, name: str, batch: Sequence[torch.Tensor], embeds_images: bool) -> float:
        """Train on a batch of texts, with its images or with embeddings that stay; the seconds."""
        images = self.images[: len(batch[0])]

        def embed_images() -> torch.Tensor:
            if not embeds_images:
                return self.fixed_BP[: len(images)]
            if name == "open_clip":
                return self.theirs.encode_image(images)
            return self.ours.get_image_features(images).pooler_output

        step = self.steps["open_clip" if name == "open_clip" else "ours"]
        return step.run(lambda: (embed_images(), self.arrangements[name](*batch)))


def measure_native(options: argparse.Namespace) -> dict:
    """Time squares and native shapes in turns; returns the figures."""
    torch.manual_seed(0)
    config = read_config(options)
    vision = config.vision_config
    model = ClipVitModel(config)
    step = Step(model)
    size, most = vision.patch_size, (vision.image_size // vision.patch_size) ** 2
    fixed_BP = torch.randn(options.batch, config.projection_dim)
    shapes = [RATIOS[number % len(RATIOS)] for number in range(options.batch)]
    grids = [fit_size(240 * height, 240 * width, size, most) for width, height in shapes]
    patches = [cut_patches(torch.randn(1, 3, *grid), size)[0] for grid in grids]
    counts_B = torch.tensor([len(one) for one in patches])
    forms = {
        "squares": {
            "pixel_values": torch.randn(options.batch, 3, vision.image_size, vision.image_size)
        },
        "native shapes": {
            "pixel_values": torch.stack([pad(one, (0, 0, 0, most - len(one))) for one in patches]),
            "pixel_attention_mask": (torch.arange(most) < counts_B[:, None]).long(),
            "spatial_shapes": torch.tensor(grids) // size,
        },
    }
    tokens = {"squares": options.batch * most, "native shapes": int(counts_B.sum())}
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(-1, options.rounds):
        for name, inputs in forms.items():
            taken = step.run(
                lambda inputs=inputs: (model.get_image_features(**inputs).pooler_output, fixed_BP)
            )
            if number >= 0:
                seconds[name].append(taken)
    return {
        "patches": most,
        "padding": 1 - tokens["native shapes"] / tokens["squares"],
        "tokens": tokens,
        "seconds": seconds,
    }


def print_texts(figures: dict, batch: int):
    """The table of the arrangements of texts."""
    print("| texts | part | pairs/s | times padded to 77 | times open_clip | difference |")
    print("| --- " * 6 + "|")
    for part, seconds in figures["seconds"].items():
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        for name, value in middle.items():
            print(
                f"| {name} | {part} | {batch / value:.2f} | {middle['padded to 77'] / value:.2f} "
                f"| {middle['open_clip'] / value:.2f} | {figures['differences'][name]:.0e} |"
            )


def print_native(figures: dict):
    """The table of the forms of images."""
    print(f"padding {100 * figures['padding']:.1f} %")
    print("| images | tokens/s |\n| --- | --- |")
    for name, seconds in figures["seconds"].items():
        print(f"| {name} | {figures['tokens'][name] / statistics.median(seconds):,.0f} |")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="clip-vit-small-patch16")
    parser.add_argument("--patch_size", type=int, help="in place of the model's own")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--native", action="store_true", help="forms of images, not of texts")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    figures = measure_native(options) if options.native else TextContest(options).measure()
    conditions = {name: getattr(options, name) for name in ("model", "patch_size", "batch")}
    figures = {"device": describe_device("cpu"), **conditions, **figures}
    print(f"{figures['device']}, {conditions}")
    if options.native:
        print_native(figures)
    else:
        print_texts(figures, options.batch)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
