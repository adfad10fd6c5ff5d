"""Fetches a tar archive of models and unpacks it into a folder, with the standard library alone.

Exits with 0, or with 1 and a sentence. The archive holds NAME/tta.yaml and NAME/1/model.onnx, in folders or not.
"""

import argparse
import hashlib
import shutil
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path


def fetch(url: str, target: Path, sha256: str | None) -> None:
    """Writes the file; raises ValueError if its digest is another, OSError if it can't be had."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
        while block := response.read(1 << 20):
            digest.update(block)
            file.write(block)
    if sha256 and digest.hexdigest() != sha256.lower():
        raise ValueError(f"its SHA-256 is {digest.hexdigest()}, not {sha256}: nothing is unpacked")


def models_in(root: Path) -> list[Path]:
    """The model folders at any depth. Raises ValueError if there is none, or two have the same name."""
    files = [*root.rglob("tta.yaml"), *(path.parent for path in root.rglob("1/model.*"))]
    found = sorted({path.parent for path in files})
    if not found:
        raise ValueError("the archive holds no model: NAME/tta.yaml and NAME/1/model.onnx")
    if len({path.name for path in found}) < len(found):
        raise ValueError("two models of the archive have the same name")
    return found


def replace_models(folder: Path, url: str, sha256: str | None) -> list[str]:
    """Empties the folder and fills it from the archive; returns the names. Raises OSError, ValueError, TarError."""
    for path in folder.iterdir():  # a container that starts again finds what the last one left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archive = Path(scratch, "archive")
        fetch(url, archive, sha256)
        with tarfile.open(archive) as tar:
            tar.extractall(Path(scratch, "unpacked"), filter="data")  # nothing outside of it, no devices, no owners
        return [shutil.move(path, folder / path.name).name for path in models_in(Path(scratch, "unpacked"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="of a .tar, .tar.gz, .tar.bz2 or .tar.xz")
    parser.add_argument("folder", type=Path, help="emptied first")
    parser.add_argument("--sha256")
    options = parser.parse_args()
    try:
        names = replace_models(options.folder, options.url, options.sha256)
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.exit(f"error: {options.url}: {error}")
    sys.stdout.write(f"fetched {', '.join(names)}\n")


if __name__ == "__main__":
    main()
