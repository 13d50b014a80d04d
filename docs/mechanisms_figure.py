"""Draw how three parts work: the loss over devices, the gradient cache, the way to eight bits.

    python docs/mechanisms_figure.py

Writes docs/loss_over_devices.png, docs/gradient_cache.png and docs/quantization_path.png, and each
with `_zh` for the Chinese pages.
"""

from pathlib import Path

import matplotlib
from architecture_figure import BLUE, GREEN, GREY, ORANGE, arrow, box
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

COLORS = (BLUE, GREEN, ORANGE, GREY)
EDGE = "#455a64"
#: As Debian's package fonts-noto-cjk installs it.
CHINESE_FONT = "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"
#: English -> Chinese.
CHINESE = {
    "The contrastive loss over four processes": "四个进程上的对比损失",
    "texts of all processes (all-gathered)": "所有进程的文本（all-gather）",
    "its own images": "自己的图像",
    "process 0": "进程 0",
    "process 1": "进程 1",
    "process 2": "进程 2",
    "process 3": "进程 3",
    "Forward\none tile at a time:\nlog sum exp of its row and\ncolumn; no matrix is kept": (
        "前向\n每次计算本行的一个分块：\n行与列的 log sum exp；\n从不保留整个矩阵"
    ),
    "Between processes\nsums of columns: all-reduce\nevery pair is compared once": (
        "进程之间\n列的和：all-reduce\n每一对只比较一次"
    ),
    "Backward\neach tile is computed again;\ngradients of texts return\nto their own processes": (
        "反向\n每个分块重新计算；\n文本的梯度回到\n拥有它们的进程"
    ),
    "The gradient cache": "梯度缓存",
    "1. without a graph": "1. 不建图",
    "2. with a graph": "2. 建图",
    "Chunks\nof the batch": "小块\n一个批次分成几块",
    "The same chunks\none after the other": "同样的小块\n一块接一块",
    "Towers\nno activations are kept": "塔\n不保留激活值",
    "Towers\nthe same dropout;\nactivations of one chunk": "塔\n同样的 dropout；\n只有一块的激活值",
    "Embeddings\nof the whole batch": "嵌入\n整个批次的",
    "Loss\ncontrasts everything\nin the batch": "损失\n对比批次中的\n所有样本",
    "Gradient\nof the loss on\nevery embedding": "梯度\n损失对\n每个嵌入的",
    "Backward\nfrom that gradient,\nchunk by chunk": "反向\n从这个梯度出发，\n一块接一块",
    "Gradients of weights\nare those of the\nwhole batch": "权重的梯度\n与整个批次\n一次算出的相同",
    "The way to eight bits": "通往八位的路径",
    "Training\nquantization_mode: none": "训练\nquantization_mode: none",
    "Training\ndynamic or static: rounding in\nevery step, float weights": (
        "训练\ndynamic 或 static：每步都取整，\n权重保持浮点"
    ),
    "Float checkpoint\nsafetensors": "浮点检查点\nsafetensors",
    "clip-vit quantize\ntorchao; reports the\nloss of each layer": (
        "clip-vit quantize\ntorchao；报告\n每层的损失"
    ),
    "clip-vit export --precision int8\nOpenVINO: calibrated, or ranges of\n"
    "static training; ONNX: measured at\nrun time; torch.export: calibrated": (
        "clip-vit export --precision int8\nOpenVINO：校准，或 static 训练的范围；\n"
        "ONNX：运行时测量；\ntorch.export：校准"
    ),
    "Int8 checkpoint\nAutoModel, safetensors": "int8 检查点\nAutoModel、safetensors",
    "Comparison\nwith the float model:\ncosine ≥ 0.97, or nothing": (
        "比较\n与浮点模型：\n余弦 ≥ 0.97，否则不写"
    ),
    "Int8 export\nOpenVINO and ONNX run\nwithout PyTorch": (
        "int8 导出\nOpenVINO 与 ONNX\n不需要 PyTorch"
    ),
}


class Panel:
    """Axes with words in one language."""

    def __init__(self, is_chinese: bool, title: str, limits: tuple[float, float]):
        self.is_chinese = is_chinese
        width, height = limits
        self.figure, self.axes = plt.subplots(
            figsize=(0.7 * width, 0.7 * height + 0.35), layout="constrained"
        )
        self.axes.set_title(self.say(title), loc="left", fontsize=12, weight="bold")
        self.axes.set(xlim=(-0.2, width), ylim=(-0.1, height))
        self.axes.axis("off")

    def say(self, words: str) -> str:
        """Words in this figure's language."""
        return CHINESE[words] if self.is_chinese else words

    def box(self, place: tuple[float, float], size: tuple[float, float], words: str, color: str):
        """A box with a title and lines."""
        box(self.axes, place, size, self.say(words), color)

    def text(self, left: float, bottom: float, words: str, **options):
        """Words without a box."""
        self.axes.text(left, bottom, self.say(words), fontsize=9, color=EDGE, **options)

    def save(self, name: str):
        """Write the file of this language."""
        path = Path(__file__).with_name(f"{name}{'_zh' if self.is_chinese else ''}.png")
        self.figure.savefig(path, dpi=110, facecolor="white")
        plt.close(self.figure)
        print(f"saved {path}")


