"""The command line: `clip-vit train`, `search` and so on. All work is done elsewhere."""

import sys
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError


def main(arguments: list[str] | None = None) -> int:
    """Run a sub-command; errors that a user can mend end in one sentence and exit code 1."""
    given = sys.argv[1:] if arguments is None else arguments
    commands = {
        "train": train,
        "preview": preview,
        "search": search,
        "evaluate": evaluate,
        "convert": convert,
        "merge": merge,
        "quantize": quantize,
        "export": export,
    }
    if given[:1] in (["-h"], ["--help"]) or not given:
        print(
            f"usage: clip-vit {{{','.join(commands)}}} ...\n\n"
            "  train     train a model by a recipe\n"
            "  preview   draw the first batch that a recipe trains on\n"
            "  search    search pictures by text\n"
            "  evaluate  measure a model on a data set\n"
            "  convert   a checkpoint to and from other implementations\n"
            "  merge     two checkpoints into one between them\n"
            "  quantize  a trained model, or report what its layers lose by it\n"
            "  export    a checkpoint for another runtime\n\n"
            "clip-vit COMMAND --help says more."
        )
        return 0 if given else 2
    if given[0] not in commands:
        print(
            f"clip-vit: no command {given[0]!r}: there are {', '.join(commands)}", file=sys.stderr
        )
        return 2
    return commands[given[0]](given[1:])


def train(arguments: list[str], default_config: Path | None = None) -> int:
    """`clip-vit train --config FILE [--FIELD VALUE ...]`"""
    from .training.command import run_training

    return report_errors(lambda: run_training(arguments, default_config))


def preview(arguments: list[str]) -> int:
    """`clip-vit preview --config FILE [--FIELD VALUE ...] --save PICTURE`"""
    from .training.preview import run_preview

    return report_errors(lambda: run_preview(arguments))


def search(arguments: list[str]) -> int:
    """`clip-vit search CHECKPOINT QUERY --images FOLDER [--save PICTURE]`"""
    from .inference.command import run_search

    return report_errors(lambda: run_search(arguments))


def evaluate(arguments: list[str]) -> int:
    """`clip-vit evaluate CHECKPOINT --dataset DATA [--tasks TASK ...]`"""
    from .evaluation.command import run_evaluate

    return report_errors(lambda: run_evaluate(arguments))


def convert(arguments: list[str]) -> int:
    """`clip-vit convert SOURCE TARGET [--to TYPE]`"""
    from .conversion.command import run_convert

    return report_errors(lambda: run_convert(arguments))


def merge(arguments: list[str]) -> int:
    """`clip-vit merge FIRST SECOND TARGET [--alpha SHARE]`"""
    from .conversion.merge import run_merge

    return report_errors(lambda: run_merge(arguments))


def quantize(arguments: list[str]) -> int:
    """`clip-vit quantize CHECKPOINT TARGET [--mode MODE]`, or `--report --dataset DATASET`"""
    from .quantization.command import run_quantize

    return report_errors(lambda: run_quantize(arguments))


def export(arguments: list[str]) -> int:
    """`clip-vit export CHECKPOINT TARGET --format FORMAT [--precision PRECISION]`"""
    from .export.command import run_export

    return report_errors(lambda: run_export(arguments))


def report_errors(command) -> int:
    """Run a command; an error that a user can cause becomes one sentence on standard error."""
    try:
        return command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, StrictDataclassError) as error:
        print(f"error: {one_sentence(error)}", file=sys.stderr)
        return 1


def one_sentence(error: Exception) -> str:
    """The message of an error, without the frame that strict configurations put around it."""
    cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
    return " ".join(str(cause or error).split())


if __name__ == "__main__":
    sys.exit(main())
