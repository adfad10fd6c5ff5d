"""`tta-server init`: the folder it writes loads, and answers as the model was exported to."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support import batch_nets, exports
from tests.support.commands import Done, check_mistake, run
from tests.support.exports import write_export
from tests.support.external import external, scorer, weights
from tests.support.measured_nets import prototypes, write_images
from tests.support.onnx_models import segmenter
from tta_server import load
from tta_server.errors import ConfigError
from tta_server.repository.config import read_config

BLUE = (51, 102, 255)


def flat(height=20, width=40, color=BLUE) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


def with_red_box() -> np.ndarray:
    """48 wide and 32 high, black, with a red box from (12, 8) to (36, 24)."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[8:24, 12:36, 0] = 255
    return image


def initialised(tmp_path: Path, file: Path, *options: object) -> Path:
    """The folder that `init` wrote for a model, which is called mine."""
    done = run("init", file, "--models", tmp_path / "models", "--name", "mine", *options)
    assert done.returncode == 0, done.stderr
    assert f"tta-server predict PHOTO --model mine --models {tmp_path / 'models'}" in done.stdout
    return tmp_path / "models" / "mine"


def softmax(z) -> np.ndarray:
    e = np.exp(z - np.max(z))
    return e / e.sum()


def written(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "tta.yaml").read_text())


# ---- what other tools write ----


@pytest.mark.parametrize(
    ("model", "metadata"),
    [
        (exports.yolo(), exports.YOLO),
        (exports.yolo(("n", 3, "h", "w")), exports.YOLO),
        (exports.yolo_with_nms(), exports.YOLO | {"args": "{'nms': True}"}),
        (exports.yolo_with_nms(), exports.YOLO | {"end2end": "True"}),
        (exports.yolov5(), {"stride": "32", "names": exports.YOLO["names"]}),
    ],
    ids=["YOLOv8", "YOLOv8, free axes", "nms", "end2end", "YOLOv5"],
)
def test_a_yolo_detector(tmp_path: Path, model, metadata) -> None:
    """An image of half the size in each direction: boxes come back in its own pixels."""
    folder = initialised(tmp_path, write_export(tmp_path, exports.with_metadata(model, metadata)))
    assert written(folder)["input"]["resize"] == "letterbox"
    with load(folder) as loaded:
        answer = loaded.predict(with_red_box(), budget_ms=5000)
    (found,) = answer.prediction["boxes"]
    assert (found["label"], found["box"]) == ("red", [12, 8, 36, 24])


def test_a_detector_keeps_its_boxes_under_flips(tmp_path: Path) -> None:
    model = exports.with_metadata(exports.yolo(("n", 3, 64, 96)), exports.YOLO)
    image = with_red_box()
    image[:, :18] = 0  # the box is no mirror image of itself now
    stated = ("--set", "symmetries=[hflip, vflip]", "--set", "policy=flips")
    folder = initialised(tmp_path, write_export(tmp_path, model), *stated)
    with load(folder) as loaded:
        answer = loaded.predict(image, budget_ms=10000, min_views="all")
    (found,) = answer.prediction["boxes"]
    assert len(answer.receipt.views) == 4
    np.testing.assert_allclose(found["box"], [18, 8, 36, 24], atol=1)


def test_a_yolo_classifier(tmp_path: Path) -> None:
    """Probabilities of the middle of the image, from 0 to 1."""
    metadata = exports.YOLO | {"task": "classify", "imgsz": "[8, 8]"}
    folder = initialised(
        tmp_path, write_export(tmp_path, exports.with_metadata(exports.softmax_classifier(), metadata))
    )
    image = flat()
    image[:, :5] = 255  # left of the square in the middle
    with load(folder) as loaded:
        answer = loaded.predict(image, budget_ms=5000)
    np.testing.assert_allclose(answer.result.probabilities, softmax(np.divide(BLUE, 255)), rtol=1e-5)


