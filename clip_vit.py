"""The command `clip-vit`, also as `python -m clip_vit` and `accelerate launch -m clip_vit`."""

import sys
from pathlib import Path


def main(arguments: list[str] | None = None, default_config: Path | None = None) -> int:
    """Run a sub-command of `modeling_clip_vit.cli`; Ctrl-C also ends the imports in one word.

    Args:
        arguments: of the command line, which is taken when None.
        default_config: the recipe of `train` where it names none.
    """
    try:
        from modeling_clip_vit import cli

        return cli.main(arguments, default_config)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
