"""Builds the emoji image-text dataset: the same concepts drawn by three artists, named in two
languages, as one parquet file per split.

    python data/emoji/build.py                    # downloads four packages with `npm pack`
    python data/emoji/build.py --packages FOLDER  # keeps the packages there and reuses them

Nothing is installed and nothing out of a package is run: the archives are checked against pinned
SHA-512 sums and read in memory. With the same versions of datasets, pyarrow and Pillow the files
come out byte for byte the same.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PillowImage

IMAGE_SIZE = 64
WEBP_QUALITY = 90
HELD_OUT_SEED = "clip-vit emoji 2"
HELD_OUT_SHARE = 0.1
LARGEST_MEMBER = 8 * 2**20
EMOJI_PRESENTATION = "FE0F"
FLAGS = "flags"
COMPONENTS = "components"


class BuildError(Exception):
    """A reason not to build, in one sentence for the person who started the build."""


@dataclass(frozen=True)
class Package:
    """One pinned npm package."""

    name: str
    version: str
    sha512: str

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives the package."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class DrawingSource:
    """Where one artist's drawings lie, and how many of them should have a name."""

    package: Package
    folder: str
    suffix: str
    named_drawings: int


@dataclass(frozen=True)
class Concept:
    """What an emoji shows, independent of the artist."""

    hexcode: str
    caption_en: str
    caption_zh: str
    tags_en: tuple[str, ...]
    tags_zh: tuple[str, ...]
    group: str
    subgroup: str
    order: int


Drawings = dict[str, dict[str, bytes]]  # artist → hexcode → WebP bytes
Row = tuple[Concept, str]  # a concept and the artist who drew it

NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "62f81be405a81d588757f82ad6aaf96406ab7018a9f81dbbfd92d1b142646e00"
    "0468b959fdfa1ff60f3cd8b4e9984a728413440b49b6484988b658c7b13ca08c",
)
SOURCES = {
    "noto": DrawingSource(
        Package(
            "emoji-datasource-google",
            "16.0.0",
            "6517b17f3b3b315a0b9e6cd998db0ee132a19c0269e43fbe566e8fa54a47fe31"
            "104257a6a7797cf028d9f83a19d9f68cf51e10c5990e3c90a84fc0e53e17d0dc",
        ),
        folder="package/img/google/64/",
        suffix=".png",
        named_drawings=1911,
    ),
    "twemoji": DrawingSource(
        Package(
            "emoji-datasource-twitter",
            "16.0.0",
            "ec5fae0ae1c7fbb427adcd793f9b676ef2a483d13ab65ce2e0c9d3dae5b54653"
            "78a4b613cdae9c3ff76cb487d20ccb698c52d6b997b05a0f2305bb8bd9ec842d",
        ),
        folder="package/img/twitter/64/",
        suffix=".png",
        named_drawings=1911,
    ),
    "fluent": DrawingSource(
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "5a5ab69554ad4e7afc043a48274a449d328ee0bb83c71a931214ef46d0f50cb4"
            "45d267bba207914232a87a10c75ee549d9069e720979c1106feb4954006de1ee",
        ),
        folder="package/assets/",
        suffix=".webp",
        named_drawings=1852,
    ),
}
TRAIN_ARTISTS = ("noto", "twemoji")
NEW_ARTIST = "fluent"


def get_package(package: Package, folder: Path) -> Path:
    """Returns the checked archive of `package` in `folder`, downloading it only if absent.

    Raises:
        BuildError: npm is missing or fails, or the archive isn't the pinned one.
    """
    path = folder / package.archive
    if not path.is_file():
        download(package, folder)
    found = sha512_of(path)
    if found != package.sha512:
        raise BuildError(
            f"{path} is not {package.name} {package.version} as pinned in build.py "
            f"(SHA-512 {found[:16]}…, expected {package.sha512[:16]}…): delete it and run again, "
            "or review the new content before changing the pin."
        )
    return path