def test_a_folder_of_hugging_face(tmp_path: Path) -> None:
    """All four axes free; the image is squashed, and normalised with the file's mean and std."""
    file = write_export(
        tmp_path / "vit",
        exports.classifier_of(exports.FREE),
        config_json=exports.VIT_CONFIG,
        preprocessor_config_json=exports.VIT_PROCESSOR,
    )
    folder = initialised(tmp_path, file)
    image = flat()
    with load(folder) as loaded:
        assert loaded.model.can_batch
        answer = loaded.predict(image, budget_ms=5000)
    expected = (np.divide(BLUE, 255) - 0.5) / [0.5, 0.5, 0.25]
    np.testing.assert_allclose(answer.result.probabilities, softmax(expected), rtol=1e-5)
    assert answer.prediction["top"][0]["label"] == "blue"


def test_the_folder_may_be_elsewhere(tmp_path: Path) -> None:
    file = write_export(tmp_path, exports.classifier_of(exports.FREE), "vit.onnx")
    described = tmp_path / "described"
    described.mkdir()
    write_export(described, exports.classifier_of(), config_json=exports.VIT_CONFIG)
    processor = {"image_processor": exports.VIT_PROCESSOR}
    write_export(described, exports.classifier_of(), processor_config_json=processor)
    folder = initialised(tmp_path, file, "--from", described)
    assert written(folder)["input"]["std"] == [0.5, 0.5, 0.25]


def test_a_folder_of_timm(tmp_path: Path) -> None:
    """crop_pct 0.8 of 8 pixels: the short side is 10, the middle counts."""
    file = write_export(tmp_path / "resnet", exports.classifier_of(("n", 3, 8, 8)), config_json=exports.TIMM)
    folder = initialised(tmp_path, file)
    assert written(folder)["input"]["resize"] == 10
    image = flat()
    image[:, :5] = 255
    with load(folder) as loaded:
        answer = loaded.predict(image, budget_ms=5000)
    expected = (np.divide(BLUE, 255) - [0.5, 0.25, 0.0]) / 0.5
    np.testing.assert_allclose(answer.result.probabilities, softmax(expected), rtol=1e-5)


def test_a_segmenter_of_hugging_face(tmp_path: Path) -> None:
    """Each pixel's class is its brightest colour; an image of another shape than the input."""
    config = exports.VIT_CONFIG | {"architectures": ["SegformerForSemanticSegmentation"], "model_type": "segformer"}
    processor = exports.VIT_PROCESSOR | {"image_processor_type": "SegformerImageProcessor", "image_std": [0.5] * 3}
    file = write_export(
        tmp_path / "segformer",
        segmenter((1, 3, 8, 8)),
        config_json=config,
        preprocessor_config_json=processor,
    )
    folder = initialised(tmp_path, file)
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16, 0] = image[:, 16:, 2] = 255
    with load(folder) as loaded:
        answer = loaded.predict(image, budget_ms=5000)
    np.testing.assert_array_equal(answer.result.mask, np.where(image[..., 0] > 0, 0, 2))


@pytest.mark.parametrize(("kind", "model"), [("rt_detr", exports.rt_detr()), ("detr", exports.detr())])
def test_a_detector_of_hugging_face(tmp_path: Path, kind: str, model) -> None:
    config = exports.VIT_CONFIG | {"architectures": ["XForObjectDetection"], "model_type": kind}
    processor = exports.VIT_PROCESSOR | {
        "image_processor_type": "RTDetrImageProcessor",
        "size": {"height": 64, "width": 64},
        "resample": 2,
        "do_normalize": False,
    }
    file = write_export(tmp_path / "rtdetr", model, config_json=config, preprocessor_config_json=processor)
    image = np.zeros((128, 64, 3), np.uint8)
    image[32:96, 16:32, 0] = 255
    with load(initialised(tmp_path, file)) as loaded:
        answer = loaded.predict(image, budget_ms=5000)
    found = answer.prediction["boxes"][0]
    assert found["label"] == "red"
    np.testing.assert_allclose(found["box"], [16, 32, 32, 96], atol=1)


def test_the_metadata_may_hold_a_whole_tta_yaml(tmp_path: Path) -> None:
    text = "task: classification\nlabels: [a, b, c]\ninput: {size: [8, 8], color: BGR}\noutput: {kind: logits}\n"
    model = exports.with_metadata(exports.classifier_of(), {"tta.yaml": text})
    folder = initialised(tmp_path, write_export(tmp_path, model))
    with load(folder) as loaded:
        answer = loaded.predict(flat(), budget_ms=5000)
    np.testing.assert_allclose(answer.result.probabilities, softmax(np.divide(BLUE[::-1], 255)), rtol=1e-5)


