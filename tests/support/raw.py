"""A camera RAW, made here: a DNG of the smallest kind."""

import struct
from pathlib import Path

import numpy as np

#: Rows of the identity as fractions.
IDENTITY = (1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1)


def write_dng(path: Path, mosaic: np.ndarray):
    """Write what a sensor with red, green, green and blue filters saw: uint16 (height, width)."""
    height, width = mosaic.shape
    # Tag, type of the TIFF, number of values, values.
    fields = [
        (254, 4, 1, struct.pack("<I", 0)),
        (256, 4, 1, struct.pack("<I", width)),
        (257, 4, 1, struct.pack("<I", height)),
        (258, 3, 1, struct.pack("<H", 16)),
        (259, 3, 1, struct.pack("<H", 1)),
        (262, 3, 1, struct.pack("<H", 32803)),
        (271, 2, 5, b"Test\0"),
        (272, 2, 7, b"Camera\0"),
        (273, 4, 1, b"here"),
        (277, 3, 1, struct.pack("<H", 1)),
        (278, 4, 1, struct.pack("<I", height)),
        (279, 4, 1, struct.pack("<I", mosaic.nbytes)),
        (33421, 3, 2, struct.pack("<2H", 2, 2)),
        (33422, 1, 4, bytes((0, 1, 1, 2))),
        (50706, 1, 4, bytes((1, 4, 0, 0))),
        (50708, 2, 12, b"Test Camera\0"),
        (50717, 4, 1, struct.pack("<I", 65535)),
        (50721, 10, 9, struct.pack("<18i", *IDENTITY)),
        (50728, 10, 3, struct.pack("<6i", 1, 1, 1, 1, 1, 1)),
        (50778, 3, 1, struct.pack("<H", 21)),
    ]
    start = 14 + 12 * len(fields)
    size = sum(len(data) + len(data) % 2 for *_, data in fields if len(data) > 4)
    entries, values = b"", b""
    for tag, kind, count, data in fields:
        if data == b"here":  # where the pixels begin
            data = struct.pack("<I", start + size)
        if len(data) > 4:
            place = struct.pack("<I", start + len(values))
            values += data + b"\0" * (len(data) % 2)
            data = place
        entries += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(fields))
    path.write_bytes(head + entries + b"\0" * 4 + values + mosaic.astype("<u2").tobytes())
