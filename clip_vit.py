"""The command `clip-vit`, also as `python -m clip_vit` and `accelerate launch -m clip_vit`.

It imports the package, and with it torch, only to run a command: `clip-vit --help` answers at once.
Commands in `LIGHT` do without torch as far as they can.
"""

import logging
import os
import select
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path

#: Command -> the module and the function that do it, and what it does.
COMMANDS = {
    "train": ("training.command", "run_training", "train a CLIP or a classifier"),
    "preview": ("training.preview", "run_preview", "draw the first batch that a recipe trains on"),
    "index": ("search.index_command", "run_index", "index pictures, or update an index"),
    "search": ("search.command", "run_search", "find pictures by text, by a picture, or by both"),
    "duplicates": (
        "search.duplicates_command",
        "run_duplicates",
        "find pictures of an index that are the same or alike",
    ),
    "demo": ("page.command", "run_demo", "write a page that searches an index in the browser"),
    "serve": ("page.serve_command", "run_serve", "serve a page that searches an index"),
    "classify": (
        "inference.classify_command",
        "run_classify",
        "classify images by class names or a few examples",
    ),
    "explain": (
        "explain.command",
        "run_explain",
        "show which parts of a picture and which words make them match",
    ),
    "info": ("inference.info_command", "run_info", "describe a model, an export or an index"),
    "filter": (
        "filtering.command",
        "run_filter",
        "choose training data: drop rows that do not match, are alike or too small",
    ),
    "shard": ("filtering.resize_command", "run_shard", "write a dataset with smaller images"),
    "evaluate": ("evaluation.command", "run_evaluate", "evaluate a model on a dataset"),
    "convert": (
        "conversion.command",
        "run_convert",
        "convert checkpoints from and to other implementations",
    ),
    "merge": ("conversion.merge", "run_merge", "average the weights of two checkpoints"),
    "quantize": (
        "quantization.command",
        "run_quantize",
        "quantise a trained model, or report what each layer loses",
    ),
    "export": (
        "export.command",
        "run_export",
        "export a checkpoint to ONNX, OpenVINO, torch.export or ExecuTorch",
    ),
    "push": ("hub.command", "run_push", "upload a model, an index, a page or a dataset to the Hub"),
}
#: Commands that run without the package's `__init__`, which imports torch and Transformers; where
#: they need it, they call `utils.models.import_models`.
LIGHT = frozenset(("demo", "duplicates", "explain", "index", "info", "push", "search", "serve"))
USAGE = """usage: clip-vit [--debug] {{{names}}} ...

{lines}

Run clip-vit COMMAND --help for the options of a command. --debug shows a traceback for every error.

exit codes:
  0              success
  1              an error: a sentence says what to fix; a traceback means a bug
  2              an unknown command or option, or a value of the wrong type
  129, 130, 143  ended by SIGHUP, SIGINT (Ctrl-C) or SIGTERM; training saves first
  141            nobody read the output to its end, as with | head -1"""


def main(arguments: list[str] | None = None, default_config: Path | None = None) -> int:
    """Run a sub-command.

    An error that the user can fix prints one sentence. Any other error is a bug and shows its
    traceback.

    Args:
        arguments: command-line arguments; those of the process when None.
        default_config: recipe for `train` when the command line names none.

    Returns:
        The exit code, as `--help` lists it.

    Raises:
        SystemExit: with code 2, for an option that the command does not accept.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments[:1] in (["-h"], ["--help"]) or not arguments:
        width = max(map(len, COMMANDS))
        lines = [f"  {name:{width}}  {what}" for name, (_, _, what) in COMMANDS.items()]
        print(USAGE.format(names=",".join(COMMANDS), lines="\n".join(lines)))
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"clip-vit: no command {name!r}: there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return run(name, rest, is_debug, default_config)
    except KeyboardInterrupt:  # while it imports, too
        print("interrupted", file=sys.stderr)
        return 130


def run(name: str, arguments: list[str], is_debug: bool, default_config: Path | None) -> int:
    """Run a command of `COMMANDS`; an error that the user can fix is printed."""
    module, function, _ = COMMANDS[name]
    prepare_package()
    # A notice for the developers of torchao, at every start: enumerations need no registration.
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    kwargs = {"default_config": default_config} if name == "train" else {}
    from modeling_clip_vit.utils.errors import UserError, one_line
    from modeling_clip_vit.utils.interrupts import ending_on_interrupt
    from modeling_clip_vit.utils.models import import_models

    try:
        with ending_on_interrupt():
            if name not in LIGHT:
                import_models()
            command: Callable[..., int] = getattr(
                import_module(f"modeling_clip_vit.{module}"), function
            )
        code = command(arguments, **kwargs)
        sys.stdout.flush()
        return code
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and drop_unread_output():
            return 141
        if is_debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1


def drop_unread_output() -> bool:
    """Write nothing more to stdout if nobody reads it any more, as after `| head -1`.

    Returns:
        Whether that is so.
    """
    try:
        stdout = sys.stdout.fileno()
    except OSError:  # it is no file, as in a notebook
        return False
    poll = select.poll()
    poll.register(stdout, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return True


def prepare_package():
    """Let the package's modules be imported without its `__init__`, unless that has run already."""
    spec = find_spec("modeling_clip_vit")
    if spec is not None and spec.name not in sys.modules:
        sys.modules[spec.name] = module_from_spec(spec)


if __name__ == "__main__":
    sys.exit(main())
