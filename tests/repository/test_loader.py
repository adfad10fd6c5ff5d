"""Model folders are found and loaded."""

import numpy as np
import pytest
import yaml

import tta_server
from tests.support.configs import CLASSIFICATION, DETECTION, SEGMENTATION, changed
from tests.support.onnx_models import classifier, detector, write_model
from tests.support.patterns import noise
from tta_server.errors import ConfigError, TooLarge
from tta_server.imaging.decoding import Limits
from tta_server.imaging.normalization import Channels
from tta_server.imaging.padding import Anchor, Pad
from tta_server.imaging.preprocessing import Resize
from tta_server.repository.loader import find_models, load_model
from tta_server.views.geometry import Size
from tta_server.views.view import View


@pytest.mark.parametrize(("stated", "largest"), [(None, 1333), (1333, 1333), (2000, 2000)])
def test_the_long_side_may_be_limited_besides_the_short_side(load, stated, largest):
    model = load(changed(DETECTION, input={"max_size": stated}), detector())
    assert model.preprocessing.canvas_size(Size(1920, 1080)) == Size(1333, 749)
    assert model.preprocessing.max_size == largest


@pytest.mark.parametrize(
    ("image", "canvas"),
    [
        (Size(1920, 1080), Size(1333, 749)),  # 800 x 1920 / 1080 is 1422; 1333 x 800 / 1422 is 749.9
        (Size(1080, 1920), Size(749, 1333)),
        (Size(640, 480), Size(1066, 800)),
        (Size(1000, 1000), Size(800, 800)),
    ],
)
@pytest.mark.parametrize(
    ("config", "model"),
    [(DETECTION, detector()), (CLASSIFICATION, classifier(("n", 3, "h", "w")))],
    ids=["detection", "classification"],
)
def test_a_stated_max_size_limits_the_long_side_of_a_task_that_does_not_tile(load, config, model, image, canvas):
    stated = {"size": "free", "resize": 800, "max_size": 1333, "max_long_side": None}
    prep = load(changed(config, input=stated), model).preprocessing
    assert prep.canvas_size(image) == canvas
    prep.check([View("plain")], image, Limits())


def test_a_max_size_that_is_not_stated_limits_nothing(load):
    prep = load(changed(DETECTION, input={"max_long_side": None}), detector()).preprocessing
    assert prep.canvas_size(Size(1920, 1080)) == Size(1422, 800)
    with pytest.raises(TooLarge, match="this model's limit is 1024 pixels on the long side"):
        prep.check([View("plain")], Size(1920, 1080), Limits())


@pytest.mark.parametrize("resize", [None, "none"])
def test_without_a_short_side_max_size_refuses_larger_images(load, resize):
    stated = {"resize": resize, "max_size": 1333, "max_long_side": None}
    prep = load(changed(DETECTION, input=stated), detector()).preprocessing
    assert prep.canvas_size(Size(1920, 1080)) == Size(1920, 1080)
    with pytest.raises(TooLarge, match="this model's limit is 1333 pixels"):
        prep.check([View("plain")], Size(1920, 1080), Limits())


def test_full_hd_under_800_and_1333_is_detected_in_its_own_pixels(tmp_path):
    stated = {"max_size": 1333, "max_long_side": None}
    config = changed(DETECTION, input=stated, labels=["red", "green", "blue"])
    image = np.zeros((1080, 1920, 3), np.uint8)
    image[270:540, 480:960, 0] = 255
    with tta_server.load(write_model(tmp_path / "m", detector(), config), slots=1) as model:
        result = model.predict(image, budget_ms=5000).result
    (box,) = result.boxes[result.class_ids == 0]
    assert box == pytest.approx([480, 270, 960, 540], abs=2 * 1920 / 1333)


def test_segmentation_tiles_what_exceeds_a_stated_max_size(load):
    prep = load(changed(SEGMENTATION, input={"resize": 800, "max_size": 1024, "multiple": 8})).preprocessing
    assert prep.canvas_size(Size(1920, 1080)) == Size(1422, 800)
    assert len(prep.tiles(Size(1920, 1080))) == 8  # 4 by 2: 512 pixels that overlap by 64


