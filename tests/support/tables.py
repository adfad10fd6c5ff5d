"""The tables of docs/images.md, made by running the decoder. Run as a program, it writes them into the page.

python -m tests.support.tables
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pillow_heif
import tifffile
from PIL import Image

from tests.support.corpus import by_pillow, with_opencv
from tests.support.layouts import (
    CMYK,
    DEFLATE,
    GREY,
    LZW,
    NONE,
    OLD_DEFLATE,
    PACKBITS,
    PALETTE,
    RGB,
    WHITE,
    ZSTD,
    Layout,
    values,
    written,
)
from tests.support.patterns import smooth
from tta_server.errors import UnsupportedMedia
from tta_server.imaging.decoding import MAGIC, Limits, Rendering, decode, read_header
from tta_server.views.geometry import Size

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
SIZE = Size(48, 32)
YES, NO, LEVELS = "yes", "no", "with levels"


def support(data):
    """Return YES, LEVELS if a file needs `input.levels`, or NO if it is refused by name."""
    for answer, rendering in ((YES, Rendering()), (LEVELS, Rendering(levels=(0, 1)))):
        try:
            decode(data, read_header(data, Limits(), rendering), rendering)
        except UnsupportedMedia:
            continue
        return answer
    return NO


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


# ---- formats ----


def with_pillow(form, picture, **options):
    if form == "HEIC":
        buffer = io.BytesIO()
        pillow_heif.from_pillow(picture).save(buffer, **options)
        return buffer.getvalue()
    return by_pillow(picture, form, **options)


def frames(form, picture):
    other = Image.fromarray(255 - np.asarray(picture))
    if form != "HEIC":
        return by_pillow(picture, form, save_all=True, append_images=[other])
    file, buffer = pillow_heif.from_pillow(picture), io.BytesIO()
    file.add_from_pillow(other)
    file.save(buffer)
    return buffer.getvalue()


def formats():
    picture = Image.fromarray(smooth(SIZE))
    clear = picture.copy()
    clear.putalpha(99)
    deep = np.arange(SIZE.area * 3, dtype=np.uint16).reshape(SIZE.height, SIZE.width, 3)
    kinds = {
        "grey": {"JPEG", "PNG", "TIFF", "BMP", "GIF", "AVIF", "HEIC"},
        "palette": {"PNG", "TIFF", "BMP", "GIF"},
        "RGB": set(MAGIC) - {"GIF"},
        "CMYK": {"JPEG", "TIFF"},
        "alpha": {"PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIC"},
        "16 bit": {"PNG", "TIFF"},
        "several frames": {"PNG", "WEBP", "TIFF", "GIF", "AVIF", "HEIC"},
    }
    made = {
        "grey": lambda form: with_pillow(form, picture.convert("L")),
        "palette": lambda form: with_pillow(form, picture.convert("P")),
        "RGB": lambda form: with_pillow(form, picture),
        "CMYK": lambda form: with_pillow(form, picture.convert("CMYK")),
        "alpha": lambda form: with_pillow(form, clear.convert("P") if form == "GIF" else clear),
        "16 bit": lambda form: with_opencv(deep, f".{form.lower()}"),
        "several frames": lambda form: frames(form, picture),
    }
    rows = [
        [form, *(support(made[kind](form)) if form in has else "" for kind, has in kinds.items())] for form in MAGIC
    ]
    return table(["format", *kinds], rows)


# ---- TIFF ----

KINDS = {"grey, 0 is black": GREY, "grey, 0 is white": WHITE, "RGB": RGB, "palette": PALETTE, "CMYK": CMYK}
OTHERS = {"YCbCr": 6, "CIELab": 8, "ICCLab": 9, "mask": 4, "colour filter array": 32_803, "LogLuv": 32_845}
SAMPLES = [(1, 1), (1, 2), (1, 4), (1, 8), (1, 12), (1, 16), (1, 32), (1, 64)]
SAMPLES += [(form, depth) for form in (2, 3) for depth in (8, 16, 32, 64) if (form, depth) != (3, 8)]
PREFIX = {1: "", 2: "signed ", 3: "float "}


def probe(layout, tags=None):
    return support(written(values(layout, 16, 16), layout, tags))


def samples():
    head = ["", *(f"{PREFIX[form]}{depth}" for form, depth in SAMPLES)]
    rows = []
    for name, photometric in KINDS.items():
        rows.append([name, *(probe(Layout(photometric=photometric, depth=d, form=f)) for f, d in SAMPLES)])
    for name, photometric in OTHERS.items():
        tags = {262: [photometric]}
        bands = Layout(photometric=GREY if photometric in (4, 32_803) else RGB)
        rows.append([name, *(probe(replace(bands, depth=d, form=f), tags) for f, d in SAMPLES)])
    return table(head, rows)


def by_tifffile(**options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, smooth(SIZE), **options)
    return buffer.getvalue()


COLUMNS = {
    "grey, 1 bit": Layout(depth=1),
    "RGB, 8 bit": Layout(photometric=RGB),
    "RGB, 16 bit": Layout(photometric=RGB, depth=16),
    "grey, 32 bit float": Layout(depth=32, form=3),
}
WRITTEN = {
    "none": NONE,
    "LZW": LZW,
    "deflate": DEFLATE,
    "deflate, old number": OLD_DEFLATE,
    "PackBits": PACKBITS,
    "Zstandard": ZSTD,
}
FAX = {"CCITT RLE": ("tiff_ccitt", 2), "CCITT group 3": ("group3", 3), "CCITT group 4": ("group4", 4)}
STATED = {"old JPEG": 6, "JPEG 2000": 34_712, "LERC": 34_887, "LZMA": 34_925, "WebP": 50_001, "JPEG XL": 50_002}


def compressions():
    def stated(number, *columns):
        return [probe(COLUMNS[column], {259: [number]}) for column in columns or COLUMNS]

    rows = [[n, *(probe(replace(cell, compression=c)) for cell in COLUMNS.values())] for n, c in WRITTEN.items()]
    picture = Image.fromarray(smooth(SIZE)).convert("1")
    for name, (word, number) in FAX.items():
        rows.append([name, support(by_pillow(picture, "TIFF", compression=word)), *stated(number, *list(COLUMNS)[1:])])
    bit, _, *deep = COLUMNS
    eight = support(by_tifffile(photometric="rgb", compression="jpeg"))
    rows.append(["JPEG", *stated(7, bit), eight, *stated(7, *deep)])
    rows += [[name, *stated(number)] for name, number in STATED.items()]
    return table(["", *COLUMNS], rows)


ARRANGEMENTS = {
    "strips": Layout(photometric=RGB, depth=16),
    "tiles": Layout(photometric=RGB, depth=16, block=(16, 16)),
    "separate planes": Layout(photometric=RGB, depth=16, separate=True),
    "big endian": Layout(photometric=RGB, depth=16, order=">"),
    "BigTIFF": Layout(photometric=RGB, depth=16, big=True),
    "predictor 2, of integers": Layout(photometric=RGB, depth=16, compression=LZW, predictor=2),
    "predictor 3, of floats": Layout(depth=32, form=3, compression=LZW, predictor=3),
    "FillOrder 2 of 1 bit": Layout(depth=1, fill_order=2),
    "RGB and a band that is not alpha": Layout(photometric=RGB, extras=(0,)),
    "RGB and alpha": Layout(photometric=RGB, extras=(2,)),
    "RGB and premultiplied alpha, 16 bit": Layout(photometric=RGB, depth=16, extras=(1,)),
    "RGB, alpha and two other bands": Layout(photometric=RGB, extras=(2, 0, 0)),
    "RGB and four other bands": Layout(photometric=RGB, extras=(0, 0, 0, 0)),
    "grey and a band that is not alpha": Layout(extras=(0,)),
    "grey and alpha": Layout(extras=(2,)),
    "grey and two other bands": Layout(extras=(0, 0)),
    "CMYK and alpha": Layout(photometric=CMYK, extras=(2,)),
    "CMYK and premultiplied alpha": Layout(photometric=CMYK, extras=(1,)),
}


def arrangements():
    rows = [[name, probe(layout)] for name, layout in ARRANGEMENTS.items()]
    rows.append(["YCbCr with JPEG", support(by_tifffile(photometric="ycbcr", compression="jpeg"))])
    pages = Image.fromarray(smooth(SIZE))
    rows.append(["several pages", support(by_pillow(pages, "TIFF", save_all=True, append_images=[pages]))])
    return table(["", "taken"], rows)


TABLES = {"formats": formats, "samples": samples, "compressions": compressions, "arrangements": arrangements}


def marked(name):
    return f"<!-- {name}: python -m tests.support.tables -->\n\n{TABLES[name]()}\n\n<!-- /{name} -->"


def main():
    text = PAGE.read_text("utf-8")
    for name in TABLES:
        before, _, rest = text.partition(f"<!-- {name}:")
        text = before + marked(name) + rest.partition(f"<!-- /{name} -->")[2]
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
