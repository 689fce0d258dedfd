# syntax=docker/dockerfile:1
# The server, as a user without rights, on a root file system that may be read-only.
#
#   docker build -t unsee .                                  on the CPU, with models/emoji inside
#   docker build -t unsee:cuda --build-arg DEVICE=cuda .     on an NVIDIA GPU
#   docker build -t unsee:bare --build-arg MODEL=mounted .   without a model: mount one at /model, or set UNSEE_MODEL
#
#   docker run --read-only --tmpfs /tmp -v unsee-store:/store -p 127.0.0.1:50051:50051 unsee --insecure-no-auth
ARG PYTHON_VERSION=3.11
ARG DEVICE=cpu
ARG MODEL=baked

FROM python:${PYTHON_VERSION}-slim-bookworm AS python
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

FROM python AS base
RUN python -m venv /opt/unsee
ENV PATH=/opt/unsee/bin:$PATH
WORKDIR /src
COPY constraints.txt ./

FROM base AS torch-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" torch

# The package index has the build for CUDA.
FROM base AS torch-cuda
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt torch

# hadolint ignore=DL3006
FROM torch-${DEVICE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY core core
COPY server server
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[server]'

FROM scratch AS model-baked
ARG MODEL_FOLDER=models/emoji
COPY ${MODEL_FOLDER} /model

FROM scratch AS model-mounted
WORKDIR /model

# hadolint ignore=DL3006
FROM model-${MODEL} AS model

FROM python AS server
LABEL org.opencontainers.image.title="unsee" \
      org.opencontainers.image.description="Makes Stable Diffusion 2 unsee a concept, over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 unsee \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin unsee \
    && install --directory --owner=10001 --group=10001 /store /cache
COPY --from=build /opt/unsee /opt/unsee
COPY --from=model /model /model
ENV PATH=/opt/unsee/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/cache/huggingface \
    UNSEE_MODEL=/model \
    UNSEE_STORE=/store \
    UNSEE_CACHE=/cache/unsee \
    UNSEE_HOST=0.0.0.0 \
    UNSEE_PORT=50051 \
    UNSEE_HEALTH_PORT=50052 \
    UNSEE_METRICS_PORT=9090
USER 10001:10001
WORKDIR /store
EXPOSE 50051 50052 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s CMD ["python", "-c", "import os, grpc; from grpc_health.v1 import health_pb2, health_pb2_grpc; channel = grpc.insecure_channel('127.0.0.1:' + os.environ['UNSEE_HEALTH_PORT']); answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=4); raise SystemExit(answer.status != health_pb2.HealthCheckResponse.SERVING)"]
ENTRYPOINT ["unsee-server"]
