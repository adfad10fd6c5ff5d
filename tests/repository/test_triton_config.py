"""The key `backend` of tta.yaml for a model that a Triton server runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.serving import PATIENCE
from tests.support.toys import faulty_model
from tta_server.backends.triton import Target, Tls
from tta_server.errors import ConfigError
from tta_server.repository.config import read_config
from tta_server.repository.triton_config import TritonConfig

URL = "grpc://gpu:8001"


def read(folder: Path, **keys: Any) -> TritonConfig:
    path = faulty_model(folder / "toy") / "tta.yaml"
    config = {**yaml.safe_load(path.read_text("utf-8")), "backend": {"name": "triton", **keys}}
    path.write_text(yaml.safe_dump(config), "utf-8")
    backend = read_config(path).backend
    assert isinstance(backend, TritonConfig)
    return backend


def test_defaults(tmp_path: Path) -> None:
    target = read(tmp_path, url=URL, model="m").target(tmp_path)
    assert target == Target((URL,), "m", "", 4, (), Tls())
    assert target.device == URL


def test_all_keys(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text(name)
    tls = {"ca": "ca.pem", "cert": str(tmp_path / "cert.pem"), "key": "key.pem"}
    urls = ["grpcs://a:1", "grpcs://[::1]:65535"]
    keys = {"version": 3, "permits": 8, "views": "local", "headers": {"Authorization": "Bearer x"}, "tls": tls}
    target = read(tmp_path, url=urls, model="m", **keys).target(tmp_path)
    headers = (("authorization", "Bearer x"),)
    assert target == Target(tuple(urls), "m", "3", 8, headers, Tls(b"ca", b"cert", b"key"))
    assert target.device == "grpcs://a:1 grpcs://[::1]:65535"


def test_with_views_by_graphs_the_model_is_an_ensemble(tmp_path: Path) -> None:
    assert read(tmp_path, url=URL, model="m_tta", views="graph").target(tmp_path).is_ensemble


def test_secrets_are_in_no_representation(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("hidden")
    keys = {"headers": {"authorization": "hidden"}, "tls": {"cert": "key.pem", "key": "key.pem"}}
    config = read(tmp_path, url="grpcs://a:1", model="m", **keys)
    assert "hidden" not in f"{config!r} {config.target(tmp_path)!r}"


def test_without_such_a_model_grpc_is_not_imported() -> None:
    program = (
        "import sys, tta_server.repository.loader; sys.exit('grpc' in sys.modules or 'tritonclient' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False).returncode == 0


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"model": "m"}, "backend.url is missing"),
        ({"url": URL}, "backend.model is missing"),
        ({"url": [], "model": "m"}, "backend.url"),
        (
            {"url": "gpu:8001", "model": "m"},
            "'gpu:8001' is no address; it takes grpc://host:port, or grpcs://host:port",
        ),
        ({"url": "http://gpu:8000", "model": "m"}, "'http://gpu:8000' is no address"),
        ({"url": "grpc://gpu", "model": "m"}, "'grpc://gpu' is no address"),
        ({"url": "grpc://gpu:65536", "model": "m"}, "'grpc://gpu:65536' is no address"),
        ({"url": [URL, URL], "model": "m"}, "url has an address twice; give each once"),
        ({"url": URL, "model": "m", "permits": 0}, "backend.permits is 0; it should be a whole number of at least 1"),
        ({"url": URL, "model": "m", "version": True}, "version is true; it should be a whole number, or empty"),
        (
            {"url": URL, "model": "m", "version": "new"},
            "version is 'new'; it should be a whole number, or empty for the",
        ),
        ({"url": URL, "model": "m", "views": "there"}, "backend.views is 'there'; it should be 'local' or 'graph'"),
        ({"url": URL, "model": "m", "threads": 2}, "unknown key backend.threads; known: name, url, model, version"),
        (
            {"url": URL, "model": "m", "headers": {"a b": "c"}},
            "headers has 'a b', whose name or value gRPC does not send",
        ),
        ({"url": URL, "model": "m", "headers": {"grpc-x": "c"}}, "headers has 'grpc-x'"),
        ({"url": URL, "model": "m", "headers": {"x-bin": "c"}}, "headers has 'x-bin'"),
        ({"url": URL, "model": "m", "headers": {"x": "é"}}, "headers has 'x'"),
        ({"url": URL, "model": "m", "tls": {"ca": "ca.pem"}}, "tls needs addresses that begin with grpcs://"),
        (
            {"url": "grpcs://a:1", "model": "m", "tls": {"key": "k"}},
            "tls has one of cert and key; give both or neither",
        ),
    ],
)
def test_a_mistake_names_key_and_values(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, **keys)
    assert sentence in str(caught.value)
    assert "tta.yaml: " in str(caught.value)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    config = read(tmp_path, url="grpcs://a:1", model="m", tls={"ca": "none.pem"})
    with pytest.raises(ConfigError, match=r"backend\.tls\.ca: .*none\.pem can't be read: No such file"):
        config.target(tmp_path)
