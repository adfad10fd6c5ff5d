# The server in a container, without models. Targets: cpu (the default), demo, gpu, score. docs/container.md explains
# them. Give a base by digest for builds that can be repeated: --build-arg BASE=python:3.12-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Any version of `strip` will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/ requirements/
RUN python -m pip install --require-hashes --requirement requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY tta_server/ tta_server/
ARG REVISION=""
RUN echo "${REVISION}" > tta_server/_commit \
    && python -m pip wheel --no-deps --no-build-isolation --wheel-dir /dist .
COPY docker/install.sh docker/install.sh

FROM build AS build-cpu
RUN docker/install.sh run otel

FROM build AS build-gpu
RUN docker/install.sh compile otel gpu

FROM build AS build-score
RUN docker/install.sh ray

FROM ${BASE} AS base
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tta \
    && mkdir /models \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash -x 'site-packages|idlelib|lib2to3|ensurepip|/test' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/tta-server/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    TTA_HOST=0.0.0.0 TTA_MODELS=/models
USER 10001:10001
ARG VERSION=""
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="tta-server" \
    org.opencontainers.image.description="Test-time augmentation for vision models, as a server" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.source="${SOURCE}"

FROM base AS score
COPY --from=build-score /opt/tta-server /opt/tta-server
ENTRYPOINT ["tta-server", "score"]
CMD ["--help"]

FROM base AS serve
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["tta-server", "ping"]
ENTRYPOINT ["tta-server"]
CMD ["serve"]

FROM serve AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/tta-server /opt/tta-server

FROM serve AS demo
COPY --from=build-cpu /opt/tta-server /opt/tta-server
COPY models/ /models/

FROM serve AS cpu
COPY --from=build-cpu /opt/tta-server /opt/tta-server
