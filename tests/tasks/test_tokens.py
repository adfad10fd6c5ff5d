"""`embedding` with `output.token`: one vector of the vectors [N, T, D] that a transformer gives for its tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support.onnx_models import graph, write_model
from tests.support.patterns import noise
from tta_server import load
from tta_server.errors import ConfigError
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.embedding import Embedding, VectorOutput
from tta_server.views.geometry import Size
from tta_server.views.view import View

PLAIN = Preprocessing(Size(8, 8), Resize.EXACT).place(View(), Size(20, 10))
FRAME = ImageFrame(Size(20, 10), PLAIN)
FREE = {"hidden": (None, None, None)}
tokens = pytest.mark.parametrize("token", ["first", "mean"])


def decoded(token: str, batch: np.ndarray) -> list[np.ndarray]:
    task = Embedding((), VectorOutput(token=token), FREE)
    task.check({"hidden": batch}, Size(8, 8))
    return [task.decode({"hidden": batch}, row, PLAIN, FRAME) for row in range(len(batch))]


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_one_vector_of_the_tokens(rows: int, count: int, length: int, seed: int) -> None:
    batch = np.random.default_rng(seed).normal(size=(rows, count, length)).astype(np.float32)
    for row, found in enumerate(decoded("first", batch)):
        np.testing.assert_array_equal(found, batch[row, 0])
    for row, found in enumerate(decoded("mean", batch)):
        np.testing.assert_allclose(found, batch[row].astype(np.float64).mean(axis=0), atol=1e-6)


def test_half_precision_is_summed_as_double() -> None:
    (found,) = decoded("mean", np.full((1, 4, 2), 60000, np.float16))
    np.testing.assert_array_equal(found, np.full(2, np.float64(np.float16(60000))))


@pytest.mark.parametrize("shape", [(None, 197, 768), (1, 50, 512), (None, None, None)])
def test_tokens_without_the_key_are_refused_with_both_values(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ConfigError, match=r"\[N, D\]; the model gives .* set output.token: first .* or mean"):
        Embedding((), VectorOutput(), {"hidden": shape})


@tokens
@pytest.mark.parametrize("shape", [(None, 768), (None, 768, 1, 1)])
def test_the_key_is_refused_for_outputs_without_tokens(token: Any, shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ConfigError, match=rf"output.token: {token} .* shape \[N, T, D\]; .* leave output.token out"):
        Embedding((), VectorOutput(token=token), {"hidden": shape})


@tokens
def test_the_length_is_that_of_a_token(token: Any) -> None:
    (spec,) = Embedding((), VectorOutput(token=token), {"hidden": (None, 197, 768)}).tensor_specs
    assert spec.shape == (768,)


@tokens
@pytest.mark.parametrize("merge", Embedding.merges)
def test_graphs_do_not_sum_tokens(token: Any, merge: str) -> None:
    assert Embedding((), VectorOutput(token=token), FREE).sums(merge, ResponseSpec()) is None


def test_first_tokens_of_zeros_are_refused() -> None:
    hidden = np.zeros((1, 3, 4))
    hidden[:, 1:] = 1
    with pytest.raises(ConfigError, match="all zeros"):
        Embedding((), VectorOutput(token="first"), FREE).check({"hidden": hidden}, Size(8, 8))


# ---- end to end ----


def transformer() -> Any:
    """A token for each pixel of 2x2, with the means of a quarter of the image's channels."""
    nodes = [
        helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Constant", [], ["shape"], value_ints=[0, 3, 4]),
        helper.make_node("Reshape", ["cells", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["hidden"], perm=[0, 2, 1]),
    ]
    declared = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", 4, 3])
    return graph(nodes, ("n", 3, 8, 8), "float32", [declared])


@tokens
@pytest.mark.parametrize("views", ["local", "graph"])
def test_a_model_of_tokens_answers_plain_and_with_flips(tmp_path: Path, token: str, views: str) -> None:
    config = {
        "task": "embedding",
        "input": {"size": [8, 8], "resize": "exact"},
        "output": {"token": token},
        "policy": "flips",
        "symmetries": ["hflip", "vflip"],
        "backend": {"views": views},
    }
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :4], image[:4, 4:], image[4:, :4] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    plain = {"first": [1, 0, 0], "mean": [1 / 3**0.5] * 3}[token]
    # identity, hflip, vflip and both have red, green, blue and black in their first quarter
    flips = [1 / 3**0.5] * 3
    with load(write_model(tmp_path / token, transformer(), config), slots=1) as model:
        for policy, expected in (("plain", plain), ("flips", flips)):
            answer = model.predict(image, policy=policy, budget_ms=10_000)
            assert answer.receipt.warnings == ()
            np.testing.assert_allclose(answer.result.vector, expected, atol=1e-6)
        assert len(model.predict(noise(Size(20, 10)), budget_ms=10_000).receipt.views) == 4