def test_segmentation_tiles_a_resized_image(load):
    stated = {"resize": 800, "max_long_side": 1333, "max_size": 1024, "multiple": 8}
    prep = load(changed(SEGMENTATION, input=stated)).preprocessing
    assert len(prep.tiles(Size(1920, 1080))) == 6
    assert prep.tiles(Size(1000, 1000)) == ()


def test_a_classifier_loads_with_what_its_author_stated(load):
    model = load(changed(CLASSIFICATION, limits={"rotate": 10}, budget={"min_views": 2}))
    assert (model.name, model.version) == ("tiny", "1")
    assert model.preprocessing.size == Size(8, 8)
    assert (model.preprocessing.resize, model.preprocessing.resize_to) == (Resize.SHORT, 10)
    assert [view.name for view in model.policy.views] == ["plain", "hflip"]
    assert model.symmetries.names == ("hflip",)
    assert model.symmetries.rotate == 10
    assert model.spatial == (8, 8)


def test_sizes_are_written_height_first(load):
    model = load(changed(CLASSIFICATION, input={"size": [8, 12], "resize": "exact"}), classifier(("n", 3, 8, 12)))
    assert model.preprocessing.size == Size(width=12, height=8)


def test_the_latest_version_is_taken_by_number(tmp_path):
    folder = write_model(tmp_path / "tiny", classifier(), CLASSIFICATION)
    for version in ("2", "10"):
        write_model(tmp_path / version, classifier(), CLASSIFICATION, version).joinpath(version).rename(
            folder / version
        )
    assert load_model(folder).version == "10"


def test_a_policy_may_be_a_file_beside_the_config(tmp_path):
    folder = write_model(tmp_path / "tiny", classifier(), changed(CLASSIFICATION, policy="learned.yaml"))
    (folder / "learned.yaml").write_text(yaml.safe_dump(["identity", "hflip", {"rotate": 5}]))
    policy = load_model(folder).policy
    assert policy.name == "learned"
    assert [view.name for view in policy.views] == ["plain", "hflip", "rotate 5"]


def test_a_policy_may_be_an_inline_list(load):
    assert len(load(changed(CLASSIFICATION, policy=["identity", {"zoom": 1.5}])).policy.views) == 2


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_preprocessing_fits_the_model_file(load, dtype, layout):
    shape = ("n", 8, 8, 3) if layout == "NHWC" else ("n", 3, 8, 8)
    model = load(changed(CLASSIFICATION, input={"layout": layout}), classifier(shape, dtype))
    assert_runs(model)


@pytest.mark.parametrize(
    ("entry", "side"),
    [
        ({"size": [8, 8], "resize": 10}, 8),
        ({"size": [8, 8], "resize": None}, 8),
        ({"size": [8, 8], "resize": "letterbox"}, 8),
        ({"size": [6, 6], "resize": "exact", "multiple": 4}, 8),
        ({"size": [6, 6], "resize": 6, "multiple": 4}, 8),
        ({"size": "free", "resize": None, "multiple": 4}, "free"),
        ({"size": "free", "resize": 9}, "free"),
        ({"size": [8, 8], "resize": None, "crop_from": [10, 9]}, 8),
        ({"size": [8, 8], "resize": "cover"}, 8),
        ({"size": "free", "resize": None, "long_side": 9, "rounding": "floor"}, "free"),
        ({"size": "free", "resize": 9, "multiple": 4, "pad": "zeros", "size_like": "mmdetection"}, "free"),
        ({"size": [8, 8], "resize": "letterbox", "letterbox_anchor": "top_left", "letterbox_fill": "zeros"}, 8),
        ({"size": [8, 8], "resize": None, "resize_like": "opencv", "interpolation": "area"}, 8),
        ({"size": [8, 8], "resize": 10, "resize_like": "torch", "interpolation": "bicubic"}, 8),
    ],
)
def test_every_resize_mode_fits_its_model_file(load, entry, side):
    shape = ("n", 3, "h", "w") if side == "free" else ("n", 3, side, side)
    assert_runs(load(changed(CLASSIFICATION, input=entry), classifier(shape)))


def test_keys_of_input_reach_the_preprocessing(load):
    entry = {
        "size": [6, 8],
        "resize": "letterbox",
        "rounding": "floor",
        "letterbox_anchor": "top_left",
        "letterbox_fill": [1, 2, 3],
        "resize_like": "opencv",
        "interpolation": "bicubic",
    }
    prep = load(changed(CLASSIFICATION, input=entry), classifier(("n", 3, 6, 8))).preprocessing
    assert (prep.rounding, prep.letterbox_anchor, prep.letterbox_fill) == ("floor", Anchor.TOP_LEFT, (1, 2, 3))
    assert (prep.resize_like, prep.interpolation) == ("opencv", "bicubic")


