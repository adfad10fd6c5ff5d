"""What a TIFF's tags say of its pixels, against the list of the layouts that are taken."""

from dataclasses import dataclass
from enum import IntEnum

from PIL import features

from tta_server.errors import UnsupportedMedia
from tta_server.imaging.formats.samples import SampleKind
from tta_server.imaging.formats.tiff_tags import Tags


class Tag(IntEnum):
    SUBFILE = 254
    OLD_SUBFILE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTES = 279
    PLANAR = 284
    T4_OPTIONS = 292
    T6_OPTIONS = 293
    PREDICTOR = 317
    COLOR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTES = 325
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    XMP = 700


PHOTOMETRICS = {
    0: "grey, 0 is white",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "a mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32803: "a colour filter array",
    32844: "LogL",
    32845: "LogLuv",
    34892: "linear raw",
}
COMPRESSIONS = {
    1: "none",
    2: "CCITT RLE",
    3: "CCITT group 3",
    4: "CCITT group 4",
    5: "LZW",
    6: "old JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
TAKEN = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000}
CCITT = {2, 3, 4}
PREDICTABLE = {5, 8, 32946, 50000}
"""The compressions that know predictors."""

LIBTIFF = tuple(int(part) for part in str(features.version("libtiff") or "0").split(".")[:3])
"""The version in Pillow; (0,) for none."""

WHOLE_FAX = (4, 7, 2)
"""The first version of libtiff that leaves no pixel of a damaged CCITT strip unwritten; Pillow 13 has it."""

JPEG = 7
FORMATS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex integer", 6: "complex float"}
DEPTHS = {1: (1, 2, 4, 8, 12, 16, 32, 64), 2: (8, 16, 32, 64), 3: (16, 32, 64)}
"""Sample format -> bits of a sample."""

KINDS = {
    0: SampleKind.WHITE_IS_ZERO,
    1: SampleKind.GREY,
    2: SampleKind.RGB,
    3: SampleKind.GREY,
    5: SampleKind.CMYK,
    6: SampleKind.RGB,
}
MOST_EXTRAS = 3


