"""Fixtures that load small models."""

import pytest

from tests.support.onnx_models import classifier, segmenter, write_model
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model


@pytest.fixture
def load(tmp_path):
    """Write a model folder and load it."""

    def write_and_load(config, model=None):
        default = segmenter() if isinstance(config, dict) and config.get("task") == "segmentation" else classifier()
        return load_model(write_model(tmp_path / "tiny", model or default, config))

    return write_and_load


@pytest.fixture
def refused(load, tmp_path):
    """Load a model that must be refused, and return the sentence after the file's name."""

    def refuse(config, model=None):
        with pytest.raises(ConfigError) as caught:
            load(config, model)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence.startswith(str(tmp_path / "tiny"))
        return sentence.removeprefix(str(tmp_path / "tiny" / "tta.yaml") + ": ")

    return refuse
