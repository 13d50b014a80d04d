"""Explain why a picture and a text match."""

from PIL import Image

from ..inference.loading import Encoder, TorchEncoder
from ..utils.errors import UserError
from ..utils.from_pretrained import is_quantized
from .explanation import Explanation, Word
from .match import prepare
from .methods import METHODS
from .view import seen_box


def explain(
    encoder: Encoder,
    image: Image.Image,
    text: str,
    method: str = "auto",
    words_method: str = "auto",
    grid: int | None = None,
    blank: str = "mean",
) -> Explanation:
    """How much each part of a picture and each word of a text add to their match.

    Args:
        encoder: a checkpoint's or an export's, from `inference.loading.load_encoder`.
        image: an RGB picture of any size.
        text: in any language that the model knows.
        method: for the picture, a key of `METHODS`; `auto` takes integrated gradients, or occlusion
            where there are no gradients: for exports and quantised checkpoints.
        words_method: for the words; `auto` takes occlusion.
        grid: cells along the picture's shorter side, for integrated gradients and occlusion; by
            default those of the model's patches, joined or cut until there are 6 to 16.
        blank: what stands for a missing part: the picture's mean colour, white, black, or the
            picture itself, blurred (`blur`).

    Raises:
        UserError: the text is empty or too long, there is no such method, or the model does not
            allow it.

    Example:
        >>> encoder = load_encoder("outputs/emoji")
        >>> explanation = explain(encoder, Image.open("cat.png").convert("RGB"), "a cat")
        >>> explanation.patches.shape
        (6, 6)
    """
    method = choose_method(encoder, method, "method")
    words_method = choose_method(encoder, words_method, "words_method")
    if grid is not None and not METHODS[method].takes_grid:
        raise UserError(
            f"grid={grid} is not allowed with method={method!r}: it has one cell per patch"
        )
    match = prepare(encoder, image, text, grid, blank)
    patches = METHODS[method].explain_picture(match)
    explain_text = METHODS[words_method].explain_text
    assert explain_text, "checked above"
    words = explain_text(match)
    read = match.text.text
    return Explanation(
        text=text,
        cosine=match.cosine,
        patches=patches.values.numpy(),
        patches_rest=patches.rest,
        patches_method=method,
        words=[
            Word(read[span.start : span.end], span.start, span.end, value)
            for span, value in zip(match.text.words, words.values.tolist(), strict=True)
        ],
        words_rest=words.rest,
        words_method=words_method,
        box=seen_box(encoder, image.size),
        settings={"blank": blank},
        unread=match.text.unread,
    )


#: What explains what: option -> the methods that it allows.
ALLOWED = {
    "method": tuple(METHODS),
    "words_method": tuple(name for name, method in METHODS.items() if method.explain_text),
}


def choose_method(encoder: Encoder, method: str, option: str) -> str:
    """A method by its name, or the one that `auto` means.

    Args:
        encoder: what the method works on.
        method: a key of `METHODS`, or `auto`.
        option: what the name was given as, a key of `ALLOWED`.

    Raises:
        UserError: there is no such method, or the encoder does not allow it.
    """
    check_method(method, option)
    problem = ""
    if not isinstance(encoder, TorchEncoder):
        problem = "an export has no gradients"
    elif is_quantized(encoder.model.config):
        problem = "a quantised checkpoint has no gradients"
    if method == "auto":
        is_simple = problem or option == "words_method"
        return "occlusion" if is_simple else "integrated_gradients"
    if problem and METHODS[method].needs_torch:
        raise UserError(
            f"{option}={method!r} is not allowed: {problem}; use occlusion, or the checkpoint that "
            "it was made from"
        )
    return method


def check_method(method: str, option: str):
    """Refuse a method that does not exist.

    Raises:
        UserError: it does not.
    """
    if method not in ("auto", *ALLOWED[option]):
        raise UserError(
            f"{option}={method!r} is not allowed: allowed is auto, {', '.join(ALLOWED[option])}"
        )
