"""What a photograph says of itself: when, with what and where it was taken (EXIF)."""

from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

#: Orientations by which a picture is shown with its sides exchanged.
TURNED = (5, 6, 7, 8)


def read_metadata(image: Image.Image) -> dict[str, Any]:
    """Size, date, camera and place of a picture that is opened, not decoded.

    Args:
        image: as `Image.open` returns it.

    Returns:
        `width` and `height` as it is shown, and, where they are known, `taken` (local time),
        `camera`, `latitude` and `longitude` (degrees, north and east positive).
    """
    width, height = image.size
    try:
        tags = image.getexif()
    except Exception:  # damaged metadata raises a dozen types, and is no reason to refuse a picture
        tags = Image.Exif()
    if tags.get(ExifTags.Base.Orientation) in TURNED:
        width, height = height, width
    values: dict[str, Any] = {"width": width, "height": height}
    for read in (read_date, read_camera, read_place):
        try:
            values |= read(tags)
        except Exception:  # as above
            continue
    return values


def read_date(tags: Image.Exif) -> dict[str, Any]:
    """When a picture was taken; nothing where it does not say."""
    details = tags.get_ifd(ExifTags.IFD.Exif)
    for text in (
        details.get(ExifTags.Base.DateTimeOriginal),
        details.get(ExifTags.Base.DateTimeDigitized),
        tags.get(ExifTags.Base.DateTime),
    ):
        try:
            return {"taken": datetime.strptime(clean(text)[:19], "%Y:%m:%d %H:%M:%S")}
        except ValueError:
            continue
    return {}


def read_camera(tags: Image.Exif) -> dict[str, Any]:
    """Maker and model of a camera, the maker once."""
    maker, model = clean(tags.get(ExifTags.Base.Make)), clean(tags.get(ExifTags.Base.Model))
    has_maker = model.lower().startswith(maker.lower())
    camera = model if has_maker else f"{maker} {model}".strip()
    return {"camera": camera} if camera else {}


def read_place(tags: Image.Exif) -> dict[str, Any]:
    """Where a picture was taken; nothing where that is unknown or no place on Earth."""
    place = tags.get_ifd(ExifTags.IFD.GPSInfo)
    latitude = read_degrees(place, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S")
    longitude = read_degrees(place, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W")
    if abs(latitude) > 90 or abs(longitude) > 180:
        return {}
    return {"latitude": latitude, "longitude": longitude}


def read_degrees(place: Any, tag: int, reference: int, negative: str) -> float:
    """Degrees, minutes and seconds as degrees; negative in the south and the west."""
    degrees, minutes, seconds = (float(part) for part in place[tag])
    value = degrees + minutes / 60 + seconds / 3600
    return -value if clean(place.get(reference)).upper() == negative else value


def clean(value: Any) -> str:
    """A text of EXIF without the zeros and spaces that cameras fill it up with."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return "" if value is None else str(value).replace("\0", " ").strip()
