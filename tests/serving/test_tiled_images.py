"""Answers, receipts and bounds of images that are cut into tiles."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.support.jobs import SingleJob, run
from tests.support.onnx_models import segmenter, write_model
from tests.support.patterns import noise, smooth
from tta_server import load
from tta_server.cli.contact_sheet import draw_sheet
from tta_server.errors import ConfigError, InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import load_model
from tta_server.repository.model import CACHE_BYTES
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import read_source
from tta_server.serving.job import make_job
from tta_server.serving.layout import ENTRY_BYTES, MAX_ENTRIES, make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.telemetry.prometheus import Metrics
from tta_server.views.geometry import Size

CONFIG = {
    "task": "segmentation",
    "labels": ["red", "green", "blue"],
    "input": {"size": "free", "multiple": 8, "max_size": 64, "tile": 48, "overlap": 10, "scale": 255},
    "output": {"kind": "probabilities"},
    "policy": "d4",
    "symmetries": ["hflip", "vflip", "rot90", "transpose"],
    "budget": {"default_ms": 10_000, "max_ms": 60_000},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "tiled", segmenter(), CONFIG)


@pytest.fixture(scope="module")
def tiled(folder):
    with load(folder) as model:
        yield model


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    config = CONFIG | {"input": {"size": "free", "multiple": 8, "max_size": 1024, "scale": 255}}
    with load(write_model(tmp_path_factory.mktemp("models") / "whole", segmenter(), config)) as model:
        yield model


def mask(answer):
    return np.asarray(Image.open(io.BytesIO(answer.picture)))


@pytest.mark.parametrize("merge", ["mean_probabilities", "mean_logits", "max", "vote"])
@pytest.mark.parametrize("size", [Size(65, 20), Size(150, 111), Size(20, 170)], ids=str)
def test_the_mask_of_a_tiled_image_equals_that_of_the_whole_image(tiled, whole, size, merge):
    pixels = noise(size)
    answers = [model.predict(pixels, merge=merge, min_views="all") for model in (tiled, whole)]
    np.testing.assert_array_equal(*map(mask, answers))
    assert answers[0].prediction["area"] == answers[1].prediction["area"]


def test_rotated_and_zoomed_tiles_have_nearly_the_mask_of_the_whole_image(tiled, whole):
    pixels = smooth(Size(150, 111))
    policy = json.dumps(["identity", {"rotate": 10}, {"zoom": 1.1}, {"scale": 1.25}])
    answers = [model.predict(pixels, policy=policy, min_views="all") for model in (tiled, whole)]
    assert np.mean(mask(answers[0]) == mask(answers[1])) > 0.98


def test_views_of_a_tiled_image_may_have_class_weights(tiled, whole):
    pixels = noise(Size(150, 111)).argsort(axis=2).astype(np.uint8) * 80  # no two channels tie
    policy = json.dumps(["identity", {"hflip": True, "weight": [1, 2, 0.5]}, {"vflip": True, "weight": 3}])
    answers = [model.predict(pixels, policy=policy, min_views="all") for model in (tiled, whole)]
    np.testing.assert_array_equal(*map(mask, answers))


def test_the_receipt_counts_views_and_tiles(tiled):
    receipt = tiled.predict(noise(Size(150, 111)), max_views=3, min_views="all", include="views").receipt.to_dict()
    assert receipt["tiles"] == 12
    assert [view["name"] for view in receipt["views"]] == ["plain", "hflip", "vflip"]
    assert receipt["planned"] == 3
    assert receipt["stop_reason"] == "all_views"


def test_the_receipt_of_an_image_that_fits_has_no_tiles(tiled):
    assert "tiles" not in tiled.predict(noise(Size(64, 40))).receipt.to_dict()


def test_agreement_and_uncertainty_of_a_tiled_image(tiled):
    answer = tiled.predict(noise(Size(90, 70)), min_views="all", include="agreement,uncertainty,probabilities")
    assert answer.prediction["mean_agreement"] == pytest.approx(1)
    assert answer.receipt.uncertainty["agreement_by_class"] == {"red": 1, "green": 1, "blue": 1}


@pytest.mark.parametrize("stop", ["certain", '{"open": 0.5}'])
def test_stop_rules_count_whole_views(folder, stop):
    """Five of eight views outweigh the other three. More may be merged if they share a batch."""
    with load(folder, slots=1) as model:
        receipt = model.predict(np.full((100, 130, 3), (250, 0, 0), np.uint8), stop=stop).receipt
    assert receipt.stop_reason in ("certain", "settled")
    assert 5 <= len(receipt.views) <= 8
    assert all(set(view) == {"name", "weight"} for view in receipt.views)


def test_an_incomplete_view_reports_its_number_of_merged_tiles(folder):
    """One of two tiles of the second view is merged."""
    model = load_model(folder)
    plan = make_plan(model, Options(max_views=2))
    source = read_source(noise(Size(80, 20)), Limits())
    work = SingleJob(make_job(plan, source, Deadline.after(1000), Caller("x"), Metrics()))
    work.decode()
    for item in (0, 1, 2):
        run([(work, item)])
    work.settle(StopReason.DEADLINE)
    views = work.future.result().receipt.to_dict()["views"]
    assert views == [{"name": "plain", "weight": 1.0}, {"name": "hflip", "weight": 1.0, "tiles": 1}]


def test_every_tile_of_a_mandatory_view_is_mandatory(folder):
    plan = make_plan(load_model(folder), Options(min_views=2))
    layout = make_layout(plan, Size(150, 111))
    assert layout.tiles == 12
    assert len(layout.buckets) == 96
    source = read_source(noise(Size(150, 111)), Limits())
    assert make_job(plan, source, Deadline.after(1000), Caller("x"), Metrics()).mandatory == 24
    assert len(set(layout.buckets)) <= 2


def test_reserved_memory_grows_with_views_only_by_the_size_of_their_entries(folder):
    model = load_model(folder)
    few, many = (make_plan(model, Options(max_views=k)) for k in (1, 8))
    size = Size(900, 700)
    small, large = make_layout(few, size), make_layout(many, size)
    assert large.nbytes(many) - small.nbytes(few) == ENTRY_BYTES * (len(large.buckets) - len(small.buckets))
    assert large.nbytes(many) < 24_000_000


def test_views_times_tiles_are_bounded(folder):
    model = load_model(folder)
    assert len(make_layout(make_plan(model, Options(max_views=1)), Size(2000, 2000)).buckets) <= MAX_ENTRIES
    with pytest.raises(
        TooLarge,
        match=r"^the image is 2000x2000, which tiled looks at in 2809 tiles; with 8 views these are 22472 inputs, and "
        r"at most 4096 are taken: ask for max_views=1 or less, send a smaller image",
    ):
        make_layout(make_plan(model, Options()), Size(2000, 2000))
    with pytest.raises(TooLarge, match=r"looks at in 8295 tiles; at most 4096 are taken: send a smaller image"):
        make_layout(make_plan(model, Options(max_views=1)), Size(4000, 3000))


def test_the_cache_of_a_model_is_bounded(folder):
    model = load_model(folder)
    for k in range(60):
        views = ["identity", *({"rotate": round(0.1 * i + k / 1000, 3)} for i in range(1, 250))]
        plan = make_plan(model, Options(policy=json.dumps(views)))
        make_layout(plan, Size(64, 40 + k))
    assert 0 < len(model.cache) < 60
    assert model.cache.nbytes <= CACHE_BYTES
    again = make_plan(model, Options(policy=json.dumps(views)))
    assert again is plan
    assert make_layout(again, Size(64, 40 + k)) is make_layout(plan, Size(64, 40 + k))


def test_the_contact_sheet_refuses_a_tiled_image(folder, tmp_path):
    Image.fromarray(noise(Size(150, 111))).save(tmp_path / "large.png")
    with pytest.raises(InvalidInput, match="takes 12 tiles"):
        draw_sheet(load_model(folder), (tmp_path / "large.png").read_bytes(), None, None)


def test_the_canvas_of_a_tiled_image_is_bounded(folder):
    with load(folder, max_pixels=16_000_000) as model, pytest.raises(TooLarge, match="the limit is 16000000"):
        model.predict(np.zeros((8, 3_000_000, 3), np.uint8))


def test_a_photo_of_20_mpx_is_tiled(tmp_path):
    size = {"size": "free", "multiple": 8, "max_size": 1024, "scale": 255}
    folder = write_model(tmp_path / "drone", segmenter(), CONFIG | {"input": size, "policy": "plain"})
    pixels = np.zeros((3648, 5472, 3), np.uint8)
    pixels[:1000], pixels[1000:2000, :, 1], pixels[2000:, :, 2] = (200, 0, 0), 200, 200
    with load(folder, slots=1) as model:
        answer = model.predict(pixels, budget_ms=60_000)
    assert answer.receipt.tiles == 104
    np.testing.assert_array_equal(mask(answer), pixels.argmax(axis=2))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tile": 50}, "tile is 50; it should be a multiple of 8"),
        ({"tile": 72}, r"at most 64 \(max_size\)"),
        ({"overlap": 24}, r"over 48 \(twice the overlap\)"),
        ({"size": [48, 48], "max_size": 64, "multiple": 1}, "tile needs size: free"),
    ],
)
def test_invalid_tiles_are_refused(tmp_path, changes, sentence):
    config = CONFIG | {"input": CONFIG["input"] | changes}
    with pytest.raises(ConfigError, match=sentence):
        load_model(write_model(tmp_path / "odd", segmenter(), config))
