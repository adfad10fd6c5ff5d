"""Why a model can't be served: the operator reads files and errors, clients no path of the server."""

from pathlib import Path

import pytest

from tta_server.errors import BackendUnavailable, ConfigError
from tta_server.repository.failure import LoadFailure, explain_failure, public_sentence

YAML = "is not valid YAML in line 1, column 8"


def caused(sentence: str, cause: Exception) -> ConfigError:
    error = ConfigError(sentence)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("models", [Path("/srv/models"), Path("models"), Path(), Path("../models")])
def test_the_folder_of_models_is_no_clients_business(models: Path) -> None:
    for folder in (models, models.absolute(), models.resolve()):
        error = ConfigError(f"{folder / 'a' / 'tta.yaml'}: {YAML}")
        assert public_sentence(error, [models]) == f"a/tta.yaml: {YAML}"


@pytest.mark.parametrize(
    ("sentence", "public"),
    [
        ("a: no file /data/weights/net.bin beside it", "a: no file net.bin beside it"),
        ("a: no file '/data/weights/net.bin'", "a: no file 'net.bin'"),
        ("a/1/model.onnx: input.size is [8, 8]", "a/1/model.onnx: input.size is [8, 8]"),
        ("give width/height, or see https://example.org/a/b", "give width/height, or see https://example.org/a/b"),
    ],
)
def test_no_other_folder_is_named(sentence: str, public: str) -> None:
    assert public_sentence(ConfigError(sentence), [Path("/srv/models")]) == public


def test_text_of_library_errors_is_left_to_the_log() -> None:
    error = caused("/srv/models/a/1/model.onnx: can't load the file: Protobuf", RuntimeError("Protobuf\nmore"))
    failure = explain_failure("a", error, [Path("/srv/models")])
    assert failure.public == "a/1/model.onnx: can't load the file: see the server's log"
    assert failure.reason == "/srv/models/a/1/model.onnx: can't load the file: Protobuf"


def test_the_model_is_not_named_twice() -> None:
    failure = explain_failure("a", ConfigError("model a: its output has 9 labels"), [Path("models")])
    assert failure == LoadFailure("its output has 9 labels", "its output has 9 labels")


@pytest.mark.parametrize(("error", "text"), [(ValueError("odd /srv/a\nb"), "odd /srv/a"), (KeyError(), "no message")])
def test_an_unexpected_error_is_named_to_the_operator_only(error: Exception, text: str) -> None:
    failure = explain_failure("a", error, [Path("models")])
    assert failure.reason == f"unexpected error: {type(error).__name__}: {text}"
    assert failure.public == "internal error: see the server's log"


def test_a_servers_address_and_text_are_no_clients_business() -> None:
    error = BackendUnavailable("its Triton server is not ready")
    error.__cause__ = RuntimeError("grpc://gpu:8001: UNAVAILABLE: refused")
    failure = explain_failure("a", error, [Path("models")])
    assert failure.reason == "its Triton server is not ready (grpc://gpu:8001: UNAVAILABLE: refused)"
    assert failure.public == "its Triton server is not ready"
    assert failure.retried.public == "its Triton server is not ready; it is tried again every second"
    wrong = ConfigError("backend.url: the servers grpcs://gpu:8001, grpc://[::1]:80 serve different models m")
    assert (
        public_sentence(wrong, [Path()]) == "backend.url: the servers its server, its server serve different models m"
    )
