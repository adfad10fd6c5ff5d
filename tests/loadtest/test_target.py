"""The server of a load test: URL, key and certificate; what is no such thing is named."""

import ssl
from pathlib import Path

import pytest

from loadtest.target import Target, read_key


def test_host_and_port_of_a_url() -> None:
    assert Target("http://127.0.0.1:8000").address == ("127.0.0.1", 8000)
    assert Target("https://tta.example.org").address == ("tta.example.org", 443)
    assert Target("http://[::1]/").address == ("::1", 80)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "grpc://host:1", "http://", "https://host/prefix", "http://host?a=1"]
)
def test_what_is_no_url_of_a_server_is_named(url: str) -> None:
    with pytest.raises(SystemExit, match=r"it must be like http://127\.0\.0\.1:8000"):
        _ = Target(url).address


def test_only_https_has_tls() -> None:
    assert Target("http://host").tls is None
    found = Target("https://host").tls
    assert found
    assert found.verify_mode == ssl.CERT_REQUIRED


def test_headers_name_the_host_and_the_key() -> None:
    assert Target("http://host:1").headers == {"Host": "host:1"}
    assert Target("https://host", "secret").headers == {"Host": "host", "Authorization": "Bearer secret"}


def test_a_certificate_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--cacert .*none\.pem: No such file"):
        _ = Target("https://host", cacert=tmp_path / "none.pem").tls
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(SystemExit, match=r"--cacert .*text\.pem: .*PEM"):
        _ = Target("https://host", cacert=tmp_path / "text.pem").tls


def test_the_first_key_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# operators\n\nfirst # of alice\nsecond\n")
    assert read_key(path) == "first"
    path.write_text("# none\n")
    with pytest.raises(SystemExit, match="holds no key; it has one a line"):
        read_key(path)
    with pytest.raises(SystemExit, match="can't be read"):
        read_key(tmp_path / "none")


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(SystemExit, match=r"no tta-server answers at http://127\.0\.0\.1:1"):
        Target("http://127.0.0.1:1").max_budget_ms("clothing")
