import re

import numpy as np
import pytest
import yaml
from onnx import TensorProto, helper

from tests.support.onnx_models import classifier, detector, graph, segmenter, write_model
from tests.support.patterns import noise
from tta_server.errors import ConfigError, InvalidInput
from tta_server.imaging.normalization import Channels
from tta_server.imaging.preprocessing import Resize
from tta_server.repository.loader import find_models, load_model
from tta_server.views.geometry import Size
from tta_server.views.presets import read_policy
from tta_server.views.view import View

CLASSIFICATION = {
    "task": "classification",
    "labels": ["red", "green", "blue"],
    "input": {"size": [8, 8], "resize": 10},
    "output": {"kind": "logits"},
    "policy": "hflip",
    "symmetries": ["hflip"],
}
SEGMENTATION = {
    "task": "segmentation",
    "labels": ["red", "green", "blue"],
    "input": {"size": "free", "multiple": 4},
    "output": {"kind": "logits"},
    "policy": "d4",
    "symmetries": ["hflip", "vflip", "rot90", "transpose"],
}


def changed(base, **changes):
    """Return a config with keys replaced; mappings such as `input` are updated, None removes a key."""
    config = {**base}
    for key, value in changes.items():
        both = {**base[key], **value} if isinstance(base.get(key), dict) and isinstance(value, dict) else value
        config[key] = {k: v for k, v in both.items() if v is not None} if isinstance(both, dict) else both
    return {key: value for key, value in config.items() if value is not None}


@pytest.fixture
def load(tmp_path):
    """Write a model folder and load it."""

    def write_and_load(config, model=None):
        default = segmenter() if isinstance(config, dict) and config.get("task") == "segmentation" else classifier()
        return load_model(write_model(tmp_path / "tiny", model or default, config))

    return write_and_load


@pytest.fixture
def refused(load, tmp_path):
    """Load a model that must be refused, and return the sentence after the file's name."""

    def refuse(config, model=None):
        with pytest.raises(ConfigError) as caught:
            load(config, model)
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence.startswith(str(tmp_path / "tiny"))
        return sentence.removeprefix(str(tmp_path / "tiny" / "tta.yaml") + ": ")

    return refuse


# ---- valid configs ----


DETECTION = {
    "task": "detection",
    "labels": ["red", "green", "blue"],
    "input": {"size": "free", "multiple": 32, "resize": 800, "max_long_side": 1333},
    "output": {"boxes": "boxes", "scores": "scores", "labels": "labels"},
}


@pytest.mark.parametrize(("stated", "largest"), [(None, 1333), (1333, 1333), (2000, 2000)])
def test_the_long_side_may_be_limited_besides_the_short_side(load, stated, largest):
    model = load(changed(DETECTION, input={"max_size": stated}), detector())
    assert model.preprocessing.canvas_size(Size(1920, 1080)) == Size(1333, 749)
    assert model.preprocessing.max_size == largest


def test_segmentation_tiles_a_resized_image(load):
    stated = {"resize": 800, "max_long_side": 1333, "max_size": 1024, "multiple": 8}
    prep = load(changed(SEGMENTATION, input=stated)).preprocessing
    assert len(prep.tiles(Size(1920, 1080))) == 6
    assert prep.tiles(Size(1000, 1000)) == ()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_size": 1024}, "input.max_size is 1024, under max_long_side, 1333; detection does not tile"),
        ({"resize": None}, "max_long_side needs resize: a number"),
        ({"resize": "none"}, "max_long_side needs resize: a number"),
        ({"max_long_side": 800}, "max_long_side is 800; it should be over the short side's length, 800"),
        ({"size": [64, 64], "resize": 64}, "max_long_side needs size: free"),
        ({"size": [64, 64], "resize": "letterbox"}, "max_long_side needs size: free"),
        ({"max_long_side": 0}, "input.max_long_side is 0"),
    ],
)
def test_an_invalid_limit_of_the_long_side_is_refused(refused, changes, sentence):
    assert re.search(sentence, refused(changed(DETECTION, input=changes), detector()))


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
    ],
)
def test_every_resize_mode_fits_its_model_file(load, entry, side):
    shape = ("n", 3, "h", "w") if side == "free" else ("n", 3, side, side)
    assert_runs(load(changed(CLASSIFICATION, input=entry), classifier(shape)))


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


