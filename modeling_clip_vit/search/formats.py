"""Formats that Pillow does not read by itself: HEIC, camera RAW, frames of videos."""

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.decoding import PICTURE_SUFFIXES, BadImageError, decode_image
from ..utils.packages import is_installed, require

HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif"))
RAW_SUFFIXES = frozenset(
    (
        *(".3fr", ".arw", ".cr2", ".cr3", ".dng", ".erf", ".kdc", ".mef", ".mos", ".mrw", ".nef"),
        *(".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"),
    )
)
VIDEO_SUFFIXES = frozenset(
    (".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".webm", ".wmv")
)
#: Everything that a folder is searched for, apart from videos.
STILL_SUFFIXES = PICTURE_SUFFIXES | HEIF_SUFFIXES | RAW_SUFFIXES
#: Packages of the extra that reads further formats, and of the one that reads videos.
FORMAT_PACKAGES = ("pillow_heif", "rawpy")
VIDEO_PACKAGES = ("av",)


def decode_still(content: bytes, suffix: str, least_side: int = 0) -> Image.Image:
    """Decode a picture of any format that an index takes to RGB, upright.

    Args:
        content: of the file.
        suffix: how its name ends, in lower case.
        least_side: as for `decode_image`; a RAW then comes as its preview, if that is large enough.

    Raises:
        BadImageError: it cannot be decoded.
        MissingPackageError: it is HEIC or RAW, and the extra `formats` is not installed.
    """
    if suffix in RAW_SUFFIXES:
        return decode_raw(content, least_side)
    if suffix in HEIF_SUFFIXES:
        register_heif()
    return decode_image(content, least_side)


def open_header(content: bytes, suffix: str) -> Image.Image | None:
    """What Pillow reads of a picture without decoding it; None for a RAW that it does not know."""
    try:
        return Image.open(io.BytesIO(content))
    except Exception:
        if suffix in RAW_SUFFIXES:
            return None
        raise


@cache
def register_heif():
    """Let Pillow read HEIC.

    Raises:
        MissingPackageError: pillow-heif is not installed.
    """
    require(("pillow_heif",), "formats", "a HEIC picture")
    import pillow_heif

    pillow_heif.register_heif_opener()


def decode_raw(content: bytes, least_side: int) -> Image.Image:
    """Decode a camera RAW: its preview where that is large enough, otherwise its sensor data."""
    require(("rawpy",), "formats", "a camera RAW")
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            preview = decode_preview(raw, least_side) if least_side else None
            if preview is not None:
                return preview
            return Image.fromarray(raw.postprocess(use_camera_wb=True, half_size=bool(least_side)))
    except rawpy.LibRawError as error:
        raise BadImageError(f"LibRawError: {error}") from error


def decode_preview(raw: Any, least_side: int) -> Image.Image | None:
    """The JPEG preview of a RAW; None where there is none, or one that is too small."""
    import rawpy

    try:
        thumb = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    if thumb.format != rawpy.ThumbFormat.JPEG:
        return None
    preview = decode_image(thumb.data)
    return preview if min(preview.size) >= least_side else None


def has_developed_twin(names: set[str], name: str) -> bool:
    """Whether a RAW lies beside a JPEG or HEIC of the same name, and is the same picture.

    Args:
        names: of its folder, in lower case.
        name: of the file.
    """
    path = Path(name.lower())
    twins = (".jpg", ".jpeg", ".jpe", *HEIF_SUFFIXES)
    return path.suffix in RAW_SUFFIXES and any(f"{path.stem}{twin}" in names for twin in twins)


def video_frames(path: Path, seconds: float) -> Iterator[tuple[float, Image.Image]]:
    """Frames of a video at regular intervals, with their times.

    Frames between key frames are decoded only as far as they are needed.

    Args:
        path: of the video.
        seconds: between two frames.

    Raises:
        BadImageError: it cannot be decoded.
        MissingPackageError: PyAV is not installed.
    """
    require(VIDEO_PACKAGES, "video", "a video")
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            wanted = 0.0
            for frame in container.decode(stream):
                time = float(frame.time or 0.0)
                if time >= wanted:
                    yield round(time, 3), frame.to_image().convert("RGB")
                    wanted = (time // seconds + 1) * seconds
    except (av.FFmpegError, IndexError) as error:
        raise BadImageError(f"{type(error).__name__}: {error}") from error


def frame_at(path: Path, time: float) -> Image.Image:
    """The frame of a video at a time.

    Raises:
        BadImageError: there is none.
    """
    require(VIDEO_PACKAGES, "video", "a video")
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.time_base:
            container.seek(int(time / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if float(frame.time or 0.0) >= time - 0.0006:
                return frame.to_image().convert("RGB")
    raise BadImageError(f"there is no frame at {time} s")


def can_be_tried_again(error: str) -> bool:
    """Whether a picture could not be read for want of a package that is there now."""
    packages = (*FORMAT_PACKAGES, *VIDEO_PACKAGES)
    lacked = [name for name in packages if f" needs {name}" in error]
    return bool(lacked) and all(map(is_installed, lacked))
