"""How many texts are kept as English or Chinese, by their length and true language.

    python benchmarks/caption_languages.py [--json caption_languages.json]

Texts are translated messages of the programs that a Debian system has in /usr/share/locale, and the
names in data/emoji. The first table is of messages of 16 to 89 characters from six programs, with
the rule of the most probable language for comparison; the second, of messages that are one or
several words without punctuation, from all programs. At most 500 and 400 texts of each.
"""

import argparse
import gettext
import json
import re
from collections.abc import Callable
from pathlib import Path

from datasets import load_dataset

from modeling_clip_vit.filtering.languages import LanguageFilter, load_identifier

ROOT = Path(__file__).parent.parent
LOCALES = Path("/usr/share/locale")
PROGRAMS = ("coreutils", "bash", "apt", "grep", "sed", "tar")
OTHERS = ("de", "fr", "es", "it", "nl", "sv")
THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1)
LENGTHS = ((5, 10), (10, 15), (15, 20), (20, 30), (30, 60))
WORDS = re.compile(r"[^\W\d_]+( [^\W\d_]+)*")


def read_messages(language: str, names: str, is_wanted: Callable[[str], bool]) -> dict[str, str]:
    """Translations into a language -> their English originals."""
    messages = {}
    for path in sorted((LOCALES / language / "LC_MESSAGES").glob(f"{names}.mo")):
        try:
            with path.open("rb") as file:
                catalog: dict = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        except (OSError, ValueError, LookupError):
            continue
        for original, text in catalog.items():
            if isinstance(original, str) and text != original and is_wanted(text):
                messages[text] = original
    return messages


def is_sentence(text: str) -> bool:
    """Whether a message is of 16 to 89 characters without options and places for values."""
    return 15 < len(text) < 90 and not set("%-\n") & set(text)


def shares(texts: list[str], languages: list[str]) -> dict[str, float]:
    """The share of texts that is kept at each threshold, and by the most probable language."""
    rule = LanguageFilter(languages)
    values = [rule.probability(text) for text in texts]
    kept = {f"{least:g}": sum(p >= least for p in values) / len(texts) for least in THRESHOLDS}
    return kept | {
        "most_probable": sum(rule.best(text) in languages for text in texts) / len(texts)
    }


def measure() -> dict[str, dict[str, float]]:
    """What is kept, the languages looked for -> what of which texts."""
    emoji = load_dataset(str(ROOT / "data/emoji"), split="train")
    names = {lang: sorted(set(emoji[f"caption_{lang}"]))[:500] for lang in ("en", "zh")}
    sentences = {
        lang: [text for name in PROGRAMS for text in read_messages(lang, name, is_sentence)]
        for lang in (*OTHERS, "zh_CN")
    }
    german = [read_messages("de", name, is_sentence) for name in PROGRAMS]
    sentences["en"] = [text for found in german for text in found.values()]
    results = {}
    for lang, texts in {**sentences, "emoji en": names["en"], "emoji zh": names["zh"]}.items():
        for wanted in (["en"], ["zh"]):
            results[f"{wanted[0]} of {lang}, {len(texts[:500])}"] = shares(texts[:500], wanted)
    words = {
        lang: sorted(read_messages(lang, "*", lambda text: bool(WORDS.fullmatch(text))).items())
        for lang in OTHERS
    }
    phrases = {lang: [text for text, _ in pairs] for lang, pairs in words.items()}
    phrases["en"] = sorted({original for _, original in words["de"] if WORDS.fullmatch(original)})
    for low, high in LENGTHS:
        for lang, texts in phrases.items():
            fitting = [text for text in texts if low <= len(text) < high]
            chosen = fitting[:: max(1, len(fitting) // 400)][:400]
            key = f"en of {lang}, {low} to {high - 1} characters, {len(chosen)}"
            results[key] = shares(chosen, ["en"])
    return results


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load_identifier()
    results = measure()
    columns = list(next(iter(results.values())))
    print(f"| kept as | {' | '.join(columns)} |\n{'| --- ' * (len(columns) + 1)}|")
    for name, row in results.items():
        print(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in row.values())} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
