"""In which language a caption is, by py3langid: naive Bayes (Lui & Baldwin 2012)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..data.errors import DataError
from ..utils.packages import require

#: Code -> the codes that py3langid tells apart, but whose short texts are written alike.
SAME_WRITING = {"zh": ("zh", "wuu", "yue")}


class LanguageFilter:
    """The probability that a text is in one of some languages.

    Short texts say little: `red hat` may be in many languages. So the probabilities of the
    languages are added up, and a small sum is enough to keep a text.

    Args:
        languages: ISO 639 codes, such as `en`.

    Raises:
        MissingPackageError: py3langid is not installed.
        DataError: it does not know a language.
    """

    def __init__(self, languages: Sequence[str]):
        require(("py3langid",), "languages", "languages")
        self.identifier = load_identifier()
        unknown = [name for name in languages if name not in self.identifier.labels]
        if unknown:
            raise DataError(
                f"languages has {unknown[0]!r}, which py3langid does not know: it knows "
                f"{', '.join(sorted(self.identifier.labels))}"
            )
        self.codes = {code for name in languages for code in SAME_WRITING.get(name, (name,))}

    def probability(self, text: str) -> float:
        """The probability that a text is in one of the languages."""
        ranked = self.identifier.rank(text)
        return sum(probability for code, probability in ranked if code in self.codes)

    def best(self, text: str) -> str:
        """The most probable language of all."""
        return self.identifier.classify(text)[0]


@lru_cache(1)
def load_identifier() -> Any:
    """The identifier with calibrated probabilities; it loads for a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
