"""Settings from flags, variables, a TOML file and defaults: which of them counts, and what a mistake says."""

from pathlib import Path
from typing import Any

import pytest

from tta_server.cli.sources import PREFIX, flag, read_settings, unknown_variables, variable
from tta_server.errors import ConfigError
from tta_server.settings import Settings


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable(field), raising=False)


ALL = dict.fromkeys(Settings.model_fields)
"""The flags of `serve`, none of them given."""


def toml(folder: Path, text: str) -> Path:
    path = folder / "server.toml"
    path.write_text(text, "utf-8")
    return path


SOURCES = {
    "port": (1, 2, 3, 8000),
    "max_images_per_request": (1, 2, 3, 64),
    "drain_seconds": (0.1, 0.2, 0.3, 10.0),
    "host": ("a", "b", "c", "127.0.0.1"),
    "grpc": (False, False, False, True),
    "model_control": (True, True, True, False),
    "model": (("a=x",), ("a=y", "b=z"), (), ()),
    "cors_origin": (("https://a.org",), ("https://b.org",), ("https://c.org",), ()),
}
"""A value for each source by field: flag, variable, file, default."""


@pytest.mark.parametrize("field", SOURCES)
def test_a_flag_counts_before_a_variable_before_a_file_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    by_flag, by_variable, by_file, default = SOURCES[field]

    def value(config: Path | None = None, given: Any = None) -> Any:
        return getattr(read_settings(config, **ALL | {field: given}), field)

    written = {bool: str(by_file).lower(), tuple: str(list(by_file if isinstance(by_file, tuple) else ()))}
    key = "max_batch" if field == "max_images_per_request" else field
    config = toml(tmp_path, f"{key} = {written.get(type(by_file), repr(by_file))}\n")
    assert value() == default
    assert value(config) == by_file
    monkeypatch.setenv(variable(field), " ".join(by_variable) if isinstance(by_variable, tuple) else str(by_variable))
    assert value(config) == by_variable
    assert value(config, list(by_flag) if isinstance(by_flag, tuple) else by_flag) == by_flag


def test_a_flag_may_switch_off_what_the_file_switches_on(tmp_path: Path) -> None:
    config = toml(tmp_path, "model_control = true\n")
    assert read_settings(config, **ALL).model_control
    assert not read_settings(config, **ALL | {"model_control": False}).model_control


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTA_PORT", "")
    monkeypatch.setenv("TTA_KEYS", "")
    settings = read_settings(toml(tmp_path, "port = 5\n"), **ALL)
    assert (settings.port, settings.keys) == (5, None)


def test_several_origins_are_words_of_a_variable_and_a_list_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = ("https://a.org", "https://b.org")
    assert read_settings(toml(tmp_path, 'cors_origin = ["https://a.org:443", "https://b.org"]')).cors_origin == both
    monkeypatch.setenv("TTA_CORS_ORIGIN", " https://a.org  https://b.org ")
    assert read_settings(**ALL).cors_origin == both


def test_paths_of_a_file_are_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toml(tmp_path, 'models = "zoo"\nkeys = "/run/keys"\nhost = "zoo"\n')
    settings = read_settings(config, **ALL)
    assert (settings.models, settings.keys, settings.host) == (tmp_path / "zoo", Path("/run/keys"), "zoo")
    monkeypatch.setenv("TTA_MODELS", "zoo")
    assert read_settings(config, **ALL).models == Path("zoo")


def test_single_models_are_words_of_a_variable_and_a_list_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = read_settings(toml(tmp_path, 'model = ["a=zoo/a", "b=/srv/b"]\n'), **ALL)
    assert settings.named_folders == {"a": tmp_path / "zoo" / "a", "b": Path("/srv/b")}
    assert settings.repository is None
    assert read_settings(toml(tmp_path, 'model = "a=zoo/a"\n')).named_folders == {"a": tmp_path / "zoo" / "a"}
    monkeypatch.setenv("TTA_MODEL", " a=zoo/a  b=x=y ")
    assert read_settings(**ALL).named_folders == {"a": Path("zoo/a"), "b": Path("x=y")}
    assert read_settings(**ALL | {"models": Path("zoo")}).repository == Path("zoo")


def test_a_command_reads_only_the_variables_of_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTA_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("TTA_MAX_BYTES", "5000")
    settings = read_settings(max_bytes=None)
    assert (settings.max_bytes, settings.port) == (5000, 8000)


