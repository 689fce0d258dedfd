#!/bin/sh
# Fails if client/unsee/v1 differs from what protos/ gives.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
./scripts/write-stubs.sh "$fresh"
touch "$fresh/unsee/v1/__init__.py"
diff --recursive --exclude=__pycache__ client/unsee/v1 "$fresh/unsee/v1" ||
    { echo "client/unsee/v1 is not what protos/ gives; run make protos" >&2; exit 1; }
