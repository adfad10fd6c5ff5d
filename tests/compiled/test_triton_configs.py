"""config.pbtxt is what Triton reads."""

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from tta_server.compiled.triton_configs import Step, TensorConfig, ensemble_config, model_config

IMAGE = TensorConfig('an "image"', np.uint8, [3, -1, -1])
SCORES = TensorConfig("scores", np.float32, [10], [10, 1, 1])


def parsed(text):
    return text_format.Parse(text, ModelConfig())


def test_a_model_by_hand():
    found = parsed(model_config("coats", [IMAGE], [SCORES], (1, 2, 4)))
    assert (found.name, found.platform, found.max_batch_size) == ("coats", "onnxruntime_onnx", 4)
    assert (found.input[0].name, found.input[0].data_type, found.input[0].dims) == (
        'an "image"',
        DataType.Value("TYPE_UINT8"),
        [3, -1, -1],
    )
    assert (found.output[0].dims, found.output[0].reshape.shape) == ([10], [10, 1, 1])
    assert found.dynamic_batching.preferred_batch_size == [1, 2, 4]


@pytest.mark.parametrize(("ladder", "rows"), [((), 0), ((1,), 1)])
def test_without_batches_there_is_no_batcher(ladder, rows):
    found = parsed(model_config("coats", [IMAGE], [SCORES], ladder))
    assert (found.max_batch_size, found.HasField("dynamic_batching")) == (rows, False)


def test_a_number_a_row_has_no_axis_in_the_file():
    found = parsed(model_config("ages", [IMAGE], [TensorConfig("age", np.float64, [1], [])], (1, 2)))
    assert found.output[0].HasField("reshape")
    assert found.output[0].reshape.shape == []


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("float16", "FP16"),
        ("float64", "FP64"),
        ("int64", "INT64"),
        ("uint8", "UINT8"),
        ("bool", "BOOL"),
        ("O", "STRING"),
    ],
)
def test_types(dtype, kind):
    found = parsed(model_config("coats", [], [TensorConfig("z", np.dtype(dtype), [1])]))
    assert DataType.Name(found.output[0].data_type) == f"TYPE_{kind}"


def test_an_ensemble_by_hand():
    steps = [Step("front", {"slab": "image"}, {"input": "x"}), Step("coats", {"in": "x"}, {"scores": "scores"})]
    found = parsed(ensemble_config("both", [IMAGE], [SCORES], steps, {"made_for": '{"a": "b"}'}))
    assert (found.platform, found.max_batch_size) == ("ensemble", 0)
    assert found.parameters["made_for"].string_value == '{"a": "b"}'
    assert [
        (step.model_name, dict(step.input_map), dict(step.output_map)) for step in found.ensemble_scheduling.step
    ] == [
        ("front", {"slab": "image"}, {"input": "x"}),
        ("coats", {"in": "x"}, {"scores": "scores"}),
    ]