def download(package: Package, folder: Path) -> None:
    """Lets `npm pack` put the archive of `package` into `folder`.

    Raises:
        BuildError: npm is missing or fails.
    """
    specifier = f"{package.name}@{package.version}"
    command = ["npm", "pack", specifier, "--pack-destination", str(folder), "--ignore-scripts"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise BuildError(
            f"npm is needed to download {specifier}: install Node.js, or put {package.archive} "
            "into a folder and name it with --packages."
        ) from error
    if result.returncode != 0 or not (folder / package.archive).is_file():
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise BuildError(f"npm could not download {specifier}: {last_line}")


def sha512_of(path: Path) -> str:
    """Returns the SHA-512 sum of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha512").hexdigest()


def read_members(archive: Path, prefix: str, suffix: str) -> dict[str, bytes]:
    """Returns the regular files of a tar archive whose names match, without writing any to disk.

    Raises:
        BuildError: a matching file is larger than any that belongs here.
    """
    members = {}
    with tarfile.open(archive, mode="r:gz") as tar:
        for member in tar:
            matches = member.name.startswith(prefix) and member.name.endswith(suffix)
            if not (matches and member.isfile()):
                continue
            if member.size > LARGEST_MEMBER:
                raise BuildError(f"{member.name} in {archive} is too large: {member.size} bytes.")
            members[member.name] = tar.extractfile(member).read()
    return members


def normalise(hexcode: str) -> str:
    """Returns a hexcode in upper case and without the emoji presentation selector, which the
    sources put in at different places."""
    return "-".join(part for part in hexcode.upper().split("-") if part != EMOJI_PRESENTATION)


def read_concepts(archive: Path) -> dict[str, Concept]:
    """Returns every emoji that emojibase names, by hexcode. Skin-tone variants are not among
    them (they are nested in their base emoji), nor are regional indicators (they have no group).

    Raises:
        BuildError: a name is missing in a language.
    """
    files = read_members(archive, "package/", ".json")
    groups = {g["order"]: g["message"] for g in json_of(files, "en/messages.json")["groups"]}
    subgroups = {
        int(number): key.replace("-", " ")
        for number, key in json_of(files, "meta/groups.json")["subgroups"].items()
    }
    chinese = {normalise(entry["hexcode"]): entry for entry in json_of(files, "zh/data.json")}
    concepts = {}
    for english in json_of(files, "en/data.json"):
        if "group" in english:
            hexcode = normalise(english["hexcode"])
            concepts[hexcode] = make_concept(
                hexcode,
                english,
                chinese.get(hexcode, {}),
                groups[english["group"]],
                subgroups[english["subgroup"]],
            )
    return concepts


def json_of(files: dict[str, bytes], name: str) -> dict | list:
    """Returns the parsed JSON file `name` of the names package.

    Raises:
        BuildError: the package has no such file.
    """
    if f"package/{name}" not in files:
        raise BuildError(f"{NAMES.name} {NAMES.version} has no file {name}.")
    return json.loads(files[f"package/{name}"])


def make_concept(hexcode: str, english: dict, chinese: dict, group: str, subgroup: str) -> Concept:
    """Joins the two languages' entries of an emoji.

    Raises:
        BuildError: its name is empty in a language.
    """
    captions = {"en": english.get("label", "").strip(), "zh": chinese.get("label", "").strip()}
    for language, caption in captions.items():
        if not caption:
            raise BuildError(f"{NAMES.name} {NAMES.version} has no '{language}' name of {hexcode}.")
    return Concept(
        hexcode=hexcode,
        caption_en=captions["en"],
        caption_zh=captions["zh"],
        tags_en=tuple(english.get("tags", ())),
        tags_zh=tuple(chinese.get("tags", ())),
        group=group,
        subgroup=subgroup,
        order=english["order"],
    )


def read_drawings(
    source: DrawingSource, archive: Path, concepts: dict[str, Concept]
) -> dict[str, bytes]:
    """Returns an artist's drawings of `concepts` as WebP bytes by hexcode.

    Raises:
        BuildError: the number of drawings with a name isn't the expected one.
    """
    originals = {}
    members = read_members(archive, source.folder, source.suffix)
    # Where a package draws an emoji with and without its selector, the longer name, the fully
    # qualified one, comes later and stays.
    for name in sorted(members, key=lambda name: (len(name), name)):
        hexcode = normalise(name.removeprefix(source.folder).removesuffix(source.suffix))
        if hexcode in concepts:
            originals[hexcode] = members[name]
    if len(originals) != source.named_drawings:
        raise BuildError(
            f"{source.package.name} {source.package.version} has {len(originals)} drawings with a "
            f"name, expected {source.named_drawings}."
        )
    # Skin tones and hair styles alone are parts of emoji, not concepts that artists draw.
    return {
        hexcode: encode(original)
        for hexcode, original in originals.items()
        if concepts[hexcode].group != COMPONENTS
    }


def encode(original: bytes) -> bytes:
    """Returns an image as a white-backed square of `IMAGE_SIZE` pixels, in WebP."""
    with PillowImage.open(io.BytesIO(original)) as opened:
        image = opened.convert("RGBA")
    side = max(image.size)
    square = PillowImage.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    small = square.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), PillowImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=WEBP_QUALITY, method=6)
    return buffer.getvalue()


def choose_held_out(concepts: dict[str, Concept], drawings: Drawings) -> set[str]:
    """Returns the hexcodes to hold out of training: a tenth of the concepts that all artists drew
    and that aren't flags, those whose seeded hash comes first. A concept that shares a drawing
    with another is never chosen: training on the other would show its picture.
    """
    shared = [
        hexcode
        for hexcode in set.intersection(*(set(by_hexcode) for by_hexcode in drawings.values()))
        if concepts[hexcode].group != FLAGS
    ]
    twins = set().union(*(find_twins(by_hexcode) for by_hexcode in drawings.values()))
    eligible = sorted((h for h in shared if h not in twins), key=seeded_hash)
    return set(eligible[: round(len(shared) * HELD_OUT_SHARE)])


def find_twins(by_hexcode: dict[str, bytes]) -> set[str]:
    """Returns the hexcodes whose drawing is also the drawing of another hexcode."""
    uses = Counter(by_hexcode.values())
    return {hexcode for hexcode, drawing in by_hexcode.items() if uses[drawing] > 1}


def seeded_hash(hexcode: str) -> str:
    """Returns a hash that orders hexcodes at random, and each independently of the others: new
    emoji in a later package leave the order of the present ones as it is."""
    return hashlib.sha256(f"{HELD_OUT_SEED}:{hexcode}".encode()).hexdigest()


def split_rows(
    concepts: dict[str, Concept], drawings: Drawings, held_out: set[str]
) -> dict[str, list[Row]]:
    """Returns the rows of each split, in Unicode's order of concepts, artist by artist."""
    splits = {"train": [], "validation": [], "test": []}
    for concept in sorted(concepts.values(), key=lambda concept: concept.order):
        for artist in SOURCES:
            if concept.hexcode not in drawings[artist]:
                continue
            split = split_of(concept, artist, held_out)
            if split is not None:
                splits[split].append((concept, artist))
    return splits


def split_of(concept: Concept, artist: str, held_out: set[str]) -> str | None:
    """Returns the split that an artist's drawing of a concept belongs to, None for no split."""
    if concept.hexcode in held_out:
        return "test"
    if artist in TRAIN_ARTISTS:
        return "train"
    # Fluent has no flags of its own: nearly all of its flags are Noto's drawings, which training
    # has seen.
    return None if concept.group == FLAGS else "validation"


def make_features(concepts: Iterable[Concept]) -> Features:
    """Returns the columns; groups and subgroups are those of `concepts`, in Unicode's order."""
    ordered = sorted(concepts, key=lambda concept: concept.order)
    return Features(
        {
            "image": Image(),
            "caption_en": Value("string"),
            "caption_zh": Value("string"),
            "tags_en": List(Value("string")),
            "tags_zh": List(Value("string")),
            "hexcode": Value("string"),
            "group": ClassLabel(names=list(dict.fromkeys(c.group for c in ordered))),
            "subgroup": ClassLabel(names=list(dict.fromkeys(c.subgroup for c in ordered))),
            "artist": ClassLabel(names=list(SOURCES)),
        }
    )


def make_dataset(rows: list[Row], drawings: Drawings, features: Features) -> Dataset:
    """Returns the rows as a dataset with the images' bytes inside."""
    columns = {
        "image": [{"bytes": drawings[artist][c.hexcode], "path": None} for c, artist in rows],
        "caption_en": [concept.caption_en for concept, _ in rows],
        "caption_zh": [concept.caption_zh for concept, _ in rows],
        "tags_en": [list(concept.tags_en) for concept, _ in rows],
        "tags_zh": [list(concept.tags_zh) for concept, _ in rows],
        "hexcode": [concept.hexcode for concept, _ in rows],
        "group": [concept.group for concept, _ in rows],
        "subgroup": [concept.subgroup for concept, _ in rows],
        "artist": [artist for _, artist in rows],
    }
    return Dataset.from_dict(columns, features=features)


def build(packages: Path, output: Path) -> None:
    """Builds every split from the packages in `packages` (downloaded there where missing) and
    writes `<split>-00000-of-00001.parquet` into `output`.

    Raises:
        BuildError: a package can't be had, or isn't what it was when this script was written.
    """
    archives = {artist: get_package(s.package, packages) for artist, s in SOURCES.items()}
    concepts = read_concepts(get_package(NAMES, packages))
    drawings = {
        artist: read_drawings(source, archives[artist], concepts)
        for artist, source in SOURCES.items()
    }
    drawn = {h: c for h, c in concepts.items() if any(h in d for d in drawings.values())}
    features = make_features(drawn.values())
    rows_of_split = split_rows(drawn, drawings, choose_held_out(drawn, drawings))

    output.mkdir(parents=True, exist_ok=True)
    for split, rows in rows_of_split.items():
        path = output / f"{split}-00000-of-00001.parquet"
        make_dataset(rows, drawings, features).to_parquet(path)
        print(f"{path}: {len(rows)} rows, {path.stat().st_size} bytes")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder of the packages' .tgz files; a missing one is downloaded there, a present "
        "one reused (default: a temporary folder)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).resolve().parent / "data",
        help="folder to write the parquet files to (default: data, next to this script)",
    )
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the build and returns the exit status: 0, or 1 after one sentence on stderr."""
    arguments = parse_arguments()
    try:
        if arguments.packages is not None:
            arguments.packages.mkdir(parents=True, exist_ok=True)
            build(arguments.packages, arguments.output)
        else:
            with tempfile.TemporaryDirectory() as folder:
                build(Path(folder), arguments.output)
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
