# syntax=docker/dockerfile:1.7
# The server, as one image; docs/operations.md says how to run it.
#
#   docker build -t unsee .                                      CPU, a model is mounted at /models
#   docker build -t unsee --build-arg MODEL=baked .              CPU, with models/emoji inside
#   docker build -t unsee --build-arg DEVICE=cuda .              CUDA
ARG PYTHON=3.11
ARG MODEL=mounted

FROM python:${PYTHON}-slim-bookworm AS build
ARG DEVICE=cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN python -m venv /opt/unsee
ENV PATH=/opt/unsee/bin:$PATH
WORKDIR /src
# torch by itself first: the largest layer by far, and only constraints.txt changes it. PyPI's own wheels bring CUDA.
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    case "${DEVICE}" in \
        cpu)  index=https://download.pytorch.org/whl/cpu ;; \
        cuda) index=https://pypi.org/simple ;; \
        *)    echo "DEVICE: got '${DEVICE}', allowed cpu or cuda" >&2; exit 2 ;; \
    esac; \
    pip install --constraint constraints.txt --index-url "${index}" torch
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY client client
COPY core core
COPY server server
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[server]'

FROM python:${PYTHON}-slim-bookworm AS mounted
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="unsee" \
      org.opencontainers.image.description="Makes Stable Diffusion 2 unsee a concept, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 unsee \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unsee \
    && install --directory --owner=10001 --group=10001 /data /models
COPY --from=build /opt/unsee /opt/unsee
COPY --chmod=0755 deploy/healthcheck.py /usr/local/bin/healthcheck
# Nothing is written but /data and /tmp, so the root may be read-only.
ENV PATH=/opt/unsee/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/data/huggingface \
    UNSEE_MODEL=/models/emoji \
    UNSEE_STORE=/data/adapters \
    UNSEE_HOST=0.0.0.0 \
    UNSEE_PORT=50051 \
    UNSEE_HEALTH_PORT=8081 \
    UNSEE_METRICS_PORT=9464
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 50051 8081 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 CMD ["healthcheck"]
ENTRYPOINT ["unsee-server"]

FROM mounted AS baked
COPY models/emoji /models/emoji

# hadolint ignore=DL3006
FROM ${MODEL}
