"""What a pickle would import, read without loading it."""

import io
import pickletools
import struct
import zipfile

TENSORS = frozenset(
    ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch Size"]
    + [f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Byte", "Char", "Short", "Int")]
    + [f"torch {kind}Storage" for kind in ("Long", "Bool", "ComplexFloat", "ComplexDouble")]
)
"""What torch imports to load plain tensors."""
DAMAGED = (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, IndexError, OverflowError, struct.error)
"""What reading a damaged archive or pickle raises."""
IMPORTS = ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")
"""Operations that import what they do not state as GLOBAL does; torch.save writes none."""


def needs_code(content: bytes) -> bool:
    """Whether an archive of torch.save holds more than tensors in tuples, lists and dicts, or is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            pickles = [info for info in archive.infolist() if info.filename.endswith(".pkl")]
            if len(pickles) != 1 or pickles[0].compress_type != zipfile.ZIP_STORED:
                return True
            operations = pickletools.genops(archive.read(pickles[0]))
            return any(
                name in IMPORTS or (name == "GLOBAL" and value not in TENSORS)
                for name, value in ((operation.name, value) for operation, value, _ in operations)
            )
    except DAMAGED:
        return True
