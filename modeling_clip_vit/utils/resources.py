"""Files that come with this project: recipes, architectures, templates and small datasets.

They are at the top of a checkout, and inside an installed package.
"""

from pathlib import Path

from .errors import UserError

PACKAGE = Path(__file__).parent.parent
#: The folder that has `configuration` and `data` in it.
RESOURCES = PACKAGE / "resources" if (PACKAGE / "resources").is_dir() else PACKAGE.parent

#: Kind of file -> its folder below `configuration`, and the ending that a name omits.
KINDS = {
    "train": ("recipe", ".yaml"),
    "model": ("model configuration", ""),
    "accelerate": ("Accelerate file", ".yaml"),
    "templates": ("set of templates", ".txt"),
}


def resource_names(kind: str) -> list[str]:
    """The names of the files of a kind of `KINDS` that come with this project."""
    folder, suffix = RESOURCES / "configuration" / kind, KINDS[kind][1]
    return sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))


def find_resource(kind: str, name: str) -> Path:
    """A file or folder of configuration: by its path, or by its name if it comes with this project.

    Args:
        kind: a key of `KINDS`.
        name: such as `my/recipe.yaml`, `emoji` or `clip-vit-base-patch32`.

    Raises:
        UserError: there is none; the message lists the names.
    """
    what, suffix = KINDS[kind]
    path = Path(name).expanduser()
    if path.exists():
        return path
    for ours in (RESOURCES / "configuration" / kind / f"{name}{suffix}", RESOURCES / name):
        if ours.exists():
            return ours
    raise UserError(
        f"no {what} {name!r} (looked in {Path.cwd()}): give a path, or one of "
        f"{', '.join(resource_names(kind))}"
    )


def find_data(path: str) -> str:
    """The path of a dataset; if it does not exist, the one of that name from this project."""
    ours = RESOURCES / path
    is_ours = path.startswith("data/") and not Path(path).exists() and ours.is_dir()
    return str(ours) if is_ours else path
