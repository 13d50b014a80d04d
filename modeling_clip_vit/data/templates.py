"""Phrases around a class name, for captions of labelled images and for zero-shot classification."""

from pathlib import Path

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
#: Sets that an installed open_clip brings, by the name of its constant.
OPEN_CLIP_TEMPLATES = {
    "open_clip_imagenet": "OPENAI_IMAGENET_TEMPLATES",
    "open_clip_simple": "SIMPLE_IMAGENET_TEMPLATES",
}


def load_templates(name: str) -> list[str]:
    """The phrases of a set, each with one `{}`.

    Args:
        name: a set of `TEMPLATES` (`plain`, `en`, `zh`), one that open_clip brings
            (`open_clip_imagenet`: the 80 of the CLIP paper; `open_clip_simple`: 7 of them), or a
            text file with a phrase a line.

    Raises:
        DataError: there is no such set, or a phrase has not exactly one `{}`.
    """
    if name in TEMPLATES:
        return list(TEMPLATES[name])
    if name in OPEN_CLIP_TEMPLATES:
        return open_clip_templates(OPEN_CLIP_TEMPLATES[name])
    path = Path(name).expanduser()
    if not path.is_file():
        known = ", ".join([*TEMPLATES, *OPEN_CLIP_TEMPLATES])
        raise DataError(f"no set of templates {name!r}: there are {known}, or name a text file")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    phrases = [(number, line.strip()) for number, line in lines if line.strip()]
    if not phrases:
        raise DataError(f"the file of templates {name!r} is empty: one phrase with {{}} a line")
    for number, phrase in phrases:
        check_template(phrase, f"line {number} of {name!r}")
    return [phrase for _, phrase in phrases]


def open_clip_templates(constant: str) -> list[str]:
    """The phrases of one of open_clip's constants, which are functions of the class name.

    Raises:
        DataError: open_clip is not installed.
    """
    try:
        from open_clip import zero_shot_metadata
    except ImportError as error:
        raise DataError(
            "these templates come with open_clip, which is not installed: "
            "pip install 'clip-vit[convert]'"
        ) from error
    return [template("{}") for template in getattr(zero_shot_metadata, constant)]


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


def clean_class_name(name: str) -> str:
    """A class name as a text has it: `sports_car` and `n04285008_sports_car` are `sports car`.

    A number that a data set puts before its names, such as `012.` or a WordNet id, goes; a name
    that is nothing else stays as it is.
    """
    words = name.replace("_", " ").split()
    while len(words) > 1 and is_code(words[0]):
        words = words[1:]
    first = words[0] if words else name
    if "." in first and first.split(".", 1)[0].isdigit() and first.split(".", 1)[1]:
        words[0] = first.split(".", 1)[1]
    return " ".join(words)


def is_code(word: str) -> bool:
    """Whether a word only numbers the class: `012`, `012.` or `n02123045`."""
    digits = word.rstrip(".")
    return len(digits) >= 3 and (digits.isdigit() or (digits[0] == "n" and digits[1:].isdigit()))
