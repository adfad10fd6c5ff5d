"""Images larger than a model's input are cut into overlapping tiles."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.jobs import SingleJob, run
from tests.support.onnx_models import segmenter, write_model
from tests.support.patterns import noise, smooth
from tta_server import load
from tta_server.cli.contact_sheet import draw_sheet
from tta_server.errors import ConfigError, InvalidInput, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.imaging.preprocessing import Preprocessing
from tta_server.repository.loader import load_model
from tta_server.repository.model import CACHE_BYTES
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import read_source
from tta_server.serving.job import Caller, make_job
from tta_server.serving.layout import ENTRY_BYTES, MAX_ENTRIES, make_layout
from tta_server.serving.plan import Options, make_plan
from tta_server.tasks import ImageFrame, ResponseSpec
from tta_server.tasks.masks.segmentation import MapsOutput, Segmentation
from tta_server.telemetry.prometheus import Metrics
from tta_server.views.geometry import Size
from tta_server.views.spec import read_view, read_views
from tta_server.views.view import View

TILED = Preprocessing(multiple=8, max_size=64, tile=48, overlap=10)
CONFIG = {
    "task": "segmentation",
    "labels": ["red", "green", "blue"],
    "input": {"size": "free", "multiple": 8, "max_size": 64, "tile": 48, "overlap": 10, "scale": 255},
    "output": {"kind": "probabilities"},
    "policy": "d4",
    "symmetries": ["hflip", "vflip", "rot90", "transpose"],
    "budget": {"default_ms": 10_000, "max_ms": 60_000},
}
sizes = st.builds(Size, st.integers(1, 200), st.integers(65, 200)) | st.builds(
    Size, st.integers(65, 200), st.integers(1, 200)
)


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


# ---- the grid of tiles ----


@given(sizes)
def test_tiles_cover_the_frame_and_overlap_their_neighbours(image):
    seen = np.zeros((image.height, image.width), int)
    for tile in TILED.tiles(image):
        assert max(tile.size) <= 48
        assert tile.left % 8 == tile.top % 8 == 0
        seen[tile.top : tile.top + tile.size.height, tile.left : tile.left + tile.size.width] += 1
    assert seen.min() >= 1


@given(sizes)
def test_neighbours_share_the_overlap_up_to_rounding_to_multiples(image):
    for tile in TILED.tiles(image):
        left, top, right, below = tile.overlaps
        assert (left == 0) == (tile.left == 0)
        assert (top == 0) == (tile.top == 0)
        assert (right == 0) == (tile.left + tile.size.width == image.width)
        assert (below == 0) == (tile.top + tile.size.height == image.height)
        assert all(overlap == 0 or overlap >= 3 for overlap in tile.overlaps)


def test_two_tiles_by_hand():
    one, other = TILED.tiles(Size(80, 20))
    assert (one.left, one.size, one.overlaps) == (0, Size(48, 20), (0, 0, 16, 0))
    assert (other.left, other.size, other.overlaps) == (32, Size(48, 20), (16, 0, 0, 0))


def test_an_image_that_fits_has_no_tiles():
    assert TILED.tiles(Size(64, 64)) == ()


# ---- merged predictions ----

EXACT = ["identity", "hflip", "vflip", {"rot90": 1}, {"rot90": 3}, "transpose", ["antitranspose", {"shift": [8, -16]}]]


@given(sizes, st.sampled_from(EXACT), st.sampled_from([1, 4]))
def test_the_undone_tiles_of_an_exact_view_equal_the_plain_view(image, spec, stride):
    pixels, view = noise(image), read_view(spec)
    scene = ImageFrame(image, TILED.place(View(), image), len(TILED.tiles(image)))
    task = Segmentation(("red", "green", "blue"), MapsOutput("probabilities"), {"maps": (None, 3, None, None)})
    plain, merged = (task.accumulator("mean_probabilities", ResponseSpec(), scene) for _ in range(2))
    canvas = TILED.canvas(pixels, 1.0)
    for accumulator, shown in ((plain, View()), (merged, View()), (merged, view)):
        for tile in TILED.tiles(image):
            placement = TILED.place(shown, image, tile)
            batch = TILED.empty(1, placement.tensor)
            TILED.write(canvas, shown, placement, batch[0])
            scores = batch.reshape(1, 3, placement.tensor.height // stride, stride, -1, stride).mean(axis=(3, 5))
            accumulator.add(task.decode({"maps": scores}, 0, placement, scene), 1.0)
    if stride == 1:
        np.testing.assert_allclose(merged.result().scores, plain.result().scores, atol=1e-5)
        expected = TILED.normalized(pixels.transpose(2, 0, 1).astype(np.float32))
        np.testing.assert_allclose(plain.result().scores, expected, atol=1e-5)
    assert plain.result().scores.shape == (3, -(-image.height // stride), -(-image.width // stride))


def test_disagreeing_tiles_blend_along_half_a_cosine():
    """Two tiles of an 80x20 image share the columns 32 to 47: the first predicts red, the second green."""
    image = Size(80, 20)
    tiles = TILED.tiles(image)
    task = Segmentation(("red", "green", "blue"), MapsOutput("probabilities"), {"maps": (None, 3, None, None)})
    scene = ImageFrame(image, TILED.place(View(), image), len(tiles))
    merged = task.accumulator("mean_probabilities", ResponseSpec(), scene)
    for color, tile in enumerate(tiles):
        placement = TILED.place(View(), image, tile)
        scores = np.zeros((1, 3, placement.tensor.height, placement.tensor.width), np.float32)
        scores[:, color] = 1
        merged.add(task.decode({"maps": scores}, 0, placement, scene), 1.0)
    green = merged.result().scores[1]
    np.testing.assert_array_equal(green, np.broadcast_to(green[0], green.shape))
    np.testing.assert_allclose(green[0, [0, 31, 48, 79]], [0, 0, 1, 1], atol=1e-3)
    np.testing.assert_allclose(green[0, 32:48], (1 - np.cos(np.pi * (np.arange(16) + 0.5) / 16)) / 2, atol=2e-3)


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


@given(
    sizes,
    st.sampled_from(
        ["identity", "hflip", "transpose", {"rotate": 9}, {"scale": 1.25}, {"scale": 0.77}, {"window": "top_left"}]
    ),
    st.sampled_from([1, 8]),
)
def test_input_sizes_are_those_of_the_placements(image, spec, multiple):
    prep, view = replace(TILED, multiple=multiple), read_view(spec)
    tiles = prep.tiles(image)
    assert prep.tile_count(image) == len(tiles) == len(list(tiles))
    assert prep.input_sizes(view, image) == [prep.place(view, image, tile).tensor for tile in tiles]
    assert tiles[-1] == list(tiles)[-1]
    assert list(tiles[1:3]) == list(tiles)[1:3]


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


def test_a_tile_of_an_image_of_more_than_15_bits_a_side_is_sampled():
    """It equals the same tile of a narrower image."""
    prep, view = Preprocessing(max_size=16_384, tile=16_384), read_view({"zoom": 1.5})
    wide = noise(Size(40_000, 6))
    shown = []
    for pixels in (wide, wide[:, :30_000]):
        image = Size(pixels.shape[1], 6)
        placement = prep.place(view, image, prep.tiles(image)[0])
        batch = prep.empty(1, placement.tensor)
        prep.write(prep.canvas(pixels, 1.0), view, placement, batch[0])
        shown.append(batch[0])
    np.testing.assert_array_equal(*shown)


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


def test_tiles_of_views_of_one_scale_have_few_input_sizes():
    views = read_views(["identity", "hflip", {"scale": 1.25}])
    placements = [TILED.place(view, Size(150, 111), tile) for view in views for tile in TILED.tiles(Size(150, 111))]
    assert len({placement.tensor for placement in placements}) <= 4
