"""Findings and remarks about keypoints: wrong declarations are caught, right ones near them pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.support.heads import sigmoid
from tests.support.keypoints import SCENE, task
from tta_server.tasks.checks import CHECKS, CardRun
from tta_server.views.geometry import Size

seeds = st.integers(0, 2**32 - 1)
INPUT = Size(64, 48)
FACE = np.array([[0.5, 0.4], [0.3, 0.3], [0.7, 0.3], [0.5, 0.8]])
"""Four points as fractions of the input's size."""


def found(keypoints, *points, tensor=INPUT):
    """Findings by check, of outputs (J, ...) for test images."""
    runs = [
        CardRun(f"card {i}", {"points": np.asarray(each, np.float32)[None]}, tensor) for i, each in enumerate(points)
    ]
    return {finding.check: finding.sentence for finding in keypoints.findings(runs)}


def near(points, seed, deviation=0.05):
    """Three images whose points differ."""
    rng = np.random.default_rng(seed)
    return [points + rng.normal(0, deviation, points.shape) for _ in range(3)]


def maps(rng, trained=True):
    """Heat maps (4, 12, 16) of probabilities with a peak each; random ones are around 0."""
    if not trained:
        return rng.normal(0, 0.2, (4, 12, 16))
    y, x = np.mgrid[0:12, 0:16]
    peaks = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / 4) for px, py in rng.uniform(0, 12, (4, 2))]
    return np.stack(peaks) * rng.uniform(0.1, 1, (4, 1, 1))


# ---- units ----


def test_units_are_those_of_coordinates_whatever_the_scores_and_the_longer_side():
    """Points within 0.8 pixels of an input of 8 rows may be right."""
    keypoints = task(labels=("nose", "chin"), pairs=())
    assert "points.units" in found(keypoints, [(0.3, 0.4, 7), (0.35, 0.8, 9)])
    assert found(keypoints, [(0.3, 0.4), (0.35, 0.8)], tensor=Size(64, 8)) == {}


@given(seeds)
def test_fractions_stated_as_pixels_are_found(seed):
    points = near(FACE, seed)
    assert found(task(units="normalized"), *points) == {}
    assert found(task(), *(each * INPUT for each in points)) == {}
    (result,) = found(task(), *points).items()
    assert result[0] == "points.units"
    assert result[1].startswith("output.units is pixels, but all points lie within ")
    assert result[1].endswith("; for fractions of the input's size set output.units: normalized")


def test_fractions_stated_as_pixels_by_hand():
    assert found(task(labels=("nose", "chin"), pairs=()), [(0.3, 0.4), (0.35, 0.8)]) == {
        "points.units": "output.units is pixels, but all points lie within 0.3 to 0.8; for fractions of the input's "
        "size set output.units: normalized"
    }


@given(seeds, st.sampled_from(["pixels", "normalized"]))
def test_points_from_minus_1_to_1_are_found(seed, units):
    points = near(FACE * 1.6 - 0.8, seed)
    assert found(task(units="signed"), *points) == {}
    sentence = found(task(units=units), *points)["points.units"]
    assert f"output.units is {units}" in sentence
    assert sentence.endswith("; for numbers from -1 to 1 across the input set output.units: signed")


def test_points_from_minus_1_to_1_stated_as_normalized_by_hand():
    assert found(task(labels=("nose", "chin"), pairs=(), units="normalized"), [(-0.3, 0.4), (-0.5, 0.8)]) == {
        "points.units": "output.units is normalized, but points lie within -0.5 to 0.8; for numbers from -1 to 1 "
        "across the input set output.units: signed"
    }


@given(seeds)
def test_fractions_stated_as_signed_are_found(seed):
    (sentence,) = found(task(units="signed"), *near(FACE, seed)).values()
    assert sentence.startswith("output.units is signed, but all points lie within ")
    assert sentence.endswith("; for fractions of the input's size set output.units: normalized")


