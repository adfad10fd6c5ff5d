"""base64 in JSON. Line breaks and spaces are skipped, as in MIME; other errors are located."""

import binascii
import re

from tta_server.errors import InvalidInput, shown

WHITESPACE = b" \t\r\n"
INVALID = re.compile(r"[^A-Za-z0-9+/= \t\r\n]")
EXPECTED = "an element of IMAGE in JSON is an image file in base64"


def decode_base64(text: str) -> bytes:
    """Raises InvalidInput. A string of 20 MB takes about 40 ms."""
    if text[:5].lower() == "data:":
        raise InvalidInput(f"{EXPECTED}, not a data: URI; send only the part after its comma")
    digits = text.encode("ascii", "replace")
    data = _strict(digits)
    if data is None:
        data = _strict(digits.translate(None, WHITESPACE))
    if data is None:
        raise InvalidInput(f"{EXPECTED}; {_explain(text)}")
    return data


def _strict(digits: bytes) -> bytes | None:
    """None if that is not strictly base64."""
    if len(digits) % 4:
        return None
    try:
        return binascii.a2b_base64(digits, strict_mode=True)
    except binascii.Error:
        return None


def _explain(text: str) -> str:
    """Why the text is not base64; characters are counted from 1."""
    invalid = INVALID.search(text)
    if invalid and invalid[0] in "-_":
        return (
            f"this one has {shown(invalid[0])} at character {invalid.start() + 1}, from the URL-safe alphabet; send "
            "the standard one, with + and /"
        )
    if invalid:
        return f"this one has {shown(invalid[0])} at character {invalid.start() + 1}, which base64 does not use"
    digits = "".join(text.split())
    padding = text.find("=") + 1
    if padding and digits.rstrip("=").find("=") >= 0:
        return f"this one continues after the padding '=' at character {padding}; send one text, not two joined ones"
    count = len(digits.rstrip("="))
    if count % 4 == 1:
        return f"this one has {count} digits, one too many or too few; it seems to be truncated"
    return f"this one has {count} digits and {len(digits) - count} '=' at its end; it needs {-count % 4}"
