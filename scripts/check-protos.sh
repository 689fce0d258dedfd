#!/bin/sh
# Fails if protos/ is not well-formed, breaks callers of what was published, or differs from the stubs in client/unsee/v1.
set -eu
cd "$(dirname "$0")/.."
buf=.venv/bin/buf
"$buf" lint protos
"$buf" format --diff --exit-code protos

# What was published: origin's main, or the last commit where that is this very commit or there is no origin.
base=$(git rev-parse --quiet --verify origin/main || true)
if [ -z "$base" ] || [ "$base" = "$(git rev-parse HEAD)" ]; then
    base=$(git rev-parse --quiet --verify HEAD^ || true)
fi
if [ -n "$base" ]; then
    "$buf" breaking protos --against ".git#ref=$base,subdir=protos"
else
    echo "protos: no earlier commit here to compare with"
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
./scripts/write-stubs.sh "$fresh"
touch "$fresh/unsee/v1/__init__.py"
diff --recursive --exclude=__pycache__ client/unsee/v1 "$fresh/unsee/v1" ||
    { echo "client/unsee/v1 is not what protos/ gives; run make protos" >&2; exit 1; }
