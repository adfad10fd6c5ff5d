"""HEIC files whose image is a grid of tiles, which no library here writes."""

import struct

from tests.support.corpus import heic


def box(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind, body, version=0, flags=0):
    return box(kind, bytes([version]) + flags.to_bytes(3, "big") + body)


def content(data, *path):
    """Return the content of the box at the end of a path of names."""
    for name in path:
        at = 0
        while data[at + 4 : at + 8] != name:
            at += int.from_bytes(data[at : at + 4], "big")
        data = data[at + 8 : at + int.from_bytes(data[at : at + 4], "big")]
        data = data[4:] if name == b"meta" else data
    return data


def grid(tile, canvas, rows, columns, items=(1,), stated=None):
    """Return a HEIC of size `canvas` (width, height) whose grid repeats `tile`, a Pillow image.

    Its properties state the tile's size as `stated`. `items` are the references, which are repeated in order.
    """
    one = heic(tile)["heic"]
    head, pixels = one[: int.from_bytes(one[:4], "big")], content(one, b"mdat")
    count = rows * columns
    data = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, *canvas)
    references = b"".join(struct.pack(">H", items[k % len(items)]) for k in range(count))
    properties = [box(b"hvcC", content(one, b"meta", b"iprp", b"ipco", b"hvcC"))]
    properties += [full(b"ispe", struct.pack(">II", *size)) for size in (stated or tile.size, canvas)]
    associations = struct.pack(">IHBBBHBB", 2, 1, 2, 0x81, 2, 2, 1, 3)
    names = full(b"infe", struct.pack(">HH4sx", 1, 0, b"hvc1"), 2, 1) + full(
        b"infe", struct.pack(">HH4sx", 2, 0, b"grid"), 2
    )

    def meta(offset):
        places = struct.pack(">BBH", 0x44, 0, 2)
        places += struct.pack(">HHHHII", 1, 0, 0, 1, offset, len(pixels)) + struct.pack(
            ">HHHHII", 2, 1, 0, 1, 0, len(data)
        )
        parts = [
            full(b"hdlr", struct.pack(">I4s13x", 0, b"pict")),
            full(b"pitm", struct.pack(">H", 2)),
            full(b"iloc", places, 1),
            full(b"iinf", struct.pack(">H", 2) + names),
            full(b"iref", box(b"dimg", struct.pack(">HH", 2, count) + references)),
            box(b"iprp", box(b"ipco", b"".join(properties)) + full(b"ipma", associations)),
            box(b"idat", data),
        ]
        return full(b"meta", b"".join(parts))

    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", pixels)
