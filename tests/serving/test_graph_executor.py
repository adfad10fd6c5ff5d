"""Models whose views are made by a graph answer as those whose views are made on the CPU."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.graphed import check_alike, job_for, probabilities, served_both, toy, with_graphs
from tests.support.jobs import SingleJob, run
from tests.support.pictures import encoded
from tests.support.references import MODELS
from tests.support.toys import faulty_model
from tta_server.errors import ConfigError
from tta_server.imaging.decoding import Raster
from tta_server.imaging.preprocessing import Canvas, Preprocessing
from tta_server.repository.loader import load_model
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.executor import BatchOfViews
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import SUMMED
from tta_server.views.geometry import Size

ALL = {"budget_ms": 10_000, "min_views": "all", "stop": "all"}
SAMPLED = ["identity", {"rotate": 7}, ["hflip", {"zoom": 1.2}], {"shift": [1.5, 2]}, {"contrast": 1.3}, {"hue": 20}]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "clothing": [{}, {"policy": SAMPLED}, {"merge": "vote", "include": ["views", "agreement", "uncertainty"]}],
    "cifar10": [{}, {"policy": SAMPLED}, {"merge": "geometric_mean", "include": ["views", "uncertainty"]}],
    "bloodcells": [{}, {"policy": SAMPLED}, {"include": ["views", "uncertainty"]}],
    "mouse": [
        {},
        {"policy": SAMPLED},
        {"merge": "mean_heatmaps", "policy": SAMPLED, "include": ["uncertainty"]},
        {"merge": "mean_heatmaps", "policy": SAMPLED, "include": ["views"]},
    ],
    "nuclei-count": [{}, {"policy": ["identity", {"contrast": 1.3}, ["rot90", {"hue": 20}]], "include": ["views"]}],
    "nuclei": [
        {"include": ["probabilities"]},
        {"policy": SAMPLED, "include": ["probabilities"]},
        {"policy": SAMPLED, "include": ["views", "agreement", "uncertainty"]},
    ],
}
SLOW = {"nuclei-count", "nuclei"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in OPTIONS]
)
def test_a_bundled_model_answers_alike(tmp_path: Path, name: str) -> None:
    (sample,) = (MODELS / name).glob("sample.*")
    with served_both(tmp_path, name) as (local, graph):
        for options in OPTIONS[name]:
            check_alike(*(model.predict(sample, **ALL, **options) for model in (local, graph)))


# ---- a batch ----


def test_a_batch_holds_views_of_images_of_different_sizes(tmp_path: Path) -> None:
    """Also on canvases of different sizes."""
    options = {
        "policy": '["identity", "rot90", {"scale": 1.5}, {"zoom": 1.5}]',
        "include": frozenset(["probabilities"]),
    }
    found = []
    for model in (toy(tmp_path, "local"), toy(tmp_path, "graph")):
        jobs = [job_for(model, Size(20 + seed, 30), seed, **options) for seed in range(4)]
        for view in range(4):
            assert not any(outcome.lost for outcome in run([(each, view) for each in jobs]))
        found.append([probabilities(each) for each in jobs])
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6)


def test_an_image_that_was_released_gives_rows_of_zeros_and_its_neighbours_theirs(tmp_path: Path) -> None:
    """As on the CPU: its job is settled, so nothing is merged."""
    model = toy(tmp_path, "graph")
    gone, other, alone = (job_for(model, Size(9, 9), 1, include=frozenset(["probabilities"])) for _ in range(3))
    gone.settle(StopReason.ALL_VIEWS)
    run([(gone, 0), (other, 0)])
    run([(alone, 0)])
    np.testing.assert_array_equal(probabilities(other), probabilities(alone))
    run([(gone, 0)])


def executed(single: SingleJob, entries: Sequence[int]) -> BatchOfViews:
    return ModelExecutor().run([(single.payload.views, entry) for entry in entries])


def test_where_a_merge_is_a_sum_rows_are_summed_by_image(tmp_path: Path) -> None:
    local, graph = (job_for(toy(tmp_path, views), Size(9, 9), 1) for views in ("local", "graph"))
    rows, batch = executed(local, range(4)), executed(graph, range(4))
    assert list(batch.predictions) == [SUMMED] * 4
    (sums,) = batch.sums.values()
    assert float(sums.weights) == 4
    expected = sum(np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in rows.predictions)
    np.testing.assert_allclose(sums.total, expected, rtol=1e-6)


@pytest.mark.parametrize("options", [{"include": frozenset(["views"])}, {"merge": "max"}])
def test_where_views_are_needed_rows_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    batch = executed(job_for(toy(tmp_path, "graph"), Size(9, 9), 1, **options), range(4))
    assert not batch.sums
    assert all(isinstance(prediction, np.ndarray) for prediction in batch.predictions)


def test_jobs_of_one_batch_may_merge_differently(tmp_path: Path) -> None:
    found = []
    options: list[dict[str, Any]] = [
        {},
        {"merge": "vote"},
        {"merge": "max"},
        {"include": frozenset(["views", "probabilities"])},
    ]
    for model in (toy(tmp_path, "local"), toy(tmp_path, "graph")):
        jobs = [
            job_for(model, Size(9, 8), seed, **{"include": frozenset(["probabilities"])} | each)
            for seed, each in enumerate(options)
        ]
        run([(each, view) for view in range(3) for each in jobs])
        found.append([probabilities(each) for each in jobs])
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6)


def test_a_stop_rule_sees_the_same_evidence_after_each_batch(tmp_path: Path) -> None:
    found = []
    for model in (toy(tmp_path, "local"), toy(tmp_path, "graph")):
        single = job_for(model, Size(9, 9), 3, stop="certain")
        outcomes = [run([(single, view), (single, view + 1)])[0] for view in (0, 2, 4)]
        found.append([(outcome.stop, outcome.lost) for outcome in outcomes])
        gains = [outcome.expected_gain for outcome in outcomes]
        found[-1].append(pytest.approx(gains, abs=1e-5) if model.pipeline else gains)
    assert found[0] == found[1]


def test_a_view_whose_output_is_not_sound_is_lost_alone(tmp_path: Path) -> None:
    """The square root of the second image's scores is NaN."""
    (tmp_path / "models").mkdir()
    folder = faulty_model(tmp_path / "models" / "toy")
    with (folder / "tta.yaml").open("a", encoding="utf-8") as config:
        config.write("backend: {views: graph}\n")
    model = load_model(folder)
    black = encoded(np.zeros((8, 8, 3), np.uint8))
    good, bad = job_for(model, Size(8, 8), 1), job_for(model, Size(8, 8), 1, image=black)
    merged, lost = run([(good, 0), (bad, 0), (good, 1), (bad, 1)])
    assert (merged.lost, lost.lost) == (0, 0b11)
    assert str(lost.error) == "the model's output for view 'plain' holds NaN or infinity"