def test_few_signed_points_right_of_the_middle_and_below_it_pass():
    assert found(task(units="signed"), FACE) == {}
    assert found(task(units="signed"), *np.zeros((3, 4, 2))) == {}


@given(seeds)
def test_points_a_little_outside_of_the_input_pass(seed):
    points = near(FACE * [1.1, 1.2] - [0.2, 0.1], seed)
    assert found(task(units="normalized"), *points) == {}


@given(seeds, st.sampled_from(["normalized", "signed"]))
def test_pixels_stated_as_normalized_or_signed_are_found(seed, units):
    (sentence,) = found(task(units=units), *(each * INPUT for each in near(FACE, seed))).values()
    assert sentence.startswith(f"output.units is {units}, but the model gives coordinates up to ")
    assert sentence.endswith("; for pixels of the input set output.units: pixels")


def test_one_point_far_away_shows_nothing():
    assert found(task(units="normalized"), [*FACE[:3], (9, 0.5)]) == {}
    assert found(task(), [*FACE[:3], (9, 0.5)]) == {}


def test_points_at_0_and_of_a_small_input_show_nothing():
    assert found(task(), np.zeros((4, 2)), np.zeros((4, 2))) == {}
    assert found(task(), np.round(FACE)) == {}
    assert found(task(), FACE, tensor=Size(8, 8)) == {}


@pytest.mark.parametrize("spoiled", [np.nan, np.inf])
def test_points_that_are_no_numbers_are_left_out(spoiled):
    assert found(task(), [*FACE[:3] * INPUT, (spoiled, 3)]) == {}
    assert found(task(), np.full((4, 2), spoiled)) == {}


# ---- scores ----


@given(seeds)
def test_logits_stated_as_probabilities_are_found(seed):
    rng = np.random.default_rng(seed)
    logits = [np.log(maps(rng) + 1e-4) for _ in range(3)]
    assert found(task("heatmaps", scores="logits"), *logits) == {}
    (sentence,) = found(task("heatmaps"), *logits).values()
    assert sentence.startswith("output.scores is probabilities, but the model gives ")
    assert sentence.endswith("; for scores before a sigmoid set output.scores: logits")


@given(seeds)
def test_probabilities_stated_as_logits_are_found(seed):
    rng = np.random.default_rng(seed)
    images = [maps(rng) for _ in range(3)]
    assert found(task("heatmaps"), *images) == {}
    (sentence,) = found(task("heatmaps", scores="logits"), *images).values()
    assert sentence.endswith("scores lie in [0, 1], most of them near 0; set output.scores: probabilities")


@given(seeds, st.sampled_from(["logits", "raw"]), st.sampled_from(["NCHW", "NHWC"]))
def test_heat_maps_of_random_weights_are_logits_or_raw(seed, scores, layout):
    """Networks that are trained to give probabilities have no sigmoid, so random weights give less than 0."""
    rng = np.random.default_rng(seed)
    images = [maps(rng, trained=False) for _ in range(3)]
    if layout == "NHWC":
        images = [each.transpose(1, 2, 0) for each in images]
    assert found(task("heatmaps", scores=scores, layout=layout, shape=(None,) * 4), *images) == {}


@given(seeds)
def test_heat_maps_that_go_under_0_here_and_there_are_raw(seed):
    rng = np.random.default_rng(seed)
    images = [maps(rng) * 1.2 - 0.15 for _ in range(3)]
    assert found(task("heatmaps", scores="raw"), *images) == {}
    (sentence,) = found(task("heatmaps"), *images).values()
    assert sentence.startswith("output.scores is probabilities, but the model gives -0.1")
    assert sentence.endswith(
        "; set output.scores: raw, which clips them to [0, 1], or logits if they are before a sigmoid"
    )


@given(seeds)
def test_heat_maps_that_resizing_moves_a_little_out_of_0_to_1_are_probabilities(seed):
    rng = np.random.default_rng(seed)
    assert found(task("heatmaps"), *(maps(rng) * 1.02 - 0.01 for _ in range(3))) == {}