# ---- mistakes in tta.yaml: each error names file, key, what was found, what is allowed ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": "clasification"}, "task is 'clasification'; it should be 'classification', 'multilabel', "),
        ({"task": None}, "task is missing"),
        ({"labels": []}, "labels is missing; classification needs one name for each class"),
        ({"labels": ["a", "a", "b"]}, "labels has 'a' more than once; labels must be unique"),
        ({"labels": "red"}, "labels is 'red'; it should be a list"),
        ({"symetries": ["hflip"]}, "unknown key symetries; known: task, labels, "),
        ({"input": {"colour": "RGB"}}, "unknown key input.colour; known: size, resize, "),
        ({"output": {"kind": "logit"}}, "output.kind is 'logit'; it should be 'logits' or 'probabilities'"),
        ({"output": {"kind": None}}, "output.kind is missing"),
        ({"input": {"size": None}}, "input.size is missing"),
        ({"input": {"size": "large"}}, "input.size is 'large'; it should be 'free'"),
        ({"input": {"size": [8, 0]}}, "input.size.1 is 0; it should be a whole number over 0"),
        ({"input": {"size": [8]}}, "input.size"),
        ({"input": {"color": "rgb"}}, "input.color is 'rgb'; it should be 'RGB', 'BGR' or 'grey'"),
        ({"input": {"layout": "CHW"}}, "input.layout is 'CHW'; it should be 'NCHW' or 'NHWC'"),
        ({"input": {"interpolation": "area"}}, "input.interpolation is 'area'; it should be 'bilinear', "),
        ({"input": {"scale": 0}}, "input.scale is 0; it should be a number over 0"),
        ({"input": {"mean": [0.5, 0.5]}}, "input: mean has 2 numbers; color RGB allows 1 or 3"),
        ({"input": {"std": [0.5, 0.0, 0.5]}}, "input.std.1 is 0.0; it should be a number over 0"),
        ({"input": {"resize": "fit"}}, "input.resize is 'fit'; it should be 'none', 'exact' or 'letterbox'"),
        ({"input": {"resize": 7}}, "input: resize 7 is smaller than the centre crop; it should be at least 8"),
        ({"input": {"levels": [5, 5]}}, "input: levels is [5.0, 5.0]; it should be [low, high] with low under high"),
        ({"input": {"levels": "full"}}, "input.levels is 'full'; it should be 'auto'"),
        ({"input": {"levels": [0]}}, "input.levels"),
        (
            {"input": {"background": [0, 0, 256]}},
            "input.background.2 is 256; it should be a whole number of at most 255",
        ),
        ({"input": {"background": "white"}}, "input.background is 'white'; it should be a list"),
        ({"input": {"resize": "none"}}, "input: resize none needs size: free"),
        ({"input": {"size": "free", "resize": "letterbox"}}, "input: resize letterbox needs a fixed size"),
        ({"input": {"letterbox_fill": 300}}, "input.letterbox_fill is 300; it should be a whole number of at most 255"),
        ({"merge": "mean"}, "merge is 'mean'; allowed for this task: mean_probabilities, "),
        ({"symmetries": ["flip"]}, "symmetries.0 is 'flip'; it should be 'identity', 'hflip', "),
        ({"limits": {"rotate": 90}}, "limits.rotate is 90; it should be a number of at most 45"),
        ({"budget": {"default_ms": 0}}, "budget.default_ms is 0; it should be a number over 0"),
        ({"budget": {"default_ms": 9000}}, "budget: default_ms is 9000; it should be at most max_ms, 5000"),
        ({"budget": {"min_views": 3}}, "budget.min_views is 3, but the policy has 2 views"),
        ({"stop": "maybe"}, "stop: unknown stop 'maybe'; known: all, certain"),
        ({"backend": "torch"}, "backend is 'torch'; it should be 'onnxruntime'"),
        ({"policy": "d5"}, "policy: unknown policy 'd5'; presets: plain, "),
        ({"policy": "d4"}, "policy: view 'vflip' contains vflip, which does not keep this model's labels"),
        ({"policy": ["hflip"]}, "policy: the first view of the policy is 'hflip'; it must be the plain view"),
        ({"policy": ["identity", {"zoom": 0}]}, "policy: view 2: zoom takes a number from 1 to 10, not 0"),
        ({"policy": ["identity", {"rotate": 40}]}, "policy: view 'rotate 40' has a rotation in degrees of 40"),
        (
            {"policy": ["identity", {"shift": [4, 0]}]},
            "policy: view 'shift [4,0]' shifts by 4 pixels; it must shift by less than half of this model's input",
        ),
        ({"policy": ["identity", {"scale": 0.5}]}, "policy: view 'scale 0.5' has a scale of 0.5; this model's input"),
        (
            {"policy": ["identity", {"hflip": True, "weight": [1, 2]}]},
            "policy: view 'hflip' has 2 weights; give one number, or one for each of the 3 labels",
        ),
        ({"policy": "missing.yaml"}, "policy: no file 'missing.yaml' beside tta.yaml"),
        ({"policy": "../tiny/tta.yaml"}, "policy: no file '../tiny/tta.yaml' beside tta.yaml"),
    ],
)
def test_an_error_names_the_key_what_was_found_and_what_is_allowed(refused, changes, sentence):
    found = refused(changed(CLASSIFICATION, **changes))
    assert found.startswith(sentence)