class NoLargerCanvas(Preprocessing):
    """Can't resize an image for a scale over 1."""

    def canvas(self, raster: Raster, scale: float) -> Canvas:
        if scale > 1:
            raise RuntimeError("no memory")
        return super().canvas(raster, scale)


def test_a_view_whose_canvas_can_not_be_made_fails_alone(tmp_path: Path) -> None:
    model = toy(tmp_path, "graph")
    fields = {name: getattr(model.preprocessing, name) for name in Preprocessing.__dataclass_fields__}
    options = {"policy": '["identity", {"scale": 1.5}]', "include": frozenset(["probabilities"])}
    bad = job_for(replace(model, preprocessing=NoLargerCanvas(**fields)), Size(9, 9), 1, **options)
    good, alone = (job_for(bad.payload.model, Size(9, 9), 2, **options) for _ in range(2))
    failed, merged = run([(bad, 1), (good, 0)])
    assert str(failed.error) == "a view of the image could not be made"
    assert not merged.lost
    run([(alone, 0)])
    np.testing.assert_array_equal(probabilities(good), probabilities(alone))


def test_without_onnx_the_model_is_refused_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_graphs(tmp_path, MODELS / "cifar10")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"cifar10/tta.yaml: .*pip install 'tta-server\[compile\]'"):
        load_model(folder)


def test_the_onnx_package_is_imported_only_for_graphs() -> None:
    program = "import sys, tta_server.cli.main; sys.exit('onnx' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