# ---- what is measured ----


def test_images_show_what_nothing_states(tmp_path: Path) -> None:
    file = write_export(tmp_path, prototypes())
    images = write_images(tmp_path / "photos", 48)
    labels = "labels=[black, red, orange, yellow]"
    options = ("--set", "task=classification", "--set", labels, "--set", "input.resize=exact", "--images", images)
    done = run("init", file, "--models", tmp_path / "models", "--name", "mine", *options)
    assert done.returncode == 1
    text = (tmp_path / "models" / "mine" / "tta.yaml").read_text()
    assert "  color: RGB  # measured on 48 images: " in text
    assert "  kind: logits  # measured on 6 test tensors: the outputs are -" in text
    assert "  # ? mean:" in text
    assert "warning: input.mean and input.std: cannot tell, measured on 48 images: " in done.stderr


def test_a_folder_without_images(tmp_path: Path) -> None:
    file = write_export(tmp_path, prototypes())
    (tmp_path / "photos").mkdir()
    done = run("init", file, "--models", tmp_path / "models", "--images", tmp_path / "photos")
    assert "holds no images, which are files named" in check_mistake(done)
    assert not (tmp_path / "models").exists()


# ---- in the model file ----


def test_the_model_file_alone_is_a_model(tmp_path: Path) -> None:
    """tta.yaml is in its metadata; the rest of the file is that of the original."""
    names = ["red", "green", "blue"]
    file = write_export(tmp_path, exports.classifier_of(), labels_txt="\n".join(names))
    folder = initialised(tmp_path, file, *stated(), "--embed")
    assert [path.name for path in sorted(folder.rglob("*"))] == ["1", "model.onnx"]
    assert (folder / "1" / "model.onnx").read_bytes().startswith(file.read_bytes())
    with load(folder) as loaded:
        assert loaded.model.config.labels == tuple(names)
    moved = tmp_path / "elsewhere" / "1"
    moved.mkdir(parents=True)
    (folder / "1" / "model.onnx").rename(moved / "model.onnx")
    again = initialised(tmp_path / "again", moved / "model.onnx")
    assert written(again)["input"]["mean"] == [0]
    shown = run("models", "--models", tmp_path)
    assert (shown.returncode, "elsewhere" in shown.stdout) == (0, True), shown.stderr


def test_a_tta_yaml_gives_way_to_the_embedded_one(tmp_path: Path) -> None:
    file = write_export(tmp_path, exports.classifier_of())
    folder = initialised(tmp_path, file, *stated(), "--set", "labels=[a, b, c]")
    again = (*stated(), "--set", "labels=[x, y, z]", "--embed", "--force")
    assert initialised(tmp_path, folder / "1" / "model.onnx", *again) == folder
    assert not (folder / "tta.yaml").exists()
    with load(folder) as loaded:
        assert loaded.model.config.labels == ("x", "y", "z")


def test_nothing_incomplete_is_embedded(tmp_path: Path) -> None:
    done = bare(tmp_path, "--embed")
    assert done.returncode == 1
    assert "--embed: nothing is written into the model file while values are open" in done.stderr
    assert (tmp_path / "models" / "bare" / "tta.yaml").is_file()


def test_names_of_files_are_not_embedded(tmp_path: Path) -> None:
    file = write_export(tmp_path, exports.classifier_of())
    options = ("--models", tmp_path / "models", "--embed", *stated(), "--set", "labels=names.txt")
    found = check_mistake(run("init", file, *options))
    assert "--embed: labels is 'names.txt', a file's name" in found
    assert not (tmp_path / "models").exists()


