"""Draw docs/architecture.png: the model, and the way from a dataset to an exported artifact.

python docs/architecture_figure.py
"""

from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, GREEN, ORANGE, GREY = "#dbe9f6", "#dff0d8", "#fdebd0", "#eceff1"


def box(axes, place: tuple[float, float], size: tuple[float, float], text: str, color: str):
    """A rounded box with a title and, below it, smaller lines."""
    (left, bottom), (width, height) = place, size
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=color, edgecolor="#455a64", linewidth=1,
        )
    )  # fmt: skip
    title, *lines = text.split("\n")
    top = bottom + height - 0.3
    axes.text(left + width / 2, top, title, ha="center", va="center", fontsize=10, weight="bold")
    body = "\n".join(lines)
    axes.text(
        left + width / 2, bottom + (height - 0.45) / 2, body,
        ha="center", va="center", fontsize=8.2, linespacing=1.5, color="#37474f",
    )  # fmt: skip


def arrow(axes, start: tuple[float, float], end: tuple[float, float]):
    """A straight arrow."""
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color="#455a64", lw=1.2)
    )


def draw_model(axes):
    """Two towers, a shared space, a loss."""
    axes.set_title("The model", loc="left", fontsize=12, weight="bold")
    size = (3.1, 1.5)
    box(axes, (0, 2.6), size, "Images\npixel_values (B, 3, H, W)\nany size and shape", GREY)
    box(axes, (0, 0.4), size, "Texts\ninput_ids (B, L)\nattention_mask (B, L)", GREY)
    for bottom, name, first in (
        (2.6, "Vision tower", "patches, registers, positions"),
        (0.4, "Text tower", "tokens, positions"),
    ):
        text = f"{name}\n{first}\nattention, feed-forward, norms\npooling"
        box(axes, (4, bottom), size, text, BLUE)
        arrow(axes, (3.15, bottom + 0.75), (3.95, bottom + 0.75))
        box(axes, (8, bottom), (2.6, 1.5), "Projection\nlinear or MLP\nunit length (B, P)", GREEN)
        arrow(axes, (7.15, bottom + 0.75), (7.95, bottom + 0.75))
    box(axes, (11.5, 1.5), (2.6, 1.5), "Similarity\nscale · cosine + bias\nlogits (B, B)", GREEN)
    box(
        axes,
        (15, 1.5),
        (2.9, 1.5),
        "Loss\nsoftmax, sigmoid,\nmulti-positive, ...\nexact over processes",
        ORANGE,
    )
    arrow(axes, (10.65, 3.1), (11.45, 2.5))
    arrow(axes, (10.65, 1.4), (11.45, 2.0))
    arrow(axes, (14.15, 2.25), (14.95, 2.25))
    axes.set(xlim=(-0.2, 18.1), ylim=(0.1, 4.4))


def draw_flow(axes):
    """From a dataset to an artifact."""
    axes.set_title("From a dataset to an artifact", loc="left", fontsize=12, weight="bold")
    steps = [
        ("Dataset\nfolders, tables, Parquet,\ntars, the Hub; streams", GREY),
        ("Training\nAccelerate: DDP, FSDP2, ZeRO\ngradient cache, exact resume", ORANGE),
        ("Checkpoint\nsafetensors, code, processor,\nmodel card: AutoModel, Hub", GREEN),
        ("Evaluation\nretrieval, zero-shot, probe,\ncalibration, robustness", BLUE),
        ("Artifact\nONNX, OpenVINO, torch.export,\nExecuTorch; fp32, bf16, int8", GREEN),
    ]
    width = 3.05
    for number, (text, color) in enumerate(steps):
        left = number * 3.7
        box(axes, (left, 1.3), (width, 1.35), text, color)
        if number:
            arrow(axes, (left - 0.6, 1.97), (left - 0.05, 1.97))
    box(axes, (7.4, 0), (width, 0.95), "Conversion\nCLIP, SigLIP, open_clip, timm", GREY)
    arrow(axes, (8.92, 0.97), (8.92, 1.28))
    axes.set(xlim=(-0.2, 18.1), ylim=(-0.1, 2.9))


def main():
    """Draw both parts into one file."""
    figure, (model, flow) = plt.subplots(
        2, 1, figsize=(12.6, 5.6), height_ratios=(4.3, 3), layout="constrained"
    )
    draw_model(model)
    draw_flow(flow)
    for axes in (model, flow):
        axes.axis("off")
    path = Path(__file__).with_name("architecture.png")
    figure.savefig(path, dpi=110, facecolor="white")
    print(f"saved {path}")


if __name__ == "__main__":
    main()