def refuse(what: str, taken: str) -> UnsupportedMedia:
    return UnsupportedMedia(f"the TIFF image has {what}, which is not taken; taken: {taken}")


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """`extras` are the ExtraSamples of the bands behind the colours; `block` is (rows, columns) of a strip or tile."""

    width: int
    height: int
    depth: int
    format: int
    photometric: int
    bands: int
    extras: tuple[int, ...]
    separate: bool
    compression: int
    predictor: int
    reversed_bits: bool
    tiled: bool
    block: tuple[int, int]

    @property
    def kind(self) -> SampleKind:
        return KINDS[self.photometric]

    @property
    def alpha(self) -> int | None:
        """The band of the opacity."""
        found = [i for i, extra in enumerate(self.extras) if extra in (1, 2)]
        return self.bands - len(self.extras) + found[0] if found else None

    @property
    def premultiplied(self) -> bool:
        return 1 in self.extras

    @property
    def unscaled(self) -> str:
        """The kind of samples whose range no format defines, empty for unsigned ones of up to 16 bits."""
        return "" if self.format == 1 and self.depth <= 16 else f"{FORMATS[self.format]} {self.depth} bit"

    @property
    def planes(self) -> int:
        return self.bands if self.separate else 1

    @property
    def row_bytes(self) -> int:
        """Of one row of a strip or tile, of one plane."""
        return -(-self.block[1] * (self.bands // self.planes) * self.depth // 8)

    @property
    def grid(self) -> tuple[int, int]:
        """Strips or tiles of one plane: down, across."""
        return -(-self.height // self.block[0]), -(-self.width // self.block[1])


def read_layout(tags: Tags) -> TiffLayout:
    """Raises UnsupportedMedia that names what is not taken, ValueError for tags that make no sense."""
    if tags.integer(Tag.SUBFILE, 0) & 1 or tags.integer(Tag.OLD_SUBFILE, 1) == 2:
        raise refuse("a first page that is a preview of another (as in camera RAW and DNG)", "the picture itself")
    width, height = tags.integer(Tag.WIDTH), tags.integer(Tag.HEIGHT)
    photometric, compression = _photometric(tags), _compression(tags)
    bands = tags.integer(Tag.SAMPLES, 1)
    extras = _extras(tags, photometric, bands)
    depth, form = _sample(tags, photometric, bands)
    tiled = Tag.TILE_OFFSETS in tags.entries
    if tiled == (Tag.STRIP_OFFSETS in tags.entries):
        raise ValueError("neither strips nor tiles, or both")
    if tiled:
        block = tags.integer(Tag.TILE_HEIGHT), tags.integer(Tag.TILE_WIDTH)
    else:
        block = min(tags.integer(Tag.ROWS_PER_STRIP, height), height), width
    planar = tags.integer(Tag.PLANAR, 1)
    if planar not in (1, 2) or min(width, height, *block) == 0:
        raise ValueError("no such arrangement of planes, or an empty image")
    layout = TiffLayout(
        width=width,
        height=height,
        depth=depth,
        format=form,
        photometric=photometric,
        bands=bands,
        extras=extras,
        separate=planar == 2 and bands > 1,
        compression=compression,
        predictor=tags.integer(Tag.PREDICTOR, 1),
        reversed_bits=tags.integer(Tag.FILL_ORDER, 1) == 2,
        tiled=tiled,
        block=block,
    )
    _check(layout)
    return layout


def _photometric(tags: Tags) -> int:
    if Tag.PHOTOMETRIC not in tags.entries:
        raise refuse("no tag PhotometricInterpretation", "files that state it")
    found = tags.integer(Tag.PHOTOMETRIC)
    if found not in KINDS:
        name = PHOTOMETRICS.get(found, f"number {found}")
        raise refuse(f"the photometric interpretation {name}", "grey, RGB, palette, CMYK, and YCbCr with JPEG")
    if found == 5 and tags.integer(Tag.INK_SET, 1) != 1:
        raise refuse("inks other than cyan, magenta, yellow and black", "grey, RGB, palette and CMYK")
    return found


def _compression(tags: Tags) -> int:
    found = tags.integer(Tag.COMPRESSION, 1)
    if found not in TAKEN:
        taken = ", ".join(dict.fromkeys(COMPRESSIONS[c] for c in sorted(TAKEN)))
        raise refuse(f"the compression {COMPRESSIONS.get(found, f'number {found}')}", taken)
    if found in CCITT and LIBTIFF < WHOLE_FAX:
        raise refuse(f"the compression {COMPRESSIONS[found]}", "CCITT where the server has Pillow 13 or newer")
    return found


def _extras(tags: Tags, photometric: int, bands: int) -> tuple[int, ...]:
    colors = 1 if photometric == 3 else KINDS[photometric].colors
    more = bands - colors
    stated = tags.integers(Tag.EXTRA_SAMPLES)
    if more < 0 or (stated is not None and len(stated) != more) or (stated is None and more > 1):
        raise refuse(
            f"{bands} bands of {PHOTOMETRICS[photometric]} whose tag ExtraSamples does not fit", "bands stated"
        )
    if more > (1 if colors == 1 else MOST_EXTRAS) or any(extra not in (0, 1, 2) for extra in stated or ()):
        raise refuse(f"{bands} bands of {PHOTOMETRICS[photometric]}", "one more of grey, three more of RGB and CMYK")
    if stated is None and more:
        return (2,) if colors == 3 else (0,)  # as Pillow does where the tag is missing
    return stated or ()


def _sample(tags: Tags, photometric: int, bands: int) -> tuple[int, int]:
    """Bits and format, which are the same for all bands."""
    depths, forms = tags.integers(Tag.BITS) or (1,), tags.integers(Tag.SAMPLE_FORMAT) or (1,)
    if any(len(values) not in (1, bands) or len(set(values)) > 1 for values in (depths, forms)):
        raise refuse("bands of several depths or formats", "bands that have the same")
    depth, form = depths[0], forms[0]
    if depth not in DEPTHS.get(form, ()):
        kind = FORMATS.get(form, f"unknown (format {form})")
        raise refuse(
            f"samples that are {kind}, {depth} bit", "unsigned of 1 to 64 bit, signed of 8 to 64, float of 16 to 64"
        )
    if (form != 1 and photometric not in (0, 1, 2)) or (depth > 16 and photometric not in (0, 1, 2)):
        raise refuse(
            f"{FORMATS[form]} {depth} bit samples of {PHOTOMETRICS[photometric]}", "such samples of grey and RGB"
        )
    if depth < 8 and bands > 1:
        raise refuse(f"{depth} bit samples in several bands", "8 bit and more in several bands")
    return depth, form


def _check(layout: TiffLayout) -> None:
    """What does not go together."""
    kind = PHOTOMETRICS[layout.photometric]
    if layout.alpha is not None and layout.unscaled:
        raise refuse(f"alpha beside {layout.unscaled} samples", "alpha beside unsigned samples of 8, 12 and 16 bit")
    if sum(extra in (1, 2) for extra in layout.extras) > 1:
        raise refuse("several bands of alpha", "one band of alpha")
    if layout.premultiplied and layout.photometric not in (1, 2):
        raise refuse(f"premultiplied alpha of {kind}", "premultiplied alpha of grey and RGB")
    if layout.photometric == 3 and layout.depth not in (1, 2, 4, 8):
        raise refuse(f"a palette of {layout.depth} bit samples", "palettes of 1, 2, 4 and 8 bit")
    if layout.photometric == 5 and layout.depth not in (8, 16):
        raise refuse(f"CMYK of {layout.depth} bit samples", "CMYK of 8 and 16 bit")
    if layout.photometric == 6 and layout.compression != JPEG:
        raise refuse("YCbCr that is not compressed as JPEG", "YCbCr with JPEG, RGB")
    if layout.compression == JPEG and not _is_jpeg(layout):
        raise refuse("JPEG compression of such a layout", "8 bit grey, RGB and YCbCr without alpha, interleaved")
    if layout.compression in CCITT and (layout.depth, layout.bands) != (1, 1):
        raise refuse(f"{COMPRESSIONS[layout.compression]} of more than 1 bit", "CCITT of 1 bit")
    if layout.reversed_bits and (layout.depth != 1 or layout.compression not in CCITT | {1}):
        raise refuse(
            "reversed bits (FillOrder 2) of such a layout", "FillOrder 2 of 1 bit without compression or CCITT"
        )
    _check_predictor(layout)


def _is_jpeg(layout: TiffLayout) -> bool:
    plain = layout.depth == 8 and not layout.separate and layout.predictor == 1 and layout.format == 1
    return plain and (layout.photometric, layout.bands) in {(1, 1), (2, 3), (6, 3)}


def _check_predictor(layout: TiffLayout) -> None:
    if layout.predictor == 1:
        return
    whole = layout.predictor == 2 and layout.format in (1, 2) and layout.depth in (8, 16, 32, 64)
    if not whole and not (layout.predictor == 3 and layout.format == 3):
        raise refuse(
            f"predictor {layout.predictor} of {FORMATS[layout.format]} {layout.depth} bit samples",
            "predictor 2 of integers of 8 bit and more, predictor 3 of floats",
        )
    if layout.compression not in PREDICTABLE:
        raise refuse(f"a predictor with the compression {COMPRESSIONS[layout.compression]}", "LZW, deflate, Zstandard")
