"""Images as PNG and base64."""

import base64
import io

from PIL import Image


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def to_base64(png: bytes) -> str:
    return base64.b64encode(png).decode()


def from_base64(text: str) -> Image.Image:
    """The image whose PNG the text encodes."""
    return Image.open(io.BytesIO(base64.b64decode(text)))