def test_an_error_names_all_mistakes(refused):
    found = refused(changed(CLASSIFICATION, labels="red", output={"kind": "y"}))
    assert "labels is 'red'" in found
    assert "output.kind is 'y'" in found


def test_segmentation_refuses_a_centre_crop(refused):
    found = refused(changed(SEGMENTATION, input={"size": [8, 8], "resize": 10, "multiple": None}))
    assert (
        "centre crop hides the image's border from segmentation; allowed: size: free, or resize: exact or letterbox"
        in found
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file holds null; it should hold keys like 'task' and 'input'"),
        ("- task", "the file holds [\"task\"]; it should hold keys like 'task' and 'input'"),
        ("task: [", "is not valid YAML in line 1, column 8"),
        ("task: classification\ntask: {a: b: c}", "is not valid YAML in line 2, column 12"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML in line 1, column 1"),
        ("task:\n\tinput: 1", "is not valid YAML in line 2, column 1; indent with spaces, not tabs"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_refused(refused, text, sentence):
    assert refused(text).startswith(sentence)


def test_keys_that_are_not_text_are_refused(refused):
    assert refused({**CLASSIFICATION, 5: "x"}).startswith("5 is ")


@pytest.mark.parametrize("text", ["identity", "- {zoom: ", "- {crop: {1: 2, a: 3}}", "", "- identity\n- {zoom: 0}"])
def test_a_mistake_in_a_policy_file_is_a_mistake_in_the_config(tmp_path, text):
    folder = write_model(tmp_path / "tiny", classifier(), changed(CLASSIFICATION, policy="learned.yaml"))
    (folder / "learned.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(folder))):
        load_model(folder)


# ---- the model file against the config ----


@pytest.mark.parametrize(
    ("changes", "model", "sentence"),
    [
        (
            {"input": {"size": [16, 16], "resize": 16}},
            classifier(),
            "input.size is [16, 16], but the model file takes [8, 8]",
        ),
        (
            {"input": {"size": "free", "resize": None}},
            classifier(),
            "input.size is free, but the model file takes only [8, 8]",
        ),
        (
            {"input": {"color": "grey"}},
            classifier(),
            "input.color grey with layout NCHW means 1 channels, but the model file has 3",
        ),
        (
            {"input": {"layout": "NHWC"}},
            classifier(),
            "input.color RGB with layout NHWC means 3 channels, but the model file has 8",
        ),
        ({}, classifier((4, 3, 8, 8)), "the model file has a fixed batch of 4; export it with a free batch axis"),
        ({"output": {"name": "logits"}}, classifier(), "output.name is 'logits'; the model file has scores"),
        ({}, classifier(outputs=("a", "b")), "output.name is None; the model file has a, b"),
    ],
)
def test_a_model_file_that_contradicts_the_config_is_refused_naming_both(refused, changes, model, sentence):
    assert refused(changed(CLASSIFICATION, **changes), model).startswith(sentence)


def test_a_free_size_needs_both_axes_free(refused):
    config = changed(SEGMENTATION, policy="plain")
    assert refused(config, segmenter(("n", 3, "h", 64))).startswith("input.size is free, but the model file takes only")


def test_one_of_two_outputs_may_be_named(load):
    model = load(changed(CLASSIFICATION, output={"name": "b"}), classifier(outputs=("a", "b")))
    model.task.check({"b": np.zeros((1, 3), np.float32)}, Size(8, 8))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (segmenter(("n", 3, 8)), r"input image is 3-D tensor\(float\); it must be 4-D, of tensor\(float\)"),
        (
            graph(
                [helper.make_node("Add", ["image", "other"], ["scores"])],
                ("n", 3, 8, 8),
                "float32",
                [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3, 8, 8])],
                inputs=("image", "other"),
            ),
            "the model has the inputs image, other; it must have one, an image",
        ),
    ],
)
def test_a_model_file_with_another_input_is_refused(load, model, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load(CLASSIFICATION, model)


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
    with pytest.raises(ConfigError, match="no such folder; give a folder that holds"):
        find_models(tmp_path / "nowhere")


# ---- views against the model ----


@pytest.mark.parametrize(
    ("base", "entry", "shape", "fits"),
    [
        (SEGMENTATION, {}, ("n", 3, "h", "w"), True),
        (CLASSIFICATION, {"size": [8, 8]}, ("n", 3, 8, 8), True),
        (CLASSIFICATION, {"size": [8, 12], "resize": 12}, ("n", 3, 8, 12), False),
        (CLASSIFICATION, {"size": [8, 12], "resize": 12}, ("n", 3, "h", "w"), True),
        (CLASSIFICATION, {"size": [8, 12], "resize": "letterbox"}, ("n", 3, "h", "w"), False),
        (CLASSIFICATION, {"size": [8, 12], "resize": "exact"}, ("n", 3, 8, "w"), False),
    ],
)
def test_views_that_swap_sides_are_refused_if_the_input_cannot_swap(load, base, entry, shape, fits):
    config = changed(base, input=entry, policy="plain", symmetries=["rot90"])
    file = segmenter(shape) if base is SEGMENTATION else classifier(shape)
    model = load(config, file)
    turned = read_policy(["identity", {"name": "turned", "rot90": 1}], model.preprocessing.crops)
    if fits:
        model.check_views(turned)
    else:
        with pytest.raises(
            InvalidInput, match="view 'turned' swaps width and height, which does not fit this model's input of 12x8"
        ):
            model.check_views(turned)


def test_views_that_fit_pass(load):
    model = load(CLASSIFICATION)
    views = ["identity", {"scale": 0.8}, {"shift": [3.9, 0]}, {"hflip": True, "weight": [1, 0, 2]}]
    model.check_views(read_policy(views, model.preprocessing.crops))


def test_the_smallest_scale_still_fills_the_window(load):
    model = load(CLASSIFICATION)  # a window of 8 on a short side of 10
    canvas = model.preprocessing.place(View(scale=0.8), Size(30, 20)).canvas
    assert min(canvas) == 8
    with pytest.raises(InvalidInput, match=r"view 'scale 0.79' has a scale of 0.79; .* at least 0.8"):
        model.check_views(read_policy(["identity", {"scale": 0.79}], True))
