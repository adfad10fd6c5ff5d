"""Options that commands share; those of settings are made from the fields of Settings."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from pydantic import ValidationError
from pydantic_core import PydanticUndefined
from rich.markup import escape
from typer.core import TyperCommand

from tta_server.cli.sources import flag, variable
from tta_server.errors import InvalidInput, shown
from tta_server.errors.validation import allowed, limits_of
from tta_server.serving.options import PredictQuery
from tta_server.settings import Settings

PANELS = {"models": "Models", "host": "Network", "keys": "Access", "max_bytes": "Limits", "traces": "Observability"}
"""Headings in the help of `serve`, by the field with which each panel begins."""


def setting(field: str, panel: str | None = None) -> Any:
    """The option of a setting. Its value is None without the flag: variable and default are up to `read_settings`."""
    info, name = Settings.model_fields[field], flag(field)
    notes = f"[dim yellow]{escape(f'[env var: {variable(field)}]')}[/]"
    if info.default not in (None, (), PydanticUndefined):
        notes += f" [dim]{escape(f'[default: {_text(info.default)}]')}[/]"
    return typer.Option(
        f"{name}/--no-{name[2:]}" if info.annotation is bool else name,
        help=f"{escape(str(info.description))} {notes}",
        rich_help_panel=panel,
        show_default=False,
    )


def _text(default: Any) -> str:
    """As a TOML file has it, without quotes."""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for every setting; their values are its keyword arguments, by field."""
    own = inspect.signature(command)
    parameters = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    panel = None
    for field, info in Settings.model_fields.items():
        panel = PANELS.get(field, panel)
        kind = list[str] if get_origin(info.annotation) is tuple else info.annotation
        annotation = Annotated[kind | None, setting(field, panel)]  # type: ignore[valid-type]
        parameters.append(inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    command.__dict__["__signature__"] = own.replace(parameters=parameters)
    return command


ModelsOption = Annotated[Path | None, setting("models")]
MaxBytesOption = Annotated[int | None, setting("max_bytes")]
MaxPixelsOption = Annotated[int | None, setting("max_pixels")]
MaxWaitingMbOption = Annotated[int | None, setting("max_waiting_mb")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="TTA_MODEL", help="Name of a model in the folder of models, or the folder of one model."
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        "-p",
        help="A preset (`tta-server policies` lists them) or a JSON list of views; default: the model's own.",
    ),
]
MergeOption = Annotated[
    str | None,
    typer.Option(
        "--merge",
        help="How predictions are merged (`tta-server models --json` lists the merges); default: the model's own.",
    ),
]


class Command(TyperCommand):
    """A command whose mistakes in options are sentences of our own instead of the parser's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", self.help or "")  # else lines of the source end lines of the help

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
