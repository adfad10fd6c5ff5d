"""A device's pipeline by itself: rows of zeros, batches that grow, outputs that are overwritten."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import save

from tests.support.cuda import stub_driver, stub_library  # noqa: F401 - fixtures
from tests.support.onnx_models import classifier
from tests.support.stub_device import open_stub
from tta_server.backends import RunOptions
from tta_server.backends.cuda.driver import open_device
from tta_server.compiled.rows import FrontRow
from tta_server.errors import BackendFailed
from tta_server.imaging.normalization import Normalization
from tta_server.imaging.preprocessing import Preprocessing, Resize
from tta_server.repository.device_pipeline import on_device
from tta_server.views.geometry import Size
from tta_server.views.view import View

PREP = Preprocessing(Size(8, 8), Resize.EXACT, normalization=Normalization(scale=1, mean=(1.0,)))
ROW = FrontRow(View(), PREP.place(View(), Size(8, 8)), 0)


@pytest.fixture
def pipeline(stub_driver, tmp_path):  # noqa: F811 - the fixture
    save(classifier(), tmp_path / "model.onnx")
    return on_device(PREP, open_stub(tmp_path / "model.onnx", RunOptions(device="cuda:0")))


def canvas(level: int, side: int = 8) -> np.ndarray:
    return np.full((3, side, side), level, np.uint8)


def scores(pipeline, planes, rows):
    prepared = pipeline.prepare(planes, rows, PREP.size)
    return pipeline.call(lambda: pipeline.infer(prepared).fetch())["scores"]


def test_rows_without_a_view_are_zeros(pipeline):
    """Also after a batch that had a view there."""
    assert scores(pipeline, [canvas(7)], [ROW, ROW, ROW, ROW]).tolist() == [[6, 6, 6]] * 4
    assert scores(pipeline, [canvas(9)], [None, ROW, None, None]).tolist() == [[0] * 3, [8] * 3, [0] * 3, [0] * 3]


def test_memory_for_canvases_grows_with_a_batch(pipeline):
    before = open_device(0).free_bytes()
    assert scores(pipeline, [canvas(3)], [ROW]).tolist() == [[2, 2, 2]]
    large = [canvas(level, 1000) for level in (4, 5)]
    rows = [replace_canvas(ROW, number) for number in range(2)]
    assert scores(pipeline, large, rows).tolist() == [[3, 3, 3], [4, 4, 4]]
    assert before - open_device(0).free_bytes() > 2 * 3 * 1000 * 1000


def replace_canvas(row: FrontRow, number: int) -> FrontRow:
    return row._replace(canvas=number, placement=replace(row.placement, canvas=Size(1000, 1000)))


def test_outputs_that_another_batch_has_overwritten_are_not_read(pipeline):
    prepared = [pipeline.prepare([canvas(level)], [ROW], PREP.size) for level in (1, 2)]

    def overtaken():
        first = pipeline.infer(prepared[0])
        assert pipeline.infer(prepared[1]).fetch()["scores"].tolist() == [[1, 1, 1]]
        with pytest.raises(BackendFailed, match="another batch"):
            first.fetch()

    pipeline.call(overtaken)
