"""A folder of 10,000 pictures for benchmarks/indexing.py, out of packages of Debian and npm.

    python benchmarks/indexing_pictures.py FOLDER

4,700 icons (oxygen-icon-theme), 4,700 emoji (emoji-datasource-google and -twitter, 64 pixels), and
600 photographs and paintings: the wallpapers of four packages as they are, and cuts of 1280 x 960
from them as JPEG. Nothing is installed, and nothing out of a package is run. It needs apt-get,
dpkg-deb and npm.
"""

import argparse
import random
import subprocess
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

DEBIAN = (
    "oxygen-icon-theme",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
)
NPM = ("emoji-datasource-google@16.0.0", "emoji-datasource-twitter@16.0.0")
ICONS, EMOJI, PHOTOGRAPHS = 4700, 2350, 600
#: Bytes from which on a picture is no icon.
LARGE = 200_000
CUT = (1280, 960)


def unpack(work: Path) -> list[Path]:
    """Download the packages; the pictures of Debian's."""
    subprocess.run(["apt-get", "download", *DEBIAN], cwd=work, check=True)
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, work / "debian"], check=True)
    subprocess.run(["npm", "pack", "--silent", *NPM], cwd=work, check=True)
    found = sorted((work / "debian").rglob("*"))
    suffixes = (".png", ".jpg")
    return [path for path in found if path.suffix in suffixes and not path.is_symlink()]


def write_icons(pictures: list[Path], folder: Path, rng: random.Random):
    """Icons of every size."""
    icons = [path for path in pictures if path.stat().st_size < LARGE]
    for number, path in enumerate(rng.sample(icons, ICONS)):
        (folder / f"icon-{number:04}-{path.name}").write_bytes(path.read_bytes())


def write_emoji(work: Path, folder: Path):
    """Emoji of two artists."""
    for archive in sorted(work.glob("*.tgz")):
        with tarfile.open(archive) as tar:
            members = (it for it in tar if it.isfile() and "/64/" in it.name)
            for _, member in zip(range(EMOJI), members, strict=False):
                content = tar.extractfile(member)
                assert content is not None
                name = f"{archive.stem}-{Path(member.name).name}"
                (folder / name).write_bytes(content.read())


def write_photographs(pictures: list[Path], folder: Path, rng: random.Random):
    """Wallpapers as they are, and cuts of them."""
    large = [path for path in pictures if path.stat().st_size >= LARGE]
    large = [path for path in large if all(a >= b for a, b in zip(size(path), CUT, strict=True))]
    for number, path in enumerate(large):
        (folder / f"photograph-{number:04}{path.suffix}").write_bytes(path.read_bytes())
    for number in range(len(large), PHOTOGRAPHS):
        with Image.open(large[number % len(large)]) as image:
            left = rng.randrange(image.width - CUT[0] + 1)
            top = rng.randrange(image.height - CUT[1] + 1)
            cut = image.convert("RGB").crop((left, top, left + CUT[0], top + CUT[1]))
        cut.save(folder / f"photograph-{number:04}.jpg", quality=90)


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(path) as image:
        return image.size


def main():
    """Write the folder."""
    parser = argparse.ArgumentParser(description="Make a folder of 10,000 pictures.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True)
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as place:
        pictures = unpack(Path(place))
        write_icons(pictures, folder, rng)
        write_emoji(Path(place), folder)
        write_photographs(pictures, folder, rng)
    print(f"{len(list(folder.iterdir())):,} pictures in {folder}")


if __name__ == "__main__":
    main()
