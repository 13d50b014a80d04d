"""Write the tables of README and of some pages of docs, and of their Chinese twins.

    python benchmarks/measurement_tables.py [--check]

The figures are those of docs/measurements: default_run.json (what the model card is made of),
gpu-h200.json (of benchmarks/gpu.py), and padding_texts.json and padding_images.json (of
benchmarks/text_packing.py). A table stands between `<!-- table: NAME -->` and
`<!-- end -->`, and only what is between them is written. A section that was not measured leaves a
sentence that says so. With --check nothing is written, and the exit status is 1 where a page
differs.
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEASUREMENTS = ROOT / "docs" / "measurements"
#: Pages with tables; their Chinese twins end in .zh-CN.md.
PAGES = ("README.md", "docs/gpu.md", "docs/measurements.md", "docs/training.md")
GPU = "gpu-h200"
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


def gigabytes(size: float | None) -> str:
    """Bytes for a table."""
    return "–" if size is None else f"{size / 1e9:.1f} GB"


def tests_table(say: Language, figures: dict) -> str:
    """Outcomes of tests/gpu."""
    header = ["passed", "skipped", "failed"]
    row = [str(figures["passed"]), str(figures["skipped"]), str(len(figures["failed"]))]
    return say.table(header, [row])


def attention_table(say: Language, figures: dict) -> str:
    """Time and error of each kernel."""
    rows = []
    for case, kernels in figures["cases"].items():
        eager = statistics.median(kernels["eager"]["milliseconds"])
        for kernel, found in kernels.items():
            if "error" not in found:
                rows.append([say(case), kernel, "–", "–", "–"])
                continue
            middle = statistics.median(found["milliseconds"])
            cells = [f"{middle:.2f}", f"{eager / middle:.1f}", f"{found['error']:.1e}"]
            rows.append([say(case), kernel, *cells])
    return say.table(["attention", "kernel", "ms", "times eager", "error"], rows)


def loss_table(say: Language, figures: dict) -> str:
    """Time, memory and error of each loss."""
    rows = []
    for name, error in figures["gradient_errors"].items():
        cells = [say("does not fit"), "–"]
        if name in figures["seconds"]:
            middle = statistics.median(figures["seconds"][name])
            cells = [f"{1000 * middle:,.0f}", gigabytes(figures["bytes"][name])]
        rows.append([say(name), *cells, f"{error:.0e}"])
    return say.table(["loss", "ms", "memory", "gradient error"], rows)


def training_table(say: Language, figures: dict) -> str:
    """Steps of each engine."""
    engines = figures["bf16"]
    middle = {name: statistics.median(found["seconds"]) for name, found in engines.items()}
    best = min(middle, key=middle.__getitem__)
    rows = []
    for name, found in engines.items():
        seconds = [f"{value:.3f} s" for value in (min(found["seconds"]), middle[name])]
        share = found["share_of_the_peak"]
        rows.append(
            [
                f"**{say(name)}**" if name == best else say(name),
                *seconds,
                f"{max(found['seconds']):.3f} s",
                f"{found['pairs_per_second']:,.0f}",
                f"{middle['open_clip'] / middle[name]:.2f}" if "open_clip" in middle else "–",
                gigabytes(found["peak_bytes"]),
                "–" if share is None else f"{100 * share:.0f} %",
            ]
        )
    header = ["engine", "min", "median", "max", "pairs/s", "times open_clip", "memory", "MFU"]
    return say.table(header, rows)


def pipeline_table(say: Language, figures: dict) -> str:
    """Rates of loading and training."""
    rows = [
        [
            f"{found['width']} × {found['width'] * 3 // 4}",
            say("yes" if found["augmented"] else "no"),
            *(f"{found[part]:,.0f}" for part in ("loader", "updates", "both")),
            f"{100 * found['waited']:.0f} %",
        ]
        for found in figures["rows"]
    ]
    header = ["JPEGs", "augmented", "loader", "updates", "both", "share of time spent waiting"]
    return say.table(header, rows)


def default_job_table(say: Language, figures: dict) -> str:
    """Parts of an update of the default recipe."""
    parts = figures["milliseconds_of_an_update"]
    return say.table(["part", *parts], [[say("ms"), *(f"{value:.1f}" for value in parts.values())]])


def inference_table(say: Language, figures: dict) -> str:
    """Latency and throughput of each way to embed."""
    (rows_of_model,) = figures["models"].values()
    kinds = list(rows_of_model[0]["speed"])
    header = ["row"]
    for kind in kinds:
        part, batch = kind.split("-")
        header.append(f"{say(part)} × {batch}, {say('ms')}")
    rows = []
    for found in rows_of_model:
        times = [f"{found['speed'][kind]['p50_ms']:.2f}" for kind in kinds]
        cosines = [f"{found['cosine'][part]:.4f}" for part in ("image", "text")]
        rows.append([found["row"], *times, " / ".join(cosines)])
    return say.table([*header, "cosine"], rows)


def find_metric(run: dict, **fields: str) -> float:
    """The value of the one metric with these fields."""
    (value,) = [
        metric["value"]
        for metric in run["metrics"]
        if all(metric.get(name) == expected for name, expected in fields.items())
    ]
    return value


def default_retrieval_table(say: Language, run: dict) -> str:
    """Retrieval by text of the default model."""
    queries = {
        "English names → the third artist's drawings (1,439)": ("caption_en", "validation"),
        "Chinese names → the same drawings": ("caption_zh", "validation"),
        "English names of concepts that were not in training (160) → 1,599 drawings": (
            "caption_en",
            "new_concepts",
        ),
    }
    names = ("R@1", "R@5", "R@10")
    rows = []
    for text, (column, evaluation) in queries.items():
        fields = {"column": column, "evaluation": evaluation, "direction": "text_to_image"}
        values = [find_metric(run, name=name, **fields) for name in names]
        rows.append([say(text), *(f"{100 * value:.1f} %" for value in values)])
    return say.table(["queries", *names], rows)


def default_run_table(say: Language, run: dict) -> str:
    """Where and how the default model was trained, and what else was measured."""
    machine = run["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    rows = [
        ["processor", machine["processor"]],
        ["precision", run["precision"]],
        ["date", machine["date"]],
        ["code", machine["code"].removeprefix("commit ")],
        ["versions", versions],
        ["updates", f"{run['steps']:,}"],
        ["training time", f"{run['seconds']:.0f} s"],
        ["images per second", f"{run['images_per_second']:.0f}"],
        ["parameters, image tower", f"{run['num_vision_parameters']:,}"],
        ["parameters, text tower", f"{run['num_text_parameters']:,}"],
    ]
    for column in ("group", "subgroup"):
        accuracy, majority = (
            find_metric(run, task="zero_shot", column=column, name=name)
            for name in ("accuracy", "majority")
        )
        words = f"{100 * accuracy:.1f} % ({say('majority')} {100 * majority:.1f} %)"
        rows.append([f"zero-shot accuracy, {column}", words])
    return say.table(["measurement", "value"], [[say(name), value] for name, value in rows])


def gpu_sections_table(say: Language, sections: dict) -> str:
    """Each section of benchmarks/gpu.py with its machine and command."""
    rows = []
    for name, section in sections.items():
        machine = section["on"]
        rate = machine["product_rates"]["bfloat16"] / 1e12
        cells = [machine["device"], f"{rate:.0f} TFLOP/s", machine["date"]]
        rows.append([f"`{name}`", *cells, f"`{section['command']}`"])
    return say.table(["section", "device", "bfloat16", "date", "command"], rows)


def padding_texts_table(say: Language, figures: dict) -> str:
    """What each arrangement of texts gains, in the text tower alone and in whole steps."""
    seconds = figures["seconds"]
    middle = {
        part: {name: statistics.median(values) for name, values in names.items()}
        for part, names in seconds.items()
    }
    rows = []
    for name in middle["text tower"]:
        row = [say(name)]
        for times in middle.values():
            rate = figures["batch"] / times[name]
            row += [f"{rate:.1f}", f"{times['open_clip'] / times[name]:.2f}"]
        difference = figures["differences"][name]
        rows.append([*row, f"{difference:.0e}" if difference else "0"])
    header = ["texts", "text tower, pairs/s", "times open_clip", "whole step, pairs/s"]
    return say.table([*header, "times open_clip", "largest difference"], rows)


def padding_images_table(say: Language, figures: dict) -> str:
    """Tokens a second of squares and of native shapes."""
    rows = []
    for name, seconds in figures["seconds"].items():
        tokens = figures["tokens"][name]
        padding = figures["padding"] if name == "native shapes" else 0.0
        rate = tokens / statistics.median(seconds)
        rows.append([say(name), f"{rate:,.0f}", f"{100 * padding:.1f} %"])
    return say.table(["images", "patches/s, without padding", "padding"], rows)


#: Table of a section of benchmarks/gpu.py -> what writes it.
SECTIONS: dict[str, Callable[[Language, dict], str]] = {
    "tests": tests_table,
    "attention": attention_table,
    "loss": loss_table,
    "large_loss": loss_table,
    "b32": training_table,
    "b32_short": training_table,
    "b32_short_before": training_table,  # of the version before, kept by hand
    "b16": training_table,
    "l14": training_table,
    "pipeline": pipeline_table,
    "default_job": default_job_table,
    "inference": inference_table,
}
#: Any other table -> the file with its figures, the key in it (or all of it), and what writes it.
TABLES: dict[str, tuple[str, str, Callable[[Language, dict], str]]] = {
    "default_retrieval": ("default_run", "", default_retrieval_table),
    "default_run": ("default_run", "", default_run_table),
    "gpu_sections": (GPU, "sections", gpu_sections_table),
    "padding_texts": ("padding_texts", "", padding_texts_table),
    "padding_images": ("padding_images", "", padding_images_table),
}


def read_measurements() -> dict[str, dict]:
    """Name of a file -> what is in it."""
    return {path.stem: json.loads(path.read_text()) for path in MEASUREMENTS.glob("*.json")}


def write_table(name: str, measurements: dict[str, dict], say: Language) -> str:
    """One table; a sentence where there are no figures."""
    if name in TABLES:
        file, key, write = TABLES[name]
        return write(say, measurements[file][key] if key else measurements[file])
    figures = measurements[GPU]["sections"].get(name, {}).get("figures")
    return SECTIONS[name](say, figures) if figures else say("not measured")


def fill(page: str, measurements: dict[str, dict], language: str) -> str:
    """A page with its tables written."""
    say = Language(language)

    def write(match: re.Match) -> str:
        return (
            f"<!-- table: {match[1]} -->\n{write_table(match[1], measurements, say)}\n<!-- end -->"
        )

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", write, page, flags=re.DOTALL)


def main():
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    measurements = read_measurements()
    differ = []
    for name in PAGES:
        for language, path in (
            ("en", ROOT / name),
            ("zh", (ROOT / name).with_suffix(".zh-CN.md")),
        ):
            page = path.read_text(encoding="utf-8")
            filled = fill(page, measurements, language)
            if filled == page:
                continue
            differ.append(path.name)
            if not options.check:
                path.write_text(filled, encoding="utf-8")
    print("differ:" if options.check else "written:", ", ".join(differ) or "none")
    sys.exit(1 if options.check and differ else 0)


if __name__ == "__main__":
    main()
