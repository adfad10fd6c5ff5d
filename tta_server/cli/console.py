"""Where commands print, and the options that they share."""

from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from pydantic import ValidationError
from rich.console import Console
from rich.status import Status
from rich.text import Text
from typer.core import TyperCommand

from tta_server.errors import ConfigError, InvalidInput, shown
from tta_server.errors.validation import allowed, explain, explain_option, limits_of
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import read_file, unreadable
from tta_server.serving.options import PredictQuery
from tta_server.settings import BUNDLED, Settings


class PlainConsole(Console):
    """Prints every string as it is, in tables too, since names of files, models and labels are in them: `[bold]` and
    `:smile:` mean nothing, and what is not printable is escaped."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def printable(text: str) -> str:
    """With escapes for control characters and for bytes of a file name that are not UTF-8; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


out = PlainConsole()
err = PlainConsole(stderr=True)

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
    if to.is_dir():
        raise typer.BadParameter(f"{to}: is a folder")
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
    """One line on stderr, which begins in red."""
    err.print(Text.assemble(("error:", "red"), " ", printable(sentence)), soft_wrap=True)


def loading(text: str) -> Status:
    """A spinner on stderr while a `with` block runs."""
    return err.status(Text(printable(text)))


def read_image(path: Path, limits: Limits) -> bytes:
    """Raises InvalidInput and TooLarge, whose sentences go on from the path."""
    try:
        return read_file(path, limits)
    except OSError as error:
        raise InvalidInput(unreadable(error)) from None


def settings_of(**values: Any) -> Settings:
    """Raises ConfigError for a setting out of range."""
    try:
        return Settings(**values)
    except ValidationError as error:
        first = explain(error, values, Settings)[0]
        raise ConfigError(explain_option(first, f"--{str(first.place[0]).replace('_', '-')}")) from None


class Command(TyperCommand):
    """A command whose options say in our words what they take: typer says it in those of pydantic."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises InvalidInput for a value of the wrong kind or out of range."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            cause, param = error.__cause__, error.param
            if not isinstance(cause, ValidationError) or param is None:
                raise
            mistake = cause.errors(include_url=False)[0]
            fields = Settings.model_fields | PredictQuery.model_fields
            limits = limits_of(fields[param.name]) if param.name in fields else {}
            takes = allowed(mistake["type"], mistake.get("ctx", {}), limits)
            raise InvalidInput(f"{max(param.opts, key=len)} takes {takes}, not {shown(mistake['input'])}") from None


def model_folder(models: Path, name: str) -> Path:
    """Raises ConfigError that names the models that there are."""
    if not models.is_dir():
        raise ConfigError(f"{models}: there is no such folder of models")
    if not (models / name / "tta.yaml").is_file():
        known = ", ".join(sorted(p.parent.name for p in models.glob("*/tta.yaml"))) or "none"
        raise ConfigError(f"there is no model {name!r} in {models}; found: {known}")
    return models / name
