"""`tta.yaml` is checked against the model file."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.configs import CLASSIFICATION, SEGMENTATION, changed
from tests.support.onnx_models import classifier, graph, segmenter
from tta_server.errors import ConfigError
from tta_server.views.geometry import Size


@pytest.mark.parametrize(
    ("changes", "model", "sentence"),
    [
        (
            {"input": {"size": [16, 16], "resize": 16}},
            classifier(),
            "input.size is [16, 16], but the model file takes [8, 8]",
        ),
        (
            {"input": {"size": "free", "resize": None}},
            classifier(),
            "input.size is free, but the model file takes only [8, 8]",
        ),
        (
            {"input": {"color": "grey"}},
            classifier(),
            "input.color grey with layout NCHW means 1 channels, but the model file has 3",
        ),
        (
            {"input": {"layout": "NHWC"}},
            classifier(),
            "input.color RGB with layout NHWC means 3 channels, but the model file has 8",
        ),
        ({}, classifier((4, 3, 8, 8)), "the model file has a fixed batch of 4; export it with a free batch axis"),
        ({"output": {"name": "logits"}}, classifier(), "output.name is 'logits'; the model file has scores"),
        ({}, classifier(outputs=("a", "b")), "output.name is None; the model file has a, b"),
    ],
)
def test_a_model_file_that_contradicts_the_config_is_refused_naming_both(refused, changes, model, sentence):
    assert refused(changed(CLASSIFICATION, **changes), model).startswith(sentence)


def test_a_free_size_needs_both_axes_free(refused):
    config = changed(SEGMENTATION, policy="plain")
    assert refused(config, segmenter(("n", 3, "h", 64))).startswith("input.size is free, but the model file takes only")


def test_one_of_two_outputs_may_be_named(load):
    model = load(changed(CLASSIFICATION, output={"name": "b"}), classifier(outputs=("a", "b")))
    model.task.check({"b": np.zeros((1, 3), np.float32)}, Size(8, 8))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (segmenter(("n", 3, 8)), r"input image is 3-D tensor\(float\); it must be 4-D, of tensor\(float\)"),
        (
            graph(
                [helper.make_node("Add", ["image", "other"], ["scores"])],
                ("n", 3, 8, 8),
                "float32",
                [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3, 8, 8])],
                inputs=("image", "other"),
            ),
            "the model file takes image, other; set input.name to the one that takes the image",
        ),
    ],
)
def test_a_model_file_with_another_input_is_refused(load, model, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load(CLASSIFICATION, model)