@given(seeds)
def test_logits_stated_as_raw_are_found(seed):
    rng = np.random.default_rng(seed)
    (sentence,) = found(task("heatmaps", scores="raw"), *(np.log(maps(rng) + 1e-4) for _ in range(3))).values()
    assert sentence.startswith("output.scores is raw, but the model gives ")
    assert sentence.endswith("; for scores before a sigmoid set output.scores: logits")


def test_bins_of_whole_numbers_are_found():
    outputs = {"simcc_x": np.zeros((1, 4, 128), np.uint8), "simcc_y": np.zeros((1, 4, 96), np.float32)}
    (finding,) = task("simcc").findings([CardRun("photo", outputs, INPUT)])
    assert finding.check == "scores.type"
    assert list(task("simcc").findings([])) == []
    both = outputs | {"simcc_y": np.zeros((1, 4, 96), np.uint8)}
    assert len(list(task("simcc").findings([CardRun("photo", both, INPUT)]))) == 1


@pytest.mark.parametrize("scores", ["probabilities", "logits"])
def test_heat_maps_of_whole_numbers_are_found(scores):
    """Quantised ones, whose scale is not stated."""
    keypoints = task(kind="heatmaps", scores=scores)
    shape = (1, len(keypoints.labels), 16, 16)
    quantised = {"points": np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
    (finding,) = keypoints.findings([CardRun("photo", quantised, INPUT)])
    assert finding.check == "scores.type"
    assert "uint8" in finding.sentence


def test_third_coordinates_are_held_against_their_unit():
    levels = [(9, 30, level) for level in (-3, 0, 4, 1)]
    assert found(task(numbers=3), levels).keys() == {"points.scores"}
    assert found(task(numbers=3, scores="logits"), levels) == {}
    assert found(task(numbers=3), [(x, y, sigmoid(level)) for x, y, level in levels]) == {}


def test_images_of_one_colour_whose_maps_are_flat_pass():
    for level in (0, 1e-4, 0.5):
        for scores in ("logits", "probabilities"):
            assert found(task("heatmaps", scores=scores), *[np.full((4, 12, 16), level)] * 3) == {}


# ---- all ----


@given(
    arrays(np.float32, (4, 3), elements=st.floats(width=32)),
    st.sampled_from(["pixels", "normalized", "signed"]),
    st.sampled_from(["logits", "probabilities", "raw"]),
)
def test_any_outputs_give_findings_of_known_checks_at_most_one_each(points, units, scores):
    keypoints = task(numbers=3, units=units, scores=scores)
    checks = [finding.check for finding in keypoints.findings([CardRun("any", {"points": points[None]}, INPUT)])]
    assert set(checks) <= CHECKS.keys()
    assert len(checks) == len(set(checks))


def test_without_test_images_there_are_no_findings():
    assert found(task()) == found(task("heatmaps")) == {}


# ---- while serving ----


def remarks(points, **form):
    keypoints = task(**form)
    return list(keypoints.remarks(keypoints.decode({"points": np.float32([points])}, 0, SCENE.plain, SCENE)))


@pytest.mark.parametrize("order", ["xy", "yx"])
def test_pixels_in_an_answer_that_are_stated_as_normalized_are_remarked(order):
    (remark,) = remarks(FACE * INPUT, units="normalized", order=order)
    assert remark.check == "points.units"
    assert remark.refuses
    assert "output.units is normalized, but the model gives coordinates up to 44.8; for pixels" in remark.sentence


def test_other_answers_cause_no_remark():
    assert remarks(FACE, units="normalized") == []
    assert remarks([*FACE[:3], (9, 0.5)], units="normalized") == []
    assert remarks(FACE) == []
    assert remarks(FACE * INPUT) == []


@given(arrays(np.float32, (4, 2), elements=st.floats(width=32)), st.sampled_from(["pixels", "normalized", "signed"]))
def test_any_points_in_an_answer_are_read(points, units):
    assert len(remarks(points, units=units)) <= 1