def test_public_names_outlive_the_names_of_fields() -> None:
    assert (flag("max_images_per_request"), variable("max_images_per_request")) == ("--max-batch", "TTA_MAX_BATCH")
    assert (flag("grpc_port"), variable("grpc_port")) == ("--grpc-port", "TTA_GRPC_PORT")


# ---- mistakes ----


@pytest.mark.parametrize(
    ("text", "variables", "flags", "sentence"),
    [
        ("port = 0.5", {}, {}, "server.toml: port takes a whole number from 0 to 65535, not 0.5"),
        ("port = 70000", {}, {"host": "x"}, "server.toml: port takes a whole number from 0 to 65535, not 70000"),
        ("max_batch = 0", {}, {}, "server.toml: max_batch takes a whole number of at least 1, not 0"),
        ("grpc = 'maybe'", {}, {}, "server.toml: grpc takes true or false, not 'maybe'"),
        ("keys = 5", {}, {}, "server.toml: keys takes a path, not 5"),
        ("cors_origin = ['a.org']", {}, {}, "server.toml: cors_origin: 'a.org' is no origin; it takes scheme://host"),
        ("model = ['a']", {}, {}, "server.toml: model: 'a' is not NAME=DIR; NAME has letters, digits,"),
        ("", {"TTA_MODEL": "clothing"}, {}, "TTA_MODEL: 'clothing' is not NAME=DIR;"),
        ("", {}, {"model": ["a b=c"]}, "--model: 'a b=c' is not NAME=DIR;"),
        ("", {}, {"model": ["a=b", "c=b", "a=c"]}, "--model: the name a is given twice; each model needs"),
        ("", {"TTA_PORT": "x"}, {}, "TTA_PORT takes a whole number from 0 to 65535, not 'x'"),
        ("port = 'y'", {"TTA_PORT": "x"}, {}, "TTA_PORT takes a whole number from 0 to 65535, not 'x'"),
        ("", {"TTA_MAX_BATCH": "0"}, {}, "TTA_MAX_BATCH takes a whole number of at least 1, not '0'"),
        ("", {"TTA_GRPC": "maybe"}, {}, "TTA_GRPC takes true or false, not 'maybe'"),
        ("", {"TTA_DRAIN_SECONDS": "x"}, {}, "TTA_DRAIN_SECONDS takes a number of at least 0, not 'x'"),
        ("port = 'y'", {"TTA_PORT": "x"}, {"port": -1}, "--port takes a whole number from 0 to 65535, not -1"),
        ("", {}, {"max_images_per_request": 0}, "--max-batch takes a whole number of at least 1, not 0"),
        ("prot = 5", {}, {}, "server.toml: unknown key prot; did you mean port?"),
        ("max-bytes = 5", {}, {}, "server.toml: unknown key max-bytes; did you mean max_bytes?"),
        ("max_images_per_request = 5", {}, {}, "server.toml: unknown key max_images_per_request"),
        (
            "[qqq]\nport = 5",
            {},
            {},
            "server.toml: unknown key qqq; known: models, model, slots, workers, strict, host, port",
        ),
        ("port = 1\nport = 2\n", {}, {}, "server.toml: is not valid TOML at line 2, column "),
        ("port =", {}, {}, "server.toml: is not valid TOML at "),
    ],
)
def test_a_mistake_names_flag_variable_or_key_what_was_found_and_what_is_allowed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    variables: dict[str, str],
    flags: dict[str, Any],
    sentence: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        read_settings(toml(tmp_path, text), **ALL | flags)
    found = str(raised.value).removeprefix(f"{tmp_path}/")
    assert found.startswith(sentence)
    assert "\n" not in found


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: can't be read: No such file"):
        read_settings(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'host = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: is not text in UTF-8"):
        read_settings(tmp_path / "latin.toml")


def test_variables_that_no_option_reads_are_named_with_the_nearest_that_one_does() -> None:
    read = {variable(field): "1" for field in Settings.model_fields} | {
        "TTA_CONFIG": "a",
        "TTA_MODEL": "b",
        "PORT": "5",
    }
    assert list(unknown_variables(read)) == []
    unknown = {f"{PREFIX}PROT": "5", f"{PREFIX}QQQ": "1"}
    assert list(unknown_variables(read | unknown)) == [
        "unknown variable TTA_PROT is ignored; did you mean TTA_PORT?",
        "unknown variable TTA_QQQ is ignored; serve --help lists all",
    ]