def test_the_cap_of_the_long_side_may_be_rounded_as_another_library_does(load):
    entry = {"max_long_side": 1333, "size_like": "transformers", "pad": "zeros"}
    prep = load(changed(DETECTION, input=entry), detector()).preprocessing
    assert prep.canvas_size(Size(1920, 1080)) == Size(1333, 750)
    assert prep.pad is Pad.ZEROS


def test_a_long_side_is_a_length_that_is_processed_whole(load):
    entry = {"resize": None, "max_long_side": None, "long_side": 1280}
    prep = load(changed(DETECTION, input=entry), detector()).preprocessing
    assert (prep.canvas_size(Size(640, 320)), prep.max_size) == (Size(1280, 640), 1280)


@pytest.mark.parametrize("side", [6, 8])
def test_a_letterbox_with_a_multiple_is_refused_or_runs(load, side):
    config = changed(CLASSIFICATION, input={"size": [6, 6], "resize": "letterbox", "multiple": 4})
    try:
        model = load(config, classifier(("n", 3, side, side)))
    except ConfigError:
        return
    assert_runs(model)


def assert_runs(model):
    """Run a batch of the model's own views of a 13x11 image."""
    prep, image = model.preprocessing, noise(Size(13, 11))
    for view in model.policy.views:
        placement = prep.place(view, Size(13, 11))
        batch = prep.empty(2, placement.tensor)
        for row in batch:
            prep.write(prep.canvas(image, view.scale), view, placement, row)
        outputs = model.backend.infer(batch)
        model.task.check(outputs, placement.tensor)
        assert np.isfinite(outputs["scores"]).all()


def test_a_grey_model_takes_one_channel(load):
    model = load(
        changed(CLASSIFICATION, input={"color": "grey"}, labels=["one"]), classifier(("n", 1, 8, 8), classes=1)
    )
    assert model.preprocessing.channels is Channels.GREY
    assert_runs(model)


def test_find_models_lists_folders_by_name(tmp_path):
    for name in ("zebra", "ant"):
        write_model(tmp_path / name, classifier(), CLASSIFICATION)
    (tmp_path / "notes").mkdir()
    assert [path.name for path in find_models(tmp_path)] == ["ant", "zebra"]


def test_an_invalid_model_file_is_refused(tmp_path):
    folder = write_model(tmp_path / "tiny", classifier(), CLASSIFICATION)
    (folder / "1" / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match=r"model\.onnx: ONNX Runtime can't load the file"):
        load_model(folder)


def test_a_missing_model_file_is_named(tmp_path):
    folder = write_model(tmp_path / "tiny", classifier(), CLASSIFICATION)
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(ConfigError, match=r"no model file; expected .*/1/model\.onnx"):
        load_model(folder)


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"tta\.yaml: can't be read: No such file"):
        load_model(tmp_path)


def test_the_error_for_a_folder_without_models_names_what_is_expected(tmp_path):
    with pytest.raises(ConfigError, match=r"no model found; expected .*/<name>/tta\.yaml"):
        find_models(tmp_path)
    with pytest.raises(ConfigError, match="no such folder; give --models a folder that holds"):
        find_models(tmp_path / "nowhere")


def test_a_digest_changes_with_anything_in_the_folder_that_answers_depend_on(tmp_path):
    """The model file, tta.yaml, the file of its policy; the same folder has the same digest under any name."""

    def digest() -> str:
        model = load_model(folder)
        model.retire()
        return model.digest

    folder = tmp_path / "one"
    config = changed(CLASSIFICATION, policy="views.yaml")
    write_model(folder, classifier(), config)
    (folder / "views.yaml").write_text("[identity, hflip]")
    found = [digest()]
    (folder / "views.yaml").write_text("[identity]")
    found.append(digest())
    (folder / "tta.yaml").write_text(yaml.safe_dump(config | {"description": "another"}))
    found.append(digest())
    folder = folder.rename(tmp_path / "two")
    assert digest() == found[-1]
    assert len({*found}) == 3
