"""Phrases around a class name, for captions of labelled images and for zero-shot classification."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..utils.packages import require
from ..utils.resources import find_resource, resource_names
from .errors import DataError

#: Phrases by name, each with one `{}` where the class name goes: English and Chinese.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "en": (
        "a photo of a {}.",
        "a blurry photo of a {}.",
        "a close-up photo of a {}.",
        "a bright photo of a {}.",
        "a dark photo of a {}.",
        "a photo of one {}.",
        "a photo of the large {}.",
        "a photo of the small {}.",
        "a drawing of a {}.",
        "a picture of a {}.",
    ),
    "zh": (
        "一张{}的照片。",
        "一张模糊的{}照片。",
        "一张{}的特写照片。",
        "一张明亮的{}照片。",
        "一张昏暗的{}照片。",
        "照片里有一个{}。",
        "一张大{}的照片。",
        "一张小{}的照片。",
        "一幅{}的图画。",
        "一张{}的图片。",
    ),
}
#: An id of WordNet before a name, as ImageNet's folders have it.
WORDNET_ID = re.compile(r"^n\d{8}[\s_.-]+(?=\S)")
#: A number before a name, and the name.
LEADING_INDEX = re.compile(r"(\d+)[\s.-]+([^\W\d].*)")
#: Sets that an installed open_clip brings, by the name of its constant.
OPEN_CLIP_TEMPLATES = {
    "open_clip_imagenet": "OPENAI_IMAGENET_TEMPLATES",
    "open_clip_simple": "SIMPLE_IMAGENET_TEMPLATES",
}


def load_templates(name: str) -> list[str]:
    """The phrases of a set, each with one `{}`.

    Args:
        name: a set of `TEMPLATES` (`plain`, `en`, `zh`), one that open_clip brings
            (`open_clip_imagenet`: the 80 of the CLIP paper; `open_clip_simple`: 7 of them), one
            of configuration/templates, or a text file with a phrase a line.

    Raises:
        DataError: there is no such set, or a phrase has not exactly one `{}`.
        MissingPackageError: open_clip is not installed.
    """
    if name in TEMPLATES:
        return list(TEMPLATES[name])
    if name in OPEN_CLIP_TEMPLATES:
        return open_clip_templates(name)
    ready_made = resource_names("templates")
    if not Path(name).expanduser().is_file() and name not in ready_made:
        known = ", ".join([*TEMPLATES, *OPEN_CLIP_TEMPLATES, *ready_made])
        raise DataError(f"no set of templates {name!r}: there are {known}, or name a text file")
    path = find_resource("templates", name)
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    phrases = [(number, line.strip()) for number, line in lines if line.strip()]
    if not phrases:
        raise DataError(f"the file of templates {name!r} is empty: one phrase with {{}} a line")
    for number, phrase in phrases:
        check_template(phrase, f"line {number} of {name!r}")
    return [phrase for _, phrase in phrases]


def open_clip_templates(name: str) -> list[str]:
    """The phrases of a set in `OPEN_CLIP_TEMPLATES`; open_clip has them as functions of the name.

    Raises:
        MissingPackageError: open_clip is not installed.
    """
    require(("open_clip",), "convert", f"the set of templates {name!r}")
    from open_clip import zero_shot_metadata

    return [phrase("{}") for phrase in getattr(zero_shot_metadata, OPEN_CLIP_TEMPLATES[name])]


def check_template(phrase: str, where: str):
    """Refuse a phrase without its place for the name.

    Raises:
        DataError: it has none, or several.
    """
    if phrase.count("{}") != 1:
        raise DataError(
            f"the template {phrase!r} ({where}) is not allowed: it must have exactly one {{}}, "
            "where the name goes"
        )


def clean_class_names(names: Sequence[str]) -> list[str]:
    """Class names as a text has them: `sports_car` and `n04285008_sports_car` are `sports car`.

    A leading number is removed if it merely numbers the classes: if every name has one, zero-padded
    or counting up from 0 or 1, and the names still differ without it. `100 rupees` and
    `911 Carrera` stay as they are.
    """
    words = [clean_class_name(name) for name in names]
    parts = [LEADING_INDEX.fullmatch(word) for word in words]
    matches = [part for part in parts if part is not None]
    if len(matches) < max(2, len(words)):
        return words
    indices, rests = [part[1] for part in matches], [part[2] for part in matches]
    has_zeros = any(index.startswith("0") and len(index) > 1 for index in indices)
    numbers = sorted(map(int, indices))
    counts_up = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] < 2
    is_index = len(set(numbers)) == len(numbers) and (has_zeros or counts_up)
    return rests if is_index and len(set(rests)) == len(set(words)) else words


def clean_class_name(name: str) -> str:
    """One class name as a text has it: spaces for underscores, and no id of WordNet in front."""
    return " ".join(WORDNET_ID.sub("", name).replace("_", " ").split()) or name
