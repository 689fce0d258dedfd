#!/bin/sh
# Writes the stubs of protos/ into the folder that is given.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv-protos/bin:$PATH" python -m grpc_tools.protoc -I protos \
    --python_out="$1" --grpc_python_out="$1" --mypy_out=quiet:"$1" --mypy_grpc_out=quiet:"$1" protos/unsee/v1/*.proto
