"""Where settings come from: flags, `TTA_...` variables, a TOML file, defaults; the first that states one wins."""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from tta_server.errors import ConfigError, shown
from tta_server.errors.validation import explain
from tta_server.settings import Settings, public_name

PREFIX = "TTA_"
OTHER_VARIABLES = ("TTA_CONFIG", "TTA_KEY")
"""Variables of options that are no settings."""
FIELDS = {public_name(field): field for field in Settings.model_fields}


class Environment(BaseSettings, Settings):
    """Names the variables of Settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_prefix_target="all",
        env_ignore_empty=True,
        enable_decoding=False,
        validate_by_name=False,
    )


def flag(field: str) -> str:
    return "--" + public_name(field).replace("_", "-")


def variable(field: str) -> str:
    return PREFIX + public_name(field).upper()


def read_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Settings by precedence: flag, variable, key of the TOML file `config`, default.

    `flags` has every field that the command takes, with None or an empty list for a flag that is not given; variables
    of other fields are not read. Raises ConfigError, which names the flag, variable or key, what was found and what is
    allowed.
    """
    given = {field: value for field, value in flags.items() if value is not None and value != []}
    found = EnvSettingsSource(Environment)()
    variables = {field: found[name] for name, field in FIELDS.items() if name in found and field in flags}
    keys = _read_toml(config) if config else {}
    values = keys | variables | given
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        mistake = explain(error, values, Settings)[0]
    field = str(mistake.place[0])
    sources = ((given, flag), (variables, variable), (keys, lambda field: f"{config}: {public_name(field)}"))
    place = next(name(field) for stated, name in sources if field in stated)
    if mistake.kind == "stated":
        raise ConfigError(f"{place}: {mistake.text}")
    raise ConfigError(f"{place} takes {mistake.text}, not {shown(mistake.found)}")


def _read_toml(path: Path) -> dict[str, Any]:
    """The keys of a TOML file by field; its paths are relative to its folder. Raises ConfigError."""
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        position = re.search(r"line \d+, column \d+", str(error))
        raise ConfigError(f"{path}: is not valid TOML at {position[0] if position else 'its end'}") from error
    known = f"known: {', '.join(FIELDS)}"
    for key in found:
        if key not in FIELDS:
            raise ConfigError(f"{path}: unknown key {key}; {_nearest(key, FIELDS) or known}")
    return {FIELDS[key]: _relative(path.parent, FIELDS[key], value) for key, value in found.items()}


def _relative(folder: Path, field: str, value: Any) -> Any:
    annotation = Settings.model_fields[field].annotation
    is_path = Path in (annotation, *get_args(annotation))
    if field == "model" and isinstance(value, list | str):
        return [_relative_named(folder, each) for each in (value.split() if isinstance(value, str) else value)]
    return folder / value if is_path and isinstance(value, str) else value


def _relative_named(folder: Path, named: Any) -> Any:
    """NAME=DIR; anything else is left to the settings."""
    name, equals, path = str(named).partition("=")
    return f"{name}={folder / path}" if equals and path else named


def unknown_variables(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A sentence for each `TTA_...` variable that no option reads."""
    known = [*OTHER_VARIABLES, *map(variable, Settings.model_fields)]
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            yield f"unknown variable {name} is ignored; {_nearest(name, known) or 'serve --help lists all'}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """A question that names the known name most like this one; empty if none is like it."""
    return "".join(f"did you mean {near}?" for near in get_close_matches(name, known, n=1))
