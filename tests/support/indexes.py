"""Folders of pictures, and indexes of them."""

from pathlib import Path

import pyarrow as pa
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.index import PictureIndex
from tests.support.pictures import COLORS, draw_picture


def write_pictures(folder: Path, count: int = 8) -> list[str]:
    """PNGs of squares in two sub-folders; their paths within the folder."""
    paths = []
    for number in range(count):
        color = list(COLORS)[number % len(COLORS)]
        path = folder / ("a" if number % 2 else "b") / f"{number:03} {color}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_picture(color, number).save(path)
        paths.append(path.relative_to(folder).as_posix())
    return sorted(paths)


def write_photograph(path: Path, side: int = 64, **tags):
    """A JPEG with EXIF: `orientation`, `date`, `maker`, `model`, `latitude`, `longitude`."""
    exif = Image.Exif()
    for name, tag in {"orientation": 0x112, "maker": 0x10F, "model": 0x110}.items():
        if name in tags:
            exif[tag] = tags[name]
    if "date" in tags:
        exif.get_ifd(0x8769)[0x9003] = tags["date"]
    if "latitude" in tags:
        place = exif.get_ifd(0x8825)
        place[1], place[2] = "N" if tags["latitude"] > 0 else "S", degrees(tags["latitude"])
        place[3], place[4] = "E" if tags["longitude"] > 0 else "W", degrees(tags["longitude"])
    image = draw_picture("red", 0).resize((2 * side, side))
    image.save(path, exif=exif)


def degrees(value: float) -> tuple[float, float, float]:
    """Degrees, minutes and seconds of a number."""
    minutes = abs(value) % 1 * 60
    return float(int(abs(value))), float(int(minutes)), minutes % 1 * 60


def make_index(model: Path, pictures: Path | str, place: Path | str, *options: str) -> PictureIndex:
    """Run `clip-vit index` and open what it made."""
    assert main(["index", str(model), str(pictures), str(place), *options]) == 0
    return PictureIndex.open(place)


def rows_of(index: PictureIndex) -> dict[str, dict]:
    """Id -> row, read anew; ids are unique."""
    rows = PictureIndex.open(index.name).table.search().to_arrow()
    assert isinstance(rows, pa.Table)
    ids = rows["id"].to_pylist()
    assert len(ids) == len(set(ids))
    return {row["id"]: row for row in rows.to_pylist()}
