"""Descriptions of server and models."""

from collections.abc import Iterator

import pytest

from tests.support.onnx_models import segmenter, write_model
from tests.tasks.test_every_task import config
from tta_server.api.oip.metadata import describe_config, describe_metadata, describe_server
from tta_server.application import Application
from tta_server.repository.loader import load_model
from tta_server.settings import Settings

MAX_IMAGES = 4


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """A ready application with a segmentation model and one slot."""
    settings = config("segmentation", {"size": "free"}, {"kind": "probabilities"})
    folder = write_model(tmp_path_factory.mktemp("models") / "toy", segmenter(), settings)
    ready = Application(
        Settings(models=folder.parent, slots=1, max_images_per_request=MAX_IMAGES), [load_model(folder)]
    )
    ready.warm()
    yield ready
    ready.close()


def test_metadata_has_every_input_and_output(application: Application) -> None:
    payload = describe_metadata(application.models["toy"])
    assert payload["versions"] == ["1"]
    assert [(entry["name"], entry["datatype"], entry["shape"]) for entry in payload["inputs"] + payload["outputs"]] == [
        ("IMAGE", "BYTES", [-1, 1]),
        ("PIXELS", "UINT8", [-1, -1, -1, 3]),
        ("MASK", "UINT8", [-1, -1, -1]),
        ("AREA", "INT64", [-1, 3]),
        ("AGREEMENT", "FP32", [-1, -1, -1]),
        ("PROBABILITIES", "FP32", [-1, 3, -1, -1]),
        ("RECEIPT", "BYTES", [-1, 1]),
    ]


def test_metadata_and_configuration_agree(application: Application) -> None:
    metadata = describe_metadata(application.models["toy"])
    settings = describe_config(application.models["toy"], application)
    assert settings["max_batch_size"] == MAX_IMAGES
    for wide, narrow in zip(
        metadata["inputs"] + metadata["outputs"], settings["input"] + settings["output"], strict=True
    ):
        assert (wide["name"], wide["shape"][1:]) == (narrow["name"], narrow["dims"])
        assert narrow["data_type"] == {"BYTES": "TYPE_STRING"}.get(wide["datatype"], f"TYPE_{wide['datatype']}")


def test_disabled_model_control_is_no_extension(application: Application) -> None:
    assert "model_repository" not in describe_server(application)["extensions"]