def draw_loss(is_chinese: bool):
    """Rows of the matrix of similarities belong to processes, and are computed in tiles."""
    panel = Panel(is_chinese, "The contrastive loss over four processes", (18.1, 5.2))
    left, side, tile = 3.6, 4.0, 0.5
    panel.text(left + side / 2, side + 0.55, "texts of all processes (all-gathered)", ha="center")
    for number, color in enumerate(COLORS):
        bottom = side - 1 - number
        panel.text(left - 1.75, bottom + 0.4, f"process {number}", ha="right", va="center")
        for place, size in (
            ((left - 1.35, bottom + 0.08), (0.75, 0.84)),
            ((left + number + 0.08, side + 0.1), (0.84, 0.28)),
        ):
            panel.axes.add_patch(Rectangle(place, *size, facecolor=color, edgecolor=EDGE))
        for column in range(8):
            for row in range(2):
                place = (left + column * tile, bottom + row * tile)
                panel.axes.add_patch(
                    Rectangle(place, tile, tile, facecolor=color, edgecolor="white", linewidth=1.5)
                )
        panel.axes.add_patch(
            Rectangle((left, bottom), side, 1, fill=False, edgecolor=EDGE, linewidth=1)
        )
    panel.axes.add_patch(
        Rectangle(
            (left + 5 * tile, side - 2 * tile), tile, tile, facecolor="#ef6c00", edgecolor=EDGE
        )
    )
    panel.text(left - 0.97, side + 0.15, "its own images", ha="center")
    texts = [
        words for words in CHINESE if words.startswith(("Forward", "Between", "Backward\neach"))
    ]
    for number, words in enumerate(texts):
        start = 8.2 + number * 3.4
        panel.box((start, 1.15), (2.9, 1.75), words, (BLUE, GREY, ORANGE)[number])
        arrow(panel.axes, (start - 0.45, 2.0), (start - 0.05, 2.0))
    panel.save("loss_over_devices")


def draw_cache(is_chinese: bool):
    """Two passes of the towers, and a loss of the whole batch between them."""
    panel = Panel(is_chinese, "The gradient cache", (18.1, 4.3))
    size = (2.9, 1.5)
    rows = {
        2.5: [
            ("Chunks\nof the batch", GREY),
            ("Towers\nno activations are kept", BLUE),
            ("Embeddings\nof the whole batch", GREEN),
            ("Loss\ncontrasts everything\nin the batch", ORANGE),
        ],
        0.2: [
            ("The same chunks\none after the other", GREY),
            ("Towers\nthe same dropout;\nactivations of one chunk", BLUE),
            ("Backward\nfrom that gradient,\nchunk by chunk", ORANGE),
            ("Gradients of weights\nare those of the\nwhole batch", GREEN),
        ],
    }
    for bottom, boxes in rows.items():
        number = 1 if bottom > 1 else 2
        words = "1. without a graph" if number == 1 else "2. with a graph"
        panel.text(0, bottom + 1.62, words)
        for place, (text, color) in enumerate(boxes):
            panel.box((place * 3.6, bottom), size, text, color)
            if place:
                arrow(
                    panel.axes,
                    (place * 3.6 - 0.65, bottom + 0.75),
                    (place * 3.6 - 0.05, bottom + 0.75),
                )
    panel.box((15.0, 1.35), size, "Gradient\nof the loss on\nevery embedding", ORANGE)
    arrow(panel.axes, (13.75, 3.25), (15.3, 2.9))
    panel.axes.plot([14.97, 8.65], [2.12, 2.12], color=EDGE, lw=1.2)
    arrow(panel.axes, (8.65, 2.12), (8.65, 1.75))
    panel.save("gradient_cache")


def draw_quantization(is_chinese: bool):
    """From training to an int8 checkpoint or an int8 export."""
    panel = Panel(is_chinese, "The way to eight bits", (18.1, 4.3))
    find = {words.partition("\n")[0]: words for words in CHINESE if "\n" in words}
    training = [words for words in CHINESE if words.startswith("Training")]
    panel.box((0, 2.5), (3.3, 1.3), training[0], ORANGE)
    panel.box((0, 0.4), (3.3, 1.4), training[1], ORANGE)
    panel.box((4.3, 1.4), (2.6, 1.3), find["Float checkpoint"], GREEN)
    arrow(panel.axes, (3.35, 3.1), (4.25, 2.4))
    arrow(panel.axes, (3.35, 1.1), (4.25, 1.75))
    panel.box((7.9, 2.5), (3.9, 1.5), find["clip-vit quantize"], BLUE)
    panel.box((7.9, 0.2), (3.9, 1.6), find["clip-vit export --precision int8"], BLUE)
    arrow(panel.axes, (6.95, 2.4), (7.85, 3.1))
    arrow(panel.axes, (6.95, 1.75), (7.85, 1.1))
    panel.box((15.4, 2.6), (2.6, 1.3), find["Int8 checkpoint"], GREEN)
    arrow(panel.axes, (11.85, 3.25), (15.35, 3.25))
    panel.box((12.4, 0.3), (2.5, 1.5), find["Comparison"], GREY)
    arrow(panel.axes, (11.85, 1.05), (12.35, 1.05))
    panel.box((15.4, 0.4), (2.6, 1.3), find["Int8 export"], GREEN)
    arrow(panel.axes, (14.95, 1.05), (15.35, 1.05))
    panel.save("quantization_path")


def main():
    """Draw each figure in both languages."""
    font_manager.fontManager.addfont(CHINESE_FONT)
    chinese = font_manager.FontProperties(fname=CHINESE_FONT).get_name()
    matplotlib.rcParams["font.family"] = ["DejaVu Sans", chinese]
    for is_chinese in (False, True):
        draw_loss(is_chinese)
        draw_cache(is_chinese)
        draw_quantization(is_chinese)


if __name__ == "__main__":
    main()
