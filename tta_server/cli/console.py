"""Where commands print, and the options that they share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from tta_server.app import BUNDLED, Settings
from tta_server.errors import ConfigError, shown
from tta_server.explain import explain

out = Console()
err = Console(stderr=True)

ModelsOption = Annotated[
    Path,
    typer.Option("--models", envvar="TTA_MODELS", help="Folder of models: <name>/tta.yaml and <name>/1/model.onnx."),
]
ModelOption = Annotated[str, typer.Option("--model", "-m", envvar="TTA_MODEL", help="Name of a model in that folder.")]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy", "-p", help="A preset (see `tta-server policies`) or a JSON list of views; default: the model's own."
    ),
]
MaxBytesOption = Annotated[int, typer.Option("--max-bytes", envvar="TTA_MAX_BYTES", help="Largest image file taken.")]
MaxPixelsOption = Annotated[
    int, typer.Option("--max-pixels", envvar="TTA_MAX_PIXELS", help="Largest image taken, in pixels.")
]
MaxWaitingMbOption = Annotated[
    int,
    typer.Option("--max-waiting-mb", envvar="TTA_MAX_WAITING_MB", help="Memory that waiting images may take, in MB."),
]
MAX_BYTES, MAX_PIXELS, MAX_WAITING_MB = 20_000_000, 25_000_000, 1000
DEFAULT_MODELS = BUNDLED
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff")


def picture_file(to: Path | None) -> Path | None:
    """Of an option: a file that a picture can be saved in; said before any work is done. Raises BadParameter."""
    if to is None:
        return None
    if to.suffix.lower() not in PICTURES:
        raise typer.BadParameter(f"{to}: the name of a picture ends in one of {', '.join(PICTURES)}")
    if not to.absolute().parent.is_dir():
        raise typer.BadParameter(f"{to}: there is no folder {to.parent}")
    return to


def save_picture(picture: Image.Image, to: Path) -> None:
    """Raises ConfigError."""
    try:
        picture.save(to)
    except OSError as error:
        raise ConfigError(f"{to}: can't be written: {error.strerror or error}") from error


def problem(sentence: str) -> None:
    """One red line on stderr."""
    err.print(f"[red]error:[/red] {_escaped(sentence)}", highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def settings_of(**values: Any) -> Settings:
    """Raises ConfigError for a setting out of range."""
    try:
        return Settings(**values)
    except ValidationError as error:
        first = explain(error, values, Settings)[0]
        flag = f"--{first.key.replace('_', '-')}"
        if first.kind == "stated":
            raise ConfigError(f"{flag}: {first.text}") from None
        raise ConfigError(f"{flag} takes {first.text}, not {shown(first.found)}") from None


def model_folder(models: Path, name: str) -> Path:
    """Raises ConfigError that names the models that there are."""
    if not (models / name / "tta.yaml").is_file():
        known = ", ".join(sorted(p.parent.name for p in models.glob("*/tta.yaml"))) or "none"
        raise ConfigError(f"there is no model {name!r} in {models}; found: {known}")
    return models / name
