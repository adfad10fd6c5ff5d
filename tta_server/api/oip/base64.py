"""base64 in JSON: line breaks and spaces are skipped, as in MIME; whatever else disturbs is named by its place."""

import binascii
import re

from tta_server.errors import InvalidInput, shown

SPACE = b" \t\r\n"
STRAY = re.compile(r"[^A-Za-z0-9+/= \t\r\n]")
WHAT = "an element of IMAGE in JSON is the base64 of an image file"


def decode_base64(text: str) -> bytes:
    """Raises InvalidInput. A string of 20 MB takes about 40 ms."""
    if text[:5].lower() == "data:":
        raise InvalidInput(f"{WHAT}, not a data: URI; send only what follows its comma")
    digits = text.encode("ascii", "replace")
    data = _strict(digits)
    if data is None:
        data = _strict(digits.translate(None, SPACE))
    if data is None:
        raise InvalidInput(f"{WHAT}; {_mistake(text)}")
    return data


def _strict(digits: bytes) -> bytes | None:
    """None where that is no base64 to the letter."""
    if len(digits) % 4:
        return None
    try:
        return binascii.a2b_base64(digits, strict_mode=True)
    except binascii.Error:
        return None


def _mistake(text: str) -> str:
    """What makes it none, with places counted from 1."""
    stray = STRAY.search(text)
    if stray and stray[0] in "-_":
        return (
            f"this one has {shown(stray[0])} at character {stray.start() + 1}, from the URL-safe alphabet; send the "
            "standard one, with + and /"
        )
    if stray:
        return f"this one has {shown(stray[0])} at character {stray.start() + 1}, which base64 does not use"
    digits = "".join(text.split())
    padding = text.find("=") + 1
    if padding and digits.rstrip("=").find("=") >= 0:
        return f"this one goes on after the padding '=' at character {padding}: two texts seem to be joined"
    held = len(digits.rstrip("="))
    if held % 4 == 1:
        return f"this one has {held} digits, one too many or too few: it seems to be cut off"
    return f"this one has {held} digits and {len(digits) - held} '=' at its end; it needs {-held % 4}"
