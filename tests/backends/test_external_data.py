"""The files that an ONNX file names for its weights: found in its bytes, and held against the folder."""

import random

import pytest
from onnx import StringStringEntryProto, TensorProto, external_data_helper, helper, numpy_helper

from tests.support.external import external, scorer, weights
from tests.support.onnx_models import classifier, detector, pointer
from tests.support.references import MODELS
from tests.support.wording import check_sentence
from tta_server.backends.external_data import Reference, external_files, find_references
from tta_server.errors import ConfigError

BYTES = 4 * 3 * 64 * 64


@pytest.mark.parametrize(("place", "tensors"), [("initializer", 1), ("attribute", 1), ("branch", 2)])
def test_tensors_in_other_files_are_found_wherever_they_are(place, tensors):
    model = scorer(external("weights/größe.bin", offset=4096), place)
    found = find_references(model.SerializeToString())
    assert found == [Reference("weights/größe.bin", 4096 + BYTES, place == "initializer")] * tensors


def test_functions_and_sparse_tensors_are_searched():
    model = scorer(numpy_helper.from_array(weights([1, 2, 3]), "weights"))
    node = helper.make_node("Constant", [], ["y"], value=external("function.bin"))
    model.functions.append(helper.make_function("own", "f", [], ["y"], [node], [helper.make_opsetid("", 17)]))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(external("values.bin"))
    sparse.indices.CopyFrom(external("indices.bin"))
    found = find_references(model.SerializeToString())
    assert {(each.location, each.is_initializer) for each in found} == {
        ("function.bin", False),
        ("values.bin", False),
        ("indices.bin", False),
    }


def test_what_the_onnx_package_saves_is_found(tmp_path):
    model = scorer(numpy_helper.from_array(weights([1, 2, 3]), "weights"))
    external_data_helper.convert_model_to_external_data(model, location="model.onnx_data", size_threshold=0)
    external_data_helper.write_external_data_tensors(model, str(tmp_path))
    (found,) = find_references(model.SerializeToString())
    assert found == Reference("model.onnx_data", BYTES, True)


@pytest.mark.parametrize("model", [classifier(), detector(), pointer()])
def test_a_model_with_its_weights_inside_has_no_references(model):
    assert not find_references(model.SerializeToString())


def test_bundled_models_have_no_references():
    assert not any(find_references(path.read_bytes()) for path in MODELS.glob("*/1/model.onnx"))


def test_only_tensors_are_asked_for_a_location():
    """Values and metadata may be named `location` too, and a tensor may keep its entries when it is loaded."""
    model = scorer(numpy_helper.from_array(weights([1, 2, 3]), "weights"))
    model.graph.value_info.append(helper.make_tensor_value_info("location", TensorProto.FLOAT, ["n", 3]))
    model.metadata_props.append(StringStringEntryProto(key="location", value="laboratory"))
    model.graph.initializer[0].external_data.append(StringStringEntryProto(key="location", value="model.onnx_data"))
    model.graph.initializer[0].data_location = TensorProto.DEFAULT
    assert not find_references(model.SerializeToString())


def test_any_bytes_are_read_without_an_error():
    draw = random.Random(0)
    whole = scorer(external("model.onnx_data"), "branch").SerializeToString()
    for _ in range(2000):
        damaged = bytearray(whole[: draw.randrange(1, len(whole))])
        for _ in range(3):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        find_references(bytes(damaged))
    assert not find_references(b"not a model")
    assert not find_references(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")


def test_deep_graphs_are_no_reason_to_fail():
    nested = b""
    for number in (6, 5, 1) * 2000:  # a graph in an attribute of a node of a graph
        nested = bytes([number << 3 | 2]) + _varint(len(nested)) + nested
    assert not find_references(bytes([7 << 3 | 2]) + _varint(len(nested)) + nested)


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


# ---- the files ----


def references(*locations: str) -> list[Reference]:
    return [Reference(location, 12, True) for location in locations]


def test_files_are_found_beside_the_model_and_below(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.bin", "deep/a.bin"):
        (tmp_path / name).write_bytes(bytes(12))
    found = external_files(tmp_path / "model.onnx", references("deep/a.bin", "b.bin", "./b.bin", "b.bin"))
    assert list(found) == ["./b.bin", "b.bin", "deep/a.bin"]
    assert {path.resolve() for path in found.values()} == {tmp_path / "b.bin", tmp_path / "deep/a.bin"}


def test_a_link_is_followed(tmp_path):
    (tmp_path / "blob").write_bytes(bytes(12))
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx_data").symlink_to(tmp_path / "blob")
    assert list(external_files(tmp_path / "1" / "model.onnx", references("model.onnx_data"))) == ["model.onnx_data"]


@pytest.mark.parametrize("location", ["../w.bin", "deep/../../w.bin", "/etc/hostname", "", "."])
def test_a_file_outside_the_folder_is_refused(tmp_path, location):
    (tmp_path / "1").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    with pytest.raises(ConfigError, match="outside the folder of the model file; save the model again") as caught:
        external_files(tmp_path / "1" / "model.onnx", references(location))
    check_sentence(str(caught.value))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        external_files(tmp_path / "model.onnx", references("w.bin"))
    assert check_sentence(str(caught.value)) == (
        f"{tmp_path}/model.onnx: weights are in 'w.bin', which is missing; put that file into the folder of the model "
        "file, or save the model with its weights inside"
    )


def test_a_file_that_is_too_short_is_refused_with_both_lengths(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(20))
    needed = [Reference("w.bin", 12, True), Reference("w.bin", 24, True), Reference("w.bin", 4, True)]
    with pytest.raises(ConfigError, match=r"'w\.bin', which has 20 bytes; the model needs 24: the file is incomplete"):
        external_files(tmp_path / "model.onnx", needed)