def test_weights_outside_stay_outside(tmp_path: Path) -> None:
    file = write_export(tmp_path, scorer(external("weights.bin")))
    (tmp_path / "weights.bin").write_bytes(weights([0.5, 1, 2]).tobytes())
    folder = initialised(tmp_path, file, *stated(), "--set", "labels=[a, b, c]", "--embed")
    assert (folder / "1" / "weights.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()
    with load(folder) as loaded:
        answer = loaded.predict(flat(color=(255, 255, 255)), budget_ms=5000)
    np.testing.assert_allclose(answer.result.probabilities, softmax([0.5, 1, 2]), rtol=1e-5)


# ---- a batch axis that is fixed ----


def test_a_fixed_batch_axis_is_freed(tmp_path: Path) -> None:
    file = write_export(tmp_path, batch_nets.with_token())
    names = ("--set", f"labels={list('abcdefgh')}")
    plain = initialised(tmp_path / "plain", file, *stated(), *names)
    folder = initialised(tmp_path, file, *stated(), *names, "--free-batch", "--embed", "--force")
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    with load(plain) as before, load(folder) as after:
        assert (before.model.can_batch, after.model.can_batch) == (False, True)
        expected, found = (each.predict(image, budget_ms=5000).result.probabilities for each in (before, after))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_batch_axis_that_cannot_be_freed_is_refused(tmp_path: Path) -> None:
    file = write_export(tmp_path, batch_nets.over_images())
    done = run("init", file, "--models", tmp_path / "models", "--free-batch", *stated())
    assert "can't be freed: node mean (ReduceMean) sums up over the images' axis" in check_mistake(done)
    assert not (tmp_path / "models").exists()


def test_a_free_batch_axis_stays(tmp_path: Path) -> None:
    file = write_export(tmp_path, exports.classifier_of(("n", 3, 8, 8)))
    options = (*stated(), "--set", "labels=[a, b, c]", "--free-batch")
    done = run("init", file, "--models", tmp_path / "models", "--name", "mine", *options)
    assert (done.returncode, "batch axis is free already" in done.stderr) == (0, True), done.stderr
    assert (tmp_path / "models" / "mine" / "1" / "model.onnx").read_bytes() == file.read_bytes()


# ---- what is not known ----

STATED = {
    "task": "classification",
    "input.resize": "exact",
    "input.color": "RGB",
    "input.scale": "255",
    "input.mean": "[0]",
    "input.std": "[1]",
    "output.kind": "logits",
}


def stated(**others: str) -> list[str]:
    """Options that state all but the labels."""
    return [part for key, value in (STATED | others).items() for part in ("--set", f"{key}={value}")]


def bare(tmp_path: Path, *options: object) -> Done:
    file = write_export(tmp_path, exports.classifier_of())
    return run("init", file, "--models", tmp_path / "models", "--name", "bare", *options)


def test_what_nothing_says_is_left_open(tmp_path: Path) -> None:
    done = bare(tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    asked = {line.split(":")[0].strip() for line in lines if line.startswith("  ")}
    assert asked == {*STATED, "labels"}
    assert "  task: classification | multilabel | regression | embedding" in lines
    text = (tmp_path / "models" / "bare" / "tta.yaml").read_text()
    assert "  # ? color:  # RGB | BGR | grey\n" in text
    assert "  size: [8, 8]  # the file's input image is [1, 3, 8, 8]\n" in text
    assert "tta-server predict" not in done.stdout
    command = f"tta-server predict PHOTO --model bare --models {tmp_path / 'models'}"
    assert lines[-2] == f"either fill them in there, then: {command}"
    assert lines[-1].startswith("or run this command again with --force and --set task=... --set labels=..., or with")


def test_flags_state_what_is_open(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("red\ngreen\nblue\n")
    options = stated()
    assert bare(tmp_path, "--labels", names, *options[:-4]).returncode == 1
    done = bare(tmp_path, "--labels", names, *options, "--force")
    assert done.returncode == 0, done.stderr
    assert "batch axis is fixed at 1" in done.stderr
    assert "checked on test images" in done.stderr
    with load(tmp_path / "models" / "bare") as loaded:
        answer = loaded.predict(flat(), budget_ms=5000)
    np.testing.assert_allclose(answer.result.probabilities, softmax(np.divide(BLUE, 255)), rtol=1e-5)


def test_lines_that_are_filled_in_load(tmp_path: Path) -> None:
    bare(tmp_path, "--set", "task=classification", "--set", "labels=[red, green, blue]")
    path = tmp_path / "models" / "bare" / "tta.yaml"
    text = path.read_text()
    with pytest.raises(ConfigError, match="lines are still open: resize, color, scale, mean, std; write values into"):
        read_config(path)
    for key, value in STATED.items():
        name = key.rpartition(".")[2]
        text = text.replace(f"# ? {name}:  #", f"{name}: {value}  #")
    path.write_text(text)
    assert read_config(path).output.kind == "logits"


def test_a_statement_that_test_images_contradict(tmp_path: Path) -> None:
    """The folder is kept: its tta.yaml can be changed."""
    file = write_export(tmp_path, exports.softmax_classifier())
    options = stated()
    done = run("init", file, "--models", tmp_path, "--name", "mine", *options, "--set", "labels=[a, b, c]")
    assert "set output.kind: probabilities" in check_mistake(done)
    assert "run the command again with --force" in done.stderr
    assert (tmp_path / "mine" / "1" / "model.onnx").is_file()


# ---- what is refused ----


@pytest.mark.parametrize(
    ("task", "answers"),
    [("segment", "masks of single objects"), ("pose", "points that belong to boxes"), ("obb", "rotated boxes")],
)
def test_tasks_of_yolo_that_are_refused_by_name(tmp_path: Path, task: str, answers: str) -> None:
    model = exports.with_metadata(exports.yolo_segment(), exports.YOLO | {"task": task})
    found = check_mistake(run("init", write_export(tmp_path, model), "--models", tmp_path / "models"))
    assert f"metadata task is {task!r}" in found
    assert answers in found
    assert not (tmp_path / "models").exists()


def test_preprocessing_that_is_refused_by_name(tmp_path: Path) -> None:
    processor = exports.VIT_PROCESSOR | {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 8},
        "do_center_crop": False,
    }
    files = {"config_json": exports.VIT_CONFIG, "preprocessor_config_json": processor}
    file = write_export(tmp_path, exports.classifier_of(), **files)
    found = check_mistake(run("init", file, "--models", tmp_path / "models", "--name", "deit"))
    assert "the short side becomes 8 without a crop, so that inputs differ in size, which tta.yaml can't" in found
    assert not (tmp_path / "models").exists()


def test_a_folder_that_exists_needs_force(tmp_path: Path) -> None:
    file = write_export(tmp_path, exports.with_metadata(exports.yolo(), exports.YOLO))
    folder = initialised(tmp_path, file)
    (folder / "README.md").write_text("mine")
    again = ("init", file, "--models", folder.parent, "--name", "mine")
    assert f"{folder}: exists; give another --name, or --force" in check_mistake(run(*again))
    assert run(*again, "--force").returncode == 0
    assert run("init", folder / "1" / "model.onnx", *again[2:], "--force").returncode == 0, "its own file"
    assert (folder / "README.md").read_text() == "mine"
    (folder / "1").rename(folder / "2")
    assert "has version 2, which would be served instead" in check_mistake(run(*again, "--force"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--name", "../mine"], "can't be a model's name"),
        (["--set", "input.color"], "--set takes KEY=VALUE"),
        (["--set", "labels=[a"], "--set labels: the value is not valid YAML"),
        (["--labels", "/nowhere.txt"], "/nowhere.txt: can't be read"),
        (["--from", "/"], "/: holds none of config.json"),
        (["--set", "input.colour=BGR"], "--set input.colour: tta.yaml has no such key; close to it: input.color"),
        (["--set", "color=BGR"], "--set color: tta.yaml has no such key; close to it: input.color; docs/models.md"),
        (["--set", "zzzz=1"], "--set zzzz: tta.yaml has no such key; docs/models.md lists all keys"),
        (["--set", "budget.max_ms=9"], "state all of budget at once, like --set 'budget={max_ms: VALUE}'"),
        (["--set", "input={size: free}"], "--set input: state its keys one by one"),
    ],
)
def test_mistakes(tmp_path: Path, options: list[str], sentence: str) -> None:
    file = write_export(tmp_path, exports.classifier_of())
    assert sentence in check_mistake(run("init", file, "--models", tmp_path / "models", *options))
    assert not (tmp_path / "models").exists()


def test_external_data_is_copied(tmp_path: Path) -> None:
    file = write_export(tmp_path, scorer(external("weights.bin")))
    (tmp_path / "weights.bin").write_bytes(weights([0.5, 1, 2]).tobytes())
    options = stated()
    folder = initialised(tmp_path, file, *options, "--set", "labels=[a, b, c]")
    (tmp_path / "weights.bin").unlink()
    with load(folder) as loaded:
        answer = loaded.predict(flat(color=(255, 255, 255)), budget_ms=5000)
    np.testing.assert_allclose(answer.result.probabilities, softmax([0.5, 1, 2]), rtol=1e-5)
