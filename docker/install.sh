#!/bin/sh
# usage: install.sh LOCK...    the files requirements/LOCK.txt and the wheel in /dist, into /opt/tta-server
set -eu
venv=/opt/tta-server
pip() { python -m pip --python "$venv/bin/python" "$@"; }

python -m venv --without-pip "$venv"
for lock in "$@"; do
    # Both packages of ONNX Runtime use one folder.
    if [ "$lock" = gpu ]; then pip uninstall --yes onnxruntime; fi
    pip install --require-hashes --requirement "requirements/$lock.txt"
done
pip install --no-deps --no-index --find-links /dist tta-server
cyclonedx-py environment --output-reproducible --output-file "$venv/sbom.cdx.json" "$venv/bin/python"
# Not needed to run: the packages' own tests, types, headers and models of faces.
find "$venv" -depth \( -type d \( -name tests -o -name include \) -o -path '*/cv2/data/*.xml' -o -name '*.pyi' \) -exec rm -rf {} +
# Symbols for debuggers: 40 MB. Files without them stay as their authors linked them.
find "$venv" -name '*.so' | while read -r file; do
    if readelf --section-headers "$file" | grep -q '\.debug_info'; then strip --strip-debug "$file"; fi
done
# The root file system is read-only at run time, and a health check starts Python every 10 seconds.
python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$venv/lib"
