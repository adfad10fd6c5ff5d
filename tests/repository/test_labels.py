"""`labels`: a list of texts, or a text file beside tta.yaml with one name a line."""

import pytest
import yaml

from tests.support.configs import CLASSIFICATION, changed
from tests.support.onnx_models import classifier, write_model
from tests.support.wording import check_sentence
from tta_server.errors import ConfigError
from tta_server.repository.loader import load_model


@pytest.fixture
def folder(tmp_path):
    """A classifier of three classes whose labels are in names.txt, which does not exist yet."""
    return write_model(tmp_path / "tiny", classifier(), changed(CLASSIFICATION, labels="names.txt"))


def sentence(folder):
    """The sentence with which the folder is refused, after the name of its file."""
    with pytest.raises(ConfigError) as caught:
        load_model(folder)
    return check_sentence(str(caught.value).removeprefix(f"{folder / 'tta.yaml'}: "))


def written(tmp_path, labels):
    """A classifier whose labels are this text in tta.yaml."""
    rest = yaml.safe_dump(changed(CLASSIFICATION, labels=None))
    return write_model(tmp_path / "tiny", classifier(), f"labels: {labels}\n{rest}")


@pytest.mark.parametrize(
    "content",
    [
        b"red\ngreen\nblue",
        b"red\ngreen\nblue\n",
        b"red\ngreen\nblue\n\n",
        b"red\r\ngreen\r\nblue\r\n",
        b"\xef\xbb\xbfred \n green\nblue\n",
    ],
)
def test_a_file_has_one_name_a_line(folder, content):
    (folder / "names.txt").write_bytes(content)
    model = load_model(folder)
    assert model.config.labels == ("red", "green", "blue")
    assert model.task.labels == ("red", "green", "blue")


def test_names_of_a_file_are_text_whatever_yaml_would_make_of_them(folder):
    (folder / "names.txt").write_text("no\n3\nnull: größer\n", "utf-8")
    assert load_model(folder).config.labels == ("no", "3", "null: größer")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "labels is 'names.txt', which is empty; it should have one name a line"),
        (b"\n\n", "labels is 'names.txt', which is empty; it should have one name a line"),
        (b"red\n\nblue\n", "labels is 'names.txt', whose line 2 is blank; it should have one name a line"),
        (b"red\ngr\xfcn\nblue", "labels is 'names.txt', which is not text in UTF-8; save it as such"),
        (b"a\nb\na", "labels has 'a' more than once (lines 1 and 3 of names.txt); labels must be unique"),
        (b"a\nb\n", "classification with 2 labels needs an output scores of shape [N, 2]; the model gives [any, 3]"),
    ],
)
def test_a_file_that_has_no_names_is_refused(folder, content, expected):
    (folder / "names.txt").write_bytes(content)
    assert sentence(folder) == expected


def test_a_missing_file_is_refused(folder):
    assert sentence(folder) == (
        "labels is 'names.txt', and there is no such file beside tta.yaml; it should be a list of names, or a text "
        "file with one name a line"
    )


@pytest.mark.parametrize("name", ["../names.txt", "/etc/hostname", "..", ".", "''", "1/names.txt", '"a\\0b"'])
def test_a_file_elsewhere_is_refused(tmp_path, name):
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n")
    found = sentence(written(tmp_path, name))
    assert found.endswith("; it should be a list of names, or the name of a text file beside tta.yaml")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("[no, yes, c]", 'labels[0] is the boolean false: YAML reads no, yes, on, off so; put it in quotes: "no"'),
        ("[a, On, c]", 'labels[1] is the boolean true: YAML reads no, yes, on, off so; put it in quotes: "On"'),
        ("[a, b, 007]", 'labels[2] is the number 7; put it in quotes: "007"'),
        ("[a, b, .5]", 'labels[2] is the number 0.5; put it in quotes: ".5"'),
        ("[a, 2024-01-31, c]", 'labels[1] is a date; put it in quotes: "2024-01-31"'),
        ("[a, null, c]", 'labels[1] is null: YAML reads null, ~ and an empty entry so; put it in quotes: "null"'),
        ("\n- a\n-\n- c", 'labels[1] is null: YAML reads null, ~ and an empty entry so; put it in quotes: "null"'),
        ("[a, b: c, d]", 'labels[1] is {"b": "c"}; it should be text; put it in quotes'),
        ("[a, [b], c]", 'labels[1] is ["b"]; it should be text; put it in quotes'),
        (
            "{0: a, 1: b}",
            'labels is {"0": "a", "1": "b"}; it should be a list of names, or a text file with one name a line',
        ),
        ("3", "labels is 3; it should be a list of names, or a text file with one name a line"),
    ],
)
def test_an_entry_that_is_no_text_is_refused(tmp_path, labels, expected):
    assert sentence(written(tmp_path, labels)) == expected


def test_texts_in_quotes_are_labels(tmp_path):
    assert load_model(written(tmp_path, '["no", "yes", "3"]')).config.labels == ("no", "yes", "3")


def test_repeated_labels_are_named_with_their_places(tmp_path):
    assert sentence(written(tmp_path, "[crane, b, crane, b, crane]")) == (
        "labels has 'crane' more than once (labels[0] and labels[2]), 'b' more than once (labels[1] and labels[3]); "
        "labels must be unique"
    )


def test_of_many_repeated_labels_three_are_named(tmp_path):
    found = sentence(written(tmp_path, "[a, b, c, d, e, a, b, c, d, e]"))
    assert found.endswith("'c' more than once (labels[2] and labels[7]), and 2 others; labels must be unique")
