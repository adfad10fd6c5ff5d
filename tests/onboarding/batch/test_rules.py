"""The rules by themselves: what they let through gives for a batch what it gives for each image."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.batch_nets import ints, net, node
from tests.support.examples import times
from tta_server.onboarding.batch.free import _known
from tta_server.onboarding.batch.graph import apply_edits
from tta_server.onboarding.batch.runs import make_images
from tta_server.onboarding.batch.step import Mixed
from tta_server.onboarding.batch.walk import plan_edits
from tta_server.onboarding.model_file import read_model_file

SHAPES = [
    (1, 3, 8, 8),
    (1, 192),
    (192,),
    (3, 1, 64),
    (3, 64),
    (8, 24),
    (24, 8),
    (1, 8, 24),
    (8, 1, 24),
    (3, 8, 8),
    (8, 3, 8),
    (2, 3, 32),
    (1, 1, 192),
    (8, 8, 1, 3),
    (64, 3),
    (1, 2, 4, 3, 8),
]
"""Of 192 values, those of an image."""
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("Reshape"), st.sampled_from(SHAPES), st.sampled_from(["", "first", "any"])),
        st.tuples(st.just("Transpose"), st.randoms(use_true_random=False)),
        st.tuples(st.just("Softmax"), st.integers(0, 4)),
        st.tuples(st.just("Add"), st.integers(0, 4)),
        st.tuples(st.just("CumSum"), st.integers(0, 4)),
    ),
    min_size=1,
    max_size=6,
)


def _chain(steps: list[Any], seed: int) -> onnx.ModelProto:
    """One node a step, then back to the image's shape; axes are taken modulo the rank."""
    nodes, weights, name = [], dict[str, Any](), "image"
    shape: tuple[int, ...] = (1, 3, 8, 8)
    for number, (kind, *rest) in enumerate([*steps, ("Reshape", (1, 3, 8, 8), "")]):
        out, rank = f"t{number}", len(shape)
        if kind == "Reshape":
            given, shape = list(rest[0]), rest[0]
            if rest[1]:
                given[0 if rest[1] == "first" else seed % len(given)] = -1
            weights[f"c{number}"] = ints(*given)
            nodes.append(node(kind, [name, f"c{number}"], [out]))
        elif kind == "Transpose":
            order = list(range(rank))
            rest[0].shuffle(order)
            shape = tuple(shape[axis] for axis in order)
            nodes.append(node(kind, [name], [out], perm=order))
        elif kind == "Softmax":
            nodes.append(node(kind, [name], [out], axis=rest[0] % rank))
        elif kind == "CumSum":
            weights[f"c{number}"] = np.array(rest[0] % rank, np.int64)
            nodes.append(node(kind, [name, f"c{number}"], [out]))
        else:
            axis = rest[0] % rank
            weights[f"c{number}"] = tuple(size if place == axis else 1 for place, size in enumerate(shape))
            nodes.append(node(kind, [name, f"c{number}"], [out]))
        name = out
    return net([*nodes, node("Identity", [name], ["out"])], weights, (1, 3, 8, 8))


@settings(max_examples=times(300), deadline=None)
@given(steps=STEPS, seed=st.integers(0, 4))
def test_what_the_rules_let_through_keeps_images_apart(tmp_path_factory, steps: list[Any], seed: int) -> None:
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    model = _chain(steps, seed)
    onnx.save(model, path)
    file = read_model_file(Path(path))
    known = _known(file, model, make_images(file)[0])
    try:
        plan = plan_edits(model, known, "image")
    except Mixed:
        return
    original = ort.InferenceSession(model.SerializeToString())
    apply_edits(model, plan, known, "image")
    images = np.random.default_rng(seed).normal(size=(3, 3, 8, 8)).astype(np.float32)
    (found,) = ort.InferenceSession(model.SerializeToString()).run(None, {"image": images})
    for image, row in zip(images, found, strict=True):
        np.testing.assert_allclose(row[None], original.run(None, {"image": image[None]})[0], rtol=1e-4, atol=1e-5)
