"""The command `clip-vit explain`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import PositiveInt

from ..data.decoding import decode_image
from ..utils.command_line import CommandParser
from ..utils.errors import UserError
from ..utils.folders import check_file, check_picture, replaced_file, write_json
from ..utils.models import import_models
from .explanation import Explanation
from .words import check_text

#: Shades of a cell in the terminal, from none to the largest value; a minus sign is against the
#: match.
SHADES = "·░▒▓█"


@dataclass
class ExplainOptions:
    """How to explain, and what to write.

    Args:
        save: write these files, separated by commas: a picture (.png, .svg, .pdf) with the overlay
            and the words, and the numbers as .json.
        method: method for the picture: integrated_gradients (default for checkpoints), occlusion
            (default for exports), shares (exact parts of the cosine; pooling mean or flatten) or
            legrad (from attention; this package's ViT).
        words_method: method for the words: occlusion (default), integrated_gradients or shares.
        grid: cells along the shorter side, for integrated_gradients and occlusion; by default the
            model's patches, joined or cut until there are 6 to 16.
        blank: replacement for a missing part of the picture: mean (its mean colour), white, black
            or blur.
        runtime: runtime for an exported model; auto picks it by format.
    """

    save: list[str] = field(default_factory=list)
    method: str = "auto"
    words_method: str = "auto"
    grid: PositiveInt | None = None
    blank: str = "mean"
    runtime: str = "auto"


def run_explain(arguments: list[str]) -> int:
    """Explain a match; print it, and write it where asked to."""
    options = build_parser().parse(arguments, ExplainOptions)
    for name in options.save:
        check_target(Path(name))
    check_text(options.text)
    image = decode_image(find_picture(options.picture))
    explanation = compute(options, image)
    print_explanation(explanation, options.picture)
    for name in options.save:
        with replaced_file(Path(name)) as partial:
            save(partial, explanation, image, options)
        print(f"saved {name}")
    return 0


def compute(options: Any, image: Any) -> Explanation:
    """Load the model and explain; torch is imported only here.

    Raises:
        UserError: an option has a value that is not allowed, or the model does not allow it.
    """
    import_models()
    from ..conversion.published import local_checkpoint
    from ..inference.loading import load_encoder
    from .explain import check_method, explain

    check_method(options.method, "method")
    check_method(options.words_method, "words_method")
    return explain(
        load_encoder(local_checkpoint(options.checkpoint), options.runtime),
        image,
        options.text,
        options.method,
        options.words_method,
        options.grid,
        options.blank,
    )


def check_target(path: Path):
    """Refuse a file that could not be saved in the end.

    Raises:
        UserError: its name has no ending of a picture or of JSON, or its folder cannot be made.
    """
    if path.suffix.lower() == ".json":
        check_file(path, ("json",), "a JSON file")
    else:
        check_picture(path)


def find_picture(path: str) -> Path:
    """The file of a picture.

    Raises:
        UserError: there is none.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise UserError(f"{path!r} is a folder: name one picture in it")
    if not file.is_file():
        raise UserError(f"there is no picture {path!r} (looked in {Path.cwd()})")
    return file


def save(path: Path, explanation: Explanation, image: Any, options: Any):
    """Write an explanation as JSON or as a picture, by the ending of the name."""
    if path.suffix.lower() == ".json":
        source = {"checkpoint": options.checkpoint, "picture": options.picture}
        write_json(path, {**source, **explanation.to_dict()})
        return
    from .figure import save_explanation

    save_explanation(path, explanation, image)


def print_explanation(explanation: Explanation, picture: str):
    """Print the cosine, the cells as shades, and each word with its value."""
    print(f"{explanation.text!r} and {picture}: cosine {explanation.cosine:.3f}")
    rows, columns = explanation.patches.shape
    print(f"\npicture, {rows} x {columns} cells, by {explanation.patches_method}:")
    for line in shade(explanation.patches):
        print(f"  {line}")
    print(f"  {SHADES[-1]} adds to the match, - speaks against it")
    print_sum(explanation.patches.sum(), explanation.patches_rest, "cells")
    print(f"\nwords, by {explanation.words_method}:")
    for word in explanation.words:
        print(f"  {word.value:+.3f}  {word.text}")
    print_sum(sum(word.value for word in explanation.words), explanation.words_rest, "words")
    if explanation.unread:
        print(f"  the model does not read the end of the text: {explanation.unread!r}")


def print_sum(total: float, rest: float | None, what: str):
    """Print the sum of values that are parts of the cosine, and what they leave of it."""
    if rest is not None:
        print(f"  the {what} add up to {total:+.3f}, and the rest of the cosine is {rest:+.3f}")


def shade(values: np.ndarray) -> list[str]:
    """Values of cells as lines of shades, two characters a cell."""
    largest = max(float(np.abs(values).max()), 1e-12)
    levels = np.ceil(np.abs(values) / largest * (len(SHADES) - 1) - 0.5).astype(int)
    return [
        "".join(
            "- " if level and value < 0 else SHADES[level] * 2
            for level, value in zip(row_levels, row, strict=True)
        )
        for row_levels, row in zip(levels, values, strict=True)
    ]


def build_parser() -> CommandParser:
    """The arguments of `clip-vit explain`."""
    parser = CommandParser(
        prog="clip-vit explain",
        description="Show which parts of a picture and which words make them match.",
        example='clip-vit explain outputs/emoji cat.png "a black cat" --save why.png,why.json',
    )
    parser.add_argument(
        "checkpoint",
        type=str,
        help="checkpoint of any peer, or exported model: a folder or a Hub id",
    )
    parser.add_argument("picture", type=str, help="image file")
    parser.add_argument("text", type=str, help="text to compare the picture with")
    parser.add_class_arguments(ExplainOptions)
    return parser
