"""What the tables of measurements say in English and in Chinese."""

#: What the Chinese page says instead.
CHINESE = {
    "not measured": "没有测量",
    "does not fit": "放不下",
    "engine": "引擎",
    "min": "最小",
    "median": "中位",
    "max": "最大",
    "pairs/s": "对/秒",
    "times open_clip": "open_clip 的倍数",
    "memory": "内存",
    "attention": "注意力",
    "kernel": "内核",
    "times eager": "eager 的倍数",
    "error": "误差",
    "gradient error": "梯度误差",
    "loss": "损失",
    "JPEGs": "JPEG",
    "augmented": "增强",
    "yes": "有",
    "no": "无",
    "loader": "加载",
    "updates": "更新",
    "both": "两者一起",
    "share of time spent waiting": "等待的时间份额",
    "passed": "通过",
    "skipped": "跳过",
    "failed": "失败",
    "part": "部分",
    "ms": "毫秒",
    "row": "方式",
    "cosine": "余弦",
    "image": "图像",
    "text": "文本",
    "batch": "批次",
    "data": "数据",
    "forward": "前向",
    "backward": "反向",
    "optimiser": "优化器",
    "rest": "其余",
    "whole": "全部",
    "image tower of B/32": "B/32 的图像塔",
    "image tower of B/16": "B/16 的图像塔",
    "image tower of L/14": "L/14 的图像塔",
    "text tower of B, full texts": "B 的文本塔，满长文本",
    "ours": "我们",
    "compiled": "编译",
    "packed": "打包",
    "padded": "填充",
    "transformers": "Transformers",
    "checkpointed": "重算",
    "tiled": "分块",
    "plain formula": "普通公式",
    "best plain formula": "最好的普通公式",
    "queries": "查询",
    "English names → the third artist's drawings (1,439)": "英文名称 → 第三位画师的画（1,439 幅）",
    "Chinese names → the same drawings": "中文名称 → 同样的画",
    "English names of concepts that were not in training (160) → 1,599 drawings": (
        "训练中没有的概念的英文名称（160 个）→ 1,599 幅画"
    ),
    "measurement": "测量",
    "value": "值",
    "processor": "处理器",
    "precision": "精度",
    "versions": "版本",
    "2 cores": "2 核",
    "date": "日期",
    "training time": "训练时间",
    "images per second": "每秒图像数",
    "parameters, image tower": "图像塔的参数",
    "parameters, text tower": "文本塔的参数",
    "zero-shot accuracy, group": "零样本准确率，9 个组",
    "zero-shot accuracy, subgroup": "零样本准确率，98 个子组",
    "majority": "总猜最常见的类",
    "section": "部分",
    "device": "设备",
    "command": "命令",
    "code": "代码",
    "texts": "文本",
    "text tower, pairs/s": "文本塔，对/秒",
    "whole step, pairs/s": "整步，对/秒",
    "largest difference": "最大差异",
    "padded to 77": "填充到 77",
    "padded to the longest": "填充到最长",
    "in parts sorted by length": "按长度排序后分批",
    "images": "图像",
    "patches/s, without padding": "图块/秒，不含填充",
    "padding": "填充",
    "squares": "正方形",
    "native shapes": "保持宽高比",
    "Transformers' CLIP": "Transformers 的 CLIP",
    "its OpenVINO export": "由其导出器转为 OpenVINO",
    "size, image / text": "大小，图像 / 文本",
    "lowest cosine": "最小余弦",
    "peak memory": "峰值内存",
    "pairs": "对数",
    "ours / this one": "我们 / 它",
    "measured on two CPU cores, unless it says otherwise": "除另行说明外，在两个 CPU 核上测量",
    "training step, ViT-B/32, float32 / bfloat16": "训练一步，ViT-B/32，float32 / bfloat16",
    "training step on an H200, ViT-B/32, bfloat16, eager / compiled": (
        "在 H200 上训练一步，ViT-B/32，bfloat16，不编译 / 编译"
    ),
    "memory that the loss adds at 16,384 / 65,536 pairs": "16,384 / 65,536 对时损失增加的内存",
    "encoding images, ViT-B/32, batch of 16, fastest form": (
        "编码图像，ViT-B/32，批次 16，最快的形式"
    ),
    "encoding texts, ViT-B/32, batch of 16, fastest form": (
        "编码文本，ViT-B/32，批次 16，最快的形式"
    ),
    "loads in plain Transformers": "只用 Transformers 就能加载",
    "from 5.5 on": "从 5.5 起",
    "never": "不能",
    "always": "总能",
    "does not fit in 23 GB": "23 GB 放不下",
    "the processor's matrix product": "处理器自身的矩阵乘法",
    "training, 1,050 updates": "训练，1,050 次更新",
    "with preparation, evaluation and pictures": "加上准备、评测和图片",
}
Row = list[str]


class Language:
    """Words of a page.

    Args:
        code: `en` or `zh`.
    """

    def __init__(self, code: str):
        self.is_chinese = code == "zh"

    def __call__(self, words: str) -> str:
        """A name or a list of names after commas, in this language."""
        if not self.is_chinese:
            return words
        if words in CHINESE:
            return CHINESE[words]
        return "，".join(CHINESE.get(part, part) for part in words.split(", "))

    def table(self, header: Row, rows: list[Row]) -> str:
        """A table in Markdown."""
        lines = [[self(cell) for cell in header], ["---"] * len(header), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
