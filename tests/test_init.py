"""The Python API: `load(...).predict` equals calling the model for one view, and takes the names of the query."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tta_server
from tests.support import pictures, references
from tests.support.references import MODELS
from tests.support.toys import faulty_model
from tta_server import LoadedModel, TTAError, load
from tta_server.errors import ConfigError, InvalidInput, NotReady, TooLarge, UnsupportedMedia
from tta_server.serving.cores import available_cores
from tta_server.serving.options import as_query, read_options
from tta_server.serving.plan import Options

DATA = Path(__file__).parents[2] / "shared" / "data"
ALL = {"budget_ms": 10_000, "min_views": "all"}


@pytest.fixture(scope="module")
def clothing() -> Iterator[LoadedModel]:
    with load(MODELS / "clothing") as model:
        yield model


@pytest.fixture(scope="module")
def nuclei() -> Iterator[LoadedModel]:
    with load(MODELS / "nuclei", slots=2) as model:
        yield model


def probabilities(model: LoadedModel, image: object, **options: object) -> np.ndarray:
    answer = model.predict(image, include=["probabilities"], **{**ALL, **options})  # type: ignore[arg-type]
    return np.array(answer.prediction["probabilities"], np.float32)


# ---- the plain view equals the model ----


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(160, 200), (300, 129), (128, 128), (64, 90), (501, 333)])
def test_one_view_equals_calling_the_model(clothing: LoadedModel, size: tuple[int, int], seed: int) -> None:
    data = pictures.png(*size, seed=seed)
    assert np.array_equal(probabilities(clothing, data, policy="plain"), references.clothing(pictures.opened(data)))


def test_two_views_are_the_mean_of_both(clothing: LoadedModel) -> None:
    data = pictures.jpeg(seed=5)
    image = pictures.opened(data)
    expected = (references.clothing(image) + references.clothing(image, mirrored=True)) / 2
    np.testing.assert_allclose(probabilities(clothing, data, policy="hflip"), expected, atol=1e-6)


def test_the_plain_mask_is_the_models(nuclei: LoadedModel) -> None:
    array = pictures.nuclei(96, 80)
    answer = nuclei.predict(array, policy="plain", budget_ms=10_000)
    assert answer.picture is not None
    assert np.array_equal(np.asarray(pictures.opened(answer.picture)), references.nuclei_mask(array))


@pytest.mark.timing
def test_sharing_batches_changes_no_answer(clothing: LoadedModel) -> None:
    images = [pictures.jpeg(seed=seed) for seed in range(8)]
    alone = [probabilities(clothing, image) for image in images]
    with ThreadPoolExecutor(8) as clients:
        together = list(clients.map(lambda image: probabilities(clothing, image), images * 4))
    for index, answer in enumerate(together):
        np.testing.assert_allclose(answer, alone[index % 8], atol=1e-5)


@pytest.mark.skipif(not (DATA / "clothing" / "test").is_dir(), reason="the clothing photos are not here")
def test_plain_on_real_photos_equals_calling_the_model(clothing: LoadedModel) -> None:
    photos = sorted((DATA / "clothing" / "test").glob("*/*.jpg"))[::9][:40]
    assert len(photos) == 40
    for photo in photos:
        top = clothing.predict(photo, policy="plain", budget_ms=10_000).prediction["top"][0]
        assert top["index"] == int(references.clothing(pictures.opened(photo.read_bytes())).argmax()), photo.name


# ---- images ----


def test_a_path_its_bytes_and_its_pixels_get_one_answer(clothing: LoadedModel, tmp_path: Path) -> None:
    array = pictures.pixels()
    path = tmp_path / "picture.png"
    path.write_bytes(pictures.encoded(array))
    answers = [probabilities(clothing, image) for image in (path, str(path), path.read_bytes(), array)]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-6)


def test_pixels_are_not_written_to(clothing: LoadedModel) -> None:
    array = pictures.pixels()
    before = array.copy()
    array.setflags(write=False)
    clothing.predict(array)
    assert np.array_equal(array, before)


def test_pixels_need_not_be_contiguous(clothing: LoadedModel) -> None:
    array = pictures.pixels(seed=2)
    whole = probabilities(clothing, np.ascontiguousarray(array[:, ::-1]), policy="plain")
    assert np.array_equal(probabilities(clothing, array[:, ::-1], policy="plain"), whole)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (b"", InvalidInput),
        (b"hello", UnsupportedMedia),
        (np.zeros((10, 10), np.uint8), InvalidInput),
        (np.zeros((10, 10, 4), np.uint8), InvalidInput),
        (np.zeros((0, 10, 3), np.uint8), InvalidInput),
        (np.zeros((10, 10, 3), np.float32), InvalidInput),
        (np.zeros((5001, 5000, 3), np.uint8), TooLarge),
        (pictures.png()[:200], InvalidInput),
    ],
)
def test_a_wrong_image_is_refused(clothing: LoadedModel, image: object, error: type[TTAError]) -> None:
    with pytest.raises(error):
        clothing.predict(image)  # type: ignore[arg-type]


def test_a_missing_file_is_the_systems_own_error(clothing: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        clothing.predict(tmp_path / "none.png")


# ---- options ----


def test_every_option_of_the_query_is_taken(clothing: LoadedModel) -> None:
    answer = clothing.predict(
        pictures.png(),
        budget_ms=5000,
        policy=["identity", "hflip", {"shift": [3, 0]}],
        max_views=2,
        min_views="all",
        merge="vote",
        stop="all",
        top_k=2,
        include=["views", "agreement", "probabilities"],
    )
    assert [view["name"] for view in answer.receipt.views] == ["plain", "hflip"]
    assert (answer.receipt.merge, answer.receipt.budget_ms, answer.receipt.planned) == ("vote", 5000, 2)
    assert answer.receipt.policy.name == "inline"
    assert len(answer.prediction["top"]) == 2
    assert {"label", "index", "probability"} <= set(answer.receipt.views[0])
    assert 0 < answer.prediction["agreement"] <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"budget": 100},
        {"budget_ms": 0},
        {"budget_ms": -1},
        {"budget_ms": float("nan")},
        {"budget_ms": float("inf")},
        {"policy": "nope"},
        {"policy": ["hflip"]},
        {"policy": []},
        {"policy": ["identity", "vflip"]},
        {"policy": ["identity", {"spin": 3}]},
        {"max_views": 0},
        {"min_views": 0},
        {"min_views": 9},
        {"min_views": "most"},
        {"merge": "median"},
        {"stop": "maybe"},
        {"include": ["everything"]},
        {"top_k": 0},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused_in_one_sentence(
    clothing: LoadedModel, options: dict[str, object]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        clothing.predict(pictures.png(), **options)
    assert "\n" not in str(caught.value)


def test_without_a_budget_the_longest_counts(tmp_path: Path) -> None:
    """As on the command line; `default_ms` is for clients that share a server."""
    folder = faulty_model(tmp_path / "moody")
    config = (folder / "tta.yaml").read_text()
    (folder / "tta.yaml").write_text(config.replace("default_ms: 200", "default_ms: 0.01"))
    image = np.full((8, 8, 3), 90, np.uint8)
    with load(folder, slots=1) as model:
        answers = [model.predict(image), model.submit(image).result(), model.predict(image, budget_ms=None)]
        assert [answer.receipt.budget_ms for answer in answers] == [10_000] * 3
        assert model.predict(image, budget_ms=500).receipt.budget_ms == 500


def test_a_budget_too_small_for_plain_names_the_least(clothing: LoadedModel) -> None:
    with pytest.raises(InvalidInput, match=r"budget is too small.* \d+ ms"):
        clothing.predict(pictures.png(), budget_ms=0.01)


def test_python_and_query_name_the_same_options() -> None:
    options = read_options(as_query({"policy": ["identity", "hflip"], "include": ["views", "agreement"], "top_k": 3}))
    assert json.loads(options.policy or "") == ["identity", "hflip"]
    assert {name.strip() for name in options.include} == {"views", "agreement"}
    assert read_options({}) == Options()


def test_include_is_read_as_the_query_reads_it() -> None:
    assert read_options({"include": "views, agreement"}).include == frozenset(["views", "agreement"])


@pytest.mark.parametrize("merge", ["mean_probabilities", "mean_logits", "geometric_mean", "max", "vote"])
def test_every_merge_gives_a_distribution(clothing: LoadedModel, merge: str) -> None:
    p = probabilities(clothing, pictures.jpeg(seed=3), merge=merge)
    assert p.shape == (10,)
    assert p.min() >= 0
    assert p.sum() == pytest.approx(1, abs=1e-5)


# ---- answers ----


def test_an_answer_is_json_with_every_part_in_its_place(clothing: LoadedModel) -> None:
    found = json.loads(json.dumps(clothing.predict(pictures.jpeg(), **ALL).to_dict()))
    assert list(found) == ["model", "version", "task", "prediction", "receipt"]
    assert (found["model"], found["version"], found["task"]) == ("clothing", "1", "classification")
    receipt = found["receipt"]
    assert receipt["stop_reason"] == "all_views"
    assert receipt["planned"] == len(receipt["views"]) == 8
    assert receipt["views"][0] == {"name": "plain", "weight": 1.0}
    assert set(receipt["stages_ms"]) == {"decode", "prepare", "queue", "infer", "merge"}
    assert all(ms >= 0 for ms in receipt["stages_ms"].values())
    assert receipt["elapsed_ms"] > 0
    assert receipt["policy"]["digest"].startswith("sha256:")
    top = found["prediction"]["top"]
    assert [entry["probability"] for entry in top] == sorted((e["probability"] for e in top), reverse=True)
    assert {entry["label"] for entry in top} <= set(references.CLOTHING)


@pytest.mark.timing
def test_submit_answers_many_at_a_time(clothing: LoadedModel) -> None:
    futures = [clothing.submit(pictures.jpeg(seed=seed), budget_ms=10_000) for seed in range(12)]
    assert [len(future.result().prediction["top"]) for future in futures] == [5] * 12


def test_masks_come_as_a_picture_of_the_images_own_size(nuclei: LoadedModel) -> None:
    answer = nuclei.predict(pictures.nuclei(90, 70), budget_ms=60_000, include=["agreement"])
    assert answer.picture is not None
    mask = pictures.opened(answer.picture)
    assert mask.size == (90, 70)
    assert (answer.prediction["width"], answer.prediction["height"]) == (90, 70)
    assert sum(answer.prediction["area"].values()) == 90 * 70
    assert 0 < answer.prediction["mean_agreement"] <= 1
    counts = np.bincount(np.asarray(mask).ravel(), minlength=3)
    assert answer.prediction["area"] == dict(zip(["background", "nucleus", "border"], counts.tolist(), strict=True))


# ---- lifetime ----


def test_a_closed_model_refuses() -> None:
    model = load(MODELS / "cifar10", slots=1)
    model.predict(pictures.png(32, 32))
    model.close()
    with pytest.raises(NotReady):
        model.predict(pictures.png(32, 32))


@pytest.mark.timing
def test_closing_answers_admitted_images() -> None:
    with load(MODELS / "cifar10", slots=1) as model:
        futures = [model.submit(pictures.png(32, 32, seed), budget_ms=10_000) for seed in range(10)]
    assert all(future.result(timeout=0).prediction["top"] for future in futures)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such model folder"):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"max_pixels": 0}, "^max_pixels takes a whole number of at least 1, not 0$"),
        ({"max_bytes": 10}, "^max_bytes takes a whole number of at least 1000, not 10"),
        ({"max_waiting_mb": 0}, "^max_waiting_mb takes"),
        ({"slots": 0}, "^slots takes a whole number from 1 to 1024"),
    ],
)
def test_a_bound_that_makes_no_sense_is_refused_at_load(bounds: dict[str, int], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(MODELS / "clothing", **bounds)  # type: ignore[arg-type]


def test_a_loaded_model_has_the_bounds_that_it_is_given() -> None:
    data, array = pictures.png(64, 48), np.zeros((48, 64, 3), np.uint8)
    with load(MODELS / "clothing", slots=1, max_pixels=64 * 48 - 1) as model:
        for image in (data, array):
            with pytest.raises(TooLarge, match=r"the limit is 3071 .*--max-pixels"):
                model.predict(image)
    with load(MODELS / "clothing", slots=1, max_bytes=1000) as model, pytest.raises(TooLarge, match="--max-bytes"):
        model.predict(data)
    with load(MODELS / "clothing", slots=1, max_pixels=26_000_000) as model:
        assert len(model.predict(np.zeros((5100, 5000, 3), np.uint8), **ALL).receipt.views) == 8


def test_the_package_exports_its_public_names() -> None:
    assert set(tta_server.__all__) == {
        "Answer",
        "LoadedModel",
        "Receipt",
        "Scored",
        "Scorer",
        "TTAError",
        "__version__",
        "load",
        "score",
    }
    assert available_cores() >= 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("merge", 5),
        ("policy", 5),
        ("top_k", "many"),
        ("budget_ms", "soon"),
        ("stop", ["all"]),
        ("min_views", 0),
        ("view", 1),
    ],
)
def test_an_option_of_the_wrong_kind_is_named(clothing: LoadedModel, option: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=option):
        clothing.predict(pictures.jpeg(), **{option: value})


def test_a_view_of_the_border_alone_has_no_agreement() -> None:
    """Content shifted out of a 20x20 image: its prediction is of the border alone."""
    with load(MODELS / "nuclei", slots=1) as nuclei:
        image = np.full((20, 20, 3), 90, np.uint8)
        answer = nuclei.predict(image, policy=["identity", {"shift": [30, 0]}], include=["views"], min_views="all")
    assert [view["agreement"] for view in answer.to_dict()["receipt"]["views"]] == [1.0, None]
    json.dumps(answer.to_dict(), allow_nan=False)
