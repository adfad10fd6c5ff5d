"""A certificate for tests of TLS."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.serving import PATIENCE


def make_certificate(certificate: Path, key: Path) -> tuple[Path, Path]:
    """Writes a self-signed certificate of 127.0.0.1 and localhost, and its key, as PEM; returns both paths."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=PATIENCE, env={**os.environ, "OPENSSL_CONF": ""})
    return certificate, key
