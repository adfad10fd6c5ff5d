"""Files that commands read and write."""

import random
from pathlib import Path

from PIL import Image

from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import SUFFIXES, read_file, unreadable
from tta_server.repository.described import is_described
from tta_server.repository.loader import check_repository

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff")

SEED = 0
"""Of the images that a limit draws."""


def find_images(data: Path, limit: int | None = None) -> list[Path]:
    """Files of images in a folder and its subfolders, at most `limit`: a random draw, the same each time.

    Raises InvalidInput if there are none.
    """
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise InvalidInput(f"{data} holds no images, which are files named {', '.join(sorted(SUFFIXES))}")
    if limit is None or limit >= len(paths):
        return paths
    return sorted(random.Random(SEED).sample(paths, limit))


def model_folder(models: Path, name: str) -> Path:
    """Of a model by its name in a folder of models, else by its own folder. Raises ConfigError that lists the names."""
    if is_described(models / name):
        return models / name
    if not is_described(Path(name)):
        check_repository(models)
        known = ", ".join(sorted(path.name for path in models.iterdir() if is_described(path))) or "none"
        raise ConfigError(f"there is no model {name!r} in {models}; found: {known}")
    return Path(name)


def read_image(path: Path, limits: Limits) -> bytes:
    """Raises InvalidInput and TooLarge, whose sentences continue the path."""
    try:
        return read_file(path, limits)
    except OSError as error:
        raise InvalidInput(unreadable(error)) from None


def picture_file(to: Path | None) -> Path | None:
    """Callback of an option: checks before any work that a picture can be saved there. Raises InvalidInput."""
    if to is None:
        return None
    if to.suffix.lower() not in PICTURES:
        raise InvalidInput(f"{to}: the name of a picture ends in one of {', '.join(PICTURES)}")
    if to.is_dir():
        raise InvalidInput(f"{to}: is a folder")
    if not to.absolute().parent.is_dir():
        raise InvalidInput(f"{to}: there is no folder {to.parent}")
    return to


def save_picture(picture: Image.Image, to: Path) -> None:
    """Raises ConfigError."""
    try:
        picture.save(to)
    except OSError as error:
        raise ConfigError(f"{to}: can't be written: {error.strerror or error}") from error
