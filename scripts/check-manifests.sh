#!/bin/sh
# Renders every overlay of deploy/ and validates it against the schemas of several Kubernetes versions.
set -eu
cd "$(dirname "$0")/.."
rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
for folder in deploy/base deploy/overlays/*; do
    .venv/bin/kubectl kustomize "$folder" >"$rendered"
    for version in 1.30 1.33 1.37; do
        .venv/bin/kubernetes-validate --strict --quiet --kubernetes-version "$version" "$rendered"
    done
done
