"""The command `clip-vit push`."""

from pathlib import Path

from ..utils.command_line import CommandParser, build_options
from .contents import read_contents
from .push import PushOptions, push


def run_push(arguments: list[str]) -> int:
    """List the files of a folder that go to the Hub, and upload them."""
    parsed = build_parser().parse(arguments, PushOptions)
    options = build_options(parsed, PushOptions)
    contents = read_contents(Path(parsed.folder))
    verb = "would upload" if options.dry_run else "uploading"
    kind = contents.kind
    print(f"{verb} {kind.title} to {parsed.repository} ({kind.repo_type} repository):")
    print(contents.describe(), flush=True)
    if options.dry_run:
        return 0
    pushed = push(contents, parsed.repository, options)
    if not (pushed.uploaded or pushed.deleted):
        print(f"nothing has changed: {pushed.url}")
        return 0
    deleted = f", {len(pushed.deleted)} deleted" if pushed.deleted else ""
    print(f"{len(pushed.uploaded)} new or changed files{deleted}: {pushed.url}")
    return 0


def build_parser() -> CommandParser:
    """The arguments of `clip-vit push`."""
    parser = CommandParser(
        prog="clip-vit push",
        description="Upload a folder to the Hugging Face Hub: a checkpoint, an export, an adapter, "
        "an index of pictures, a static page (as a Space) or a dataset. The files are listed "
        "first, and nothing else is uploaded. Log in with `hf auth login`, or set HF_TOKEN.",
        example="clip-vit push outputs/emoji me/emoji --dry_run true",
    )
    parser.add_argument("folder", type=str, help="folder to upload")
    parser.add_argument(
        "repository", type=str, help="repository on the Hub, as user/name; made if there is none"
    )
    parser.add_class_arguments(PushOptions)
    return parser
