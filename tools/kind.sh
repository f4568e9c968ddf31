#!/bin/sh
# The chart on a cluster of kind that is taken down again; `make test-kind` calls it. Needs docker, kind, kubectl and Go.
#   tools/kind.sh tests/cluster/test_modes.py     these tests of it
set -eu
cd "$(dirname "$0")/.."
name=dub5-test image=localhost/dub5:test
folder=$(mktemp -d)
trap 'kind delete cluster --name "$name"; rm -rf "$folder"' EXIT

tools/cluster/cluster build helm
helm=$(.venv/bin/python -c 'from tools.cluster.programs import program; print(program("helm"))')
docker build --tag "$image" .
kind create cluster --name "$name" --kubeconfig "$folder/kubeconfig" --wait 2m
kind load docker-image --name "$name" "$image"
export PATH="${helm%/*}:$PATH" KUBECONFIG="$folder/kubeconfig"
export DUB5_IMAGE="$image" REDIS_IMAGE=docker.io/library/redis:8-alpine
make --no-print-directory test-cluster CLUSTER_TESTS="$*"
