"""Builders of files that are costly to decode for their bytes and pixels, up to the limits of 20 MB and 25 Mpx."""

import struct

SIDE = 5000


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(body)) + body


def table(kind, symbols):
    """Return a table of Huffman codes of two bits (kind 0 DC, 0x10 AC) for up to three symbols."""
    return segment(0xC4, bytes([kind, 0, len(symbols)]) + bytes(14) + bytes(symbols))


def frame(size, components, kind):
    parts = b"".join(bytes([1 + number, 0x11, 0]) for number in range(components))
    return segment(kind, struct.pack(">BHHB", 8, size[1], size[0], components) + parts)


def scan(components, start=0, end=63, precision=0):
    parts = b"".join(bytes([number, 0]) for number in components)
    return segment(0xDA, bytes([len(components)]) + parts + bytes([start, end, precision]))


def skipped(blocks):
    """Return the codes of runs of that number of empty blocks."""
    bits = ""
    while blocks:
        run = min(blocks, (1 << 15) - 1)
        length = run.bit_length() - 1
        bits += "00" + format(run - (1 << 14), "014b") if length == 14 else "01"
        blocks -= run if length == 14 else 1
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def jpeg(scans, size=(SIDE, SIDE), kind=0xC2, components=3, between=b""):
    """Return a JPEG of `scans` scans behind the first.

    Scans of kind 0xC2 (progressive) hold runs of empty blocks, those of 0xC0 (sequential) no bytes.
    """
    quantization = segment(0xDB, b"\0" + b"\1" * 64)
    head = b"\xff\xd8" + quantization + frame(size, components, kind) + table(0, [0, 1]) + table(0x10, [0xE0, 0, 1])
    if kind == 0xC2:
        numbers = range(1, 1 + components)
        first = scan(numbers, 0, 0)
        blocks = -(-size[0] // 8) * -(-size[1] // 8)
        empty = skipped(blocks)
        more = b"".join(
            scan([1 + number % components], 1, 63, 0x00 if number < components else 0x10) + empty + between
            for number in range(scans)
        )
    else:
        first, more = scan([1]), (scan([1]) + between) * scans
    return head + first + more + b"\xff\xd9"


def arithmetic_jpeg(scans, size=(SIDE, SIDE)):
    """Return a progressive JPEG with arithmetic coding, whose scans refine the lowest frequency and have no bytes."""
    head = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + frame(size, 3, 0xCA)
    numbers = range(1, 4)
    return head + scan(numbers, 0, 0) + scan(numbers, 0, 0, 0x10) * scans + b"\xff\xd9"


def tiff(body, tags):
    """Return a TIFF of LONGs whose `tags` {number: values} follow `body`, which starts at byte 8."""
    start = 8 + len(body) + len(body) % 2
    free = start + 2 + 12 * len(tags) + 4
    entries, rest = b"", b""
    for number, found in sorted(tags.items()):
        raw = struct.pack(f"<{len(found)}I", *found)
        if len(found) > 1:
            raw, rest = struct.pack("<I", free + len(rest)), rest + raw
        entries += struct.pack("<HHI", number, 4, len(found)) + raw
    head = b"II*\0" + struct.pack("<I", start)
    return b"".join([head, body, bytes(len(body) % 2), struct.pack("<H", len(tags)), entries, bytes(4), rest])


def tiles(body, length, side, block=1, compression=8):
    """Return a grey TIFF of side * side tiles of block * block pixels, all of them `body`'s first `length` bytes."""
    number = side * side
    shape = {256: [side * block], 257: [side * block], 322: [block], 323: [block]}
    kind = {258: [8], 259: [compression], 262: [1], 277: [1]}
    return tiff(body, shape | kind | {324: [8] * number, 325: [length] * number})


def bmp(bits, compression, pixels, size, header=40):
    palette = bytes(range(256)) * 4 if bits <= 8 else b""
    colors = 256 if palette else 0
    more = struct.pack("<IIIIII", compression, len(pixels), 0, 0, colors, 0) + bytes(header - 40)
    start = 14 + header + len(palette)
    info = struct.pack("<IiiHH", header, *size, 1, bits) + more
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels
