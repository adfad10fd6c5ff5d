"""The layout of a TIFF's samples by its tags, checked against the layouts that are supported."""

from dataclasses import dataclass

from PIL import features

from tta_server.errors import UnsupportedMedia
from tta_server.imaging.formats.samples import SampleKind
from tta_server.imaging.formats.tiff_tags import Tag, Tags

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
SUPPORTED_COMPRESSIONS = {1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000}
CCITT = {2, 3, 4}
PREDICTOR_COMPRESSIONS = {5, 8, 32946, 50000}
"""Compressions that may have a predictor."""

LIBTIFF = tuple(int(part) for part in str(features.version("libtiff") or "0").split(".")[:3])
"""libtiff's version in Pillow; (0,) for none."""

SAFE_CCITT_LIBTIFF = (4, 7, 2)
"""First version of libtiff that writes every pixel of a damaged CCITT strip; Pillow 13 has it."""

JPEG = 7
SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex integer", 6: "complex float"}
DEPTHS = {1: (1, 2, 4, 8, 12, 16, 32, 64), 2: (8, 16, 32, 64), 3: (16, 32, 64)}
"""Sample format -> supported bits per sample."""

SAMPLE_KINDS = {
    0: SampleKind.WHITE_IS_ZERO,
    1: SampleKind.GREY,
    2: SampleKind.RGB,
    3: SampleKind.GREY,
    5: SampleKind.CMYK,
    6: SampleKind.RGB,
}
MAX_EXTRAS = 3


def unsupported(found: str, supported: str) -> UnsupportedMedia:
    """Return the error for a feature that is not supported."""
    return UnsupportedMedia(f"the TIFF image has {found}, which is not supported; supported: {supported}")


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Values of the tags that define pixels.

    `extras` are the ExtraSamples of the bands behind the colours; `block` is (rows, columns) of a strip or tile.
    """

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
        """Colour space of the samples."""
        return SAMPLE_KINDS[self.photometric]

    @property
    def alpha(self) -> int | None:
        """Index of the alpha band; None if there is none."""
        found = [i for i, extra in enumerate(self.extras) if extra in (1, 2)]
        return self.bands - len(self.extras) + found[0] if found else None

    @property
    def premultiplied(self) -> bool:
        """True if colours are premultiplied by alpha."""
        return 1 in self.extras

    @property
    def unscaled(self) -> str:
        """Sample type if no format defines its range; empty for unsigned samples of up to 16 bits."""
        return "" if self.format == 1 and self.depth <= 16 else f"{SAMPLE_FORMATS[self.format]} {self.depth} bit"

    @property
    def planes(self) -> int:
        """Number of separately stored planes."""
        return self.bands if self.separate else 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a strip or tile, in one plane."""
        return -(-self.block[1] * (self.bands // self.planes) * self.depth // 8)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of strips or tiles of one plane: (down, across)."""
        return -(-self.height // self.block[0]), -(-self.width // self.block[1])


def read_layout(tags: Tags) -> TiffLayout:
    """Read the layout; raise UnsupportedMedia naming an unsupported feature, ValueError for invalid tags."""
    if tags.integer(Tag.SUBFILE, 0) & 1 or tags.integer(Tag.OLD_SUBFILE, 1) == 2:
        raise unsupported(
            "a first page that is a preview of another (as in camera RAW and DNG)", "the full image as first page"
        )
    width, height = tags.integer(Tag.WIDTH), tags.integer(Tag.HEIGHT)
    photometric, compression = _photometric(tags), _compression(tags)
    bands = tags.integer(Tag.SAMPLES, 1)
    extras = _extras(tags, photometric, bands)
    depth, form = _sample(tags, photometric, bands)
    tiled = Tag.TILE_OFFSETS in tags.entries
    has_tile_size = not tags.entries.keys().isdisjoint((Tag.TILE_WIDTH, Tag.TILE_HEIGHT))
    if tiled == (Tag.STRIP_OFFSETS in tags.entries) or tiled != has_tile_size:  # readers differ on such files
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
        raise unsupported("no tag PhotometricInterpretation", "files that have it")
    found = tags.integer(Tag.PHOTOMETRIC)
    if found not in SAMPLE_KINDS:
        name = PHOTOMETRICS.get(found, f"number {found}")
        raise unsupported(f"the photometric interpretation {name}", "grey, RGB, palette, CMYK, and YCbCr with JPEG")
    if found == 5 and tags.integer(Tag.INK_SET, 1) != 1:
        raise unsupported("inks other than cyan, magenta, yellow and black", "grey, RGB, palette and CMYK")
    return found


def _compression(tags: Tags) -> int:
    found = tags.integer(Tag.COMPRESSION, 1)
    if found not in SUPPORTED_COMPRESSIONS:
        supported = ", ".join(dict.fromkeys(COMPRESSIONS[c] for c in sorted(SUPPORTED_COMPRESSIONS)))
        raise unsupported(f"the compression {COMPRESSIONS.get(found, f'number {found}')}", supported)
    if found in CCITT and LIBTIFF < SAFE_CCITT_LIBTIFF:
        raise unsupported(f"the compression {COMPRESSIONS[found]}", "CCITT if the server has Pillow 13 or newer")
    return found


def _extras(tags: Tags, photometric: int, bands: int) -> tuple[int, ...]:
    colors = 1 if photometric == 3 else SAMPLE_KINDS[photometric].colors
    more = bands - colors
    stated = tags.integers(Tag.EXTRA_SAMPLES)
    if more < 0 or (stated is not None and len(stated) != more) or (stated is None and more > 1):
        raise unsupported(
            f"{bands} bands of {PHOTOMETRICS[photometric]} that its tag ExtraSamples does not describe",
            "one entry in ExtraSamples for each band beyond the colours",
        )
    if more > (1 if colors == 1 else MAX_EXTRAS) or any(extra not in (0, 1, 2) for extra in stated or ()):
        raise unsupported(
            f"{bands} bands of {PHOTOMETRICS[photometric]}", "one more of grey, three more of RGB and CMYK"
        )
    if stated is None and more:
        return (2,) if colors == 3 else (0,)  # as Pillow does if the tag is missing
    return stated or ()


def _sample(tags: Tags, photometric: int, bands: int) -> tuple[int, int]:
    """Return bits and format of a sample, which must be the same for all bands."""
    depths, forms = tags.integers(Tag.BITS) or (1,), tags.integers(Tag.SAMPLE_FORMAT) or (1,)
    if any(len(values) not in (1, bands) or len(set(values)) > 1 for values in (depths, forms)):
        raise unsupported("bands of several depths or formats", "bands of one depth and format")
    depth, form = depths[0], forms[0]
    if depth not in DEPTHS.get(form, ()):
        kind = SAMPLE_FORMATS.get(form, f"unknown (format {form})")
        raise unsupported(
            f"samples that are {kind}, {depth} bit", "unsigned of 1 to 64 bit, signed of 8 to 64, float of 16 to 64"
        )
    if (form != 1 and photometric not in (0, 1, 2)) or (depth > 16 and photometric not in (0, 1, 2)):
        raise unsupported(
            f"{SAMPLE_FORMATS[form]} {depth} bit samples of {PHOTOMETRICS[photometric]}", "such samples of grey and RGB"
        )
    if depth < 8 and bands > 1:
        raise unsupported(f"{depth} bit samples in several bands", "8 bit and more in several bands")
    return depth, form


def _check(layout: TiffLayout) -> None:
    """Raise UnsupportedMedia for unsupported combinations."""
    kind = PHOTOMETRICS[layout.photometric]
    if layout.alpha is not None and layout.unscaled:
        raise unsupported(
            f"alpha beside {layout.unscaled} samples", "alpha beside unsigned samples of 8, 12 and 16 bit"
        )
    if sum(extra in (1, 2) for extra in layout.extras) > 1:
        raise unsupported("several bands of alpha", "one band of alpha")
    if layout.premultiplied and layout.photometric not in (1, 2):
        raise unsupported(f"premultiplied alpha of {kind}", "premultiplied alpha of grey and RGB")
    if layout.photometric == 3 and layout.depth not in (1, 2, 4, 8):
        raise unsupported(f"a palette of {layout.depth} bit samples", "palettes of 1, 2, 4 and 8 bit")
    if layout.photometric == 5 and layout.depth not in (8, 16):
        raise unsupported(f"CMYK of {layout.depth} bit samples", "CMYK of 8 and 16 bit")
    if layout.photometric == 6 and layout.compression != JPEG:
        raise unsupported("YCbCr that is not compressed as JPEG", "YCbCr with JPEG, RGB")
    if layout.compression == JPEG and not _is_jpeg(layout):
        raise unsupported("JPEG compression of such a layout", "8 bit grey, RGB and YCbCr without alpha, interleaved")
    if layout.compression in CCITT and (layout.depth, layout.bands) != (1, 1):
        raise unsupported(f"{COMPRESSIONS[layout.compression]} of more than 1 bit", "CCITT of 1 bit")
    if layout.reversed_bits and (layout.depth != 1 or layout.compression not in CCITT | {1}):
        raise unsupported(
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
        raise unsupported(
            f"predictor {layout.predictor} of {SAMPLE_FORMATS[layout.format]} {layout.depth} bit samples",
            "predictor 2 of integers of 8 bit and more, predictor 3 of floats",
        )
    if layout.compression not in PREDICTOR_COMPRESSIONS:
        raise unsupported(
            f"a predictor with the compression {COMPRESSIONS[layout.compression]}", "LZW, deflate, Zstandard"
        )
