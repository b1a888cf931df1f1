#!/bin/sh
# Builds the vignettes into inst/doc and build, from where R CMD INSTALL of this folder takes them; R CMD build
# would, for the package that it makes, but not here: sh r/vignettes/prerender-install.sh
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
cd "$work"
R CMD build "$here" >build.log 2>&1 || { cat build.log >&2; exit 1; }
tar -xzf bertonnx_*.tar.gz
rm -rf "$here/inst/doc" "$here/build"
mkdir -p "$here/build"
cp -R bertonnx/inst/doc "$here/inst/doc"
cp bertonnx/build/vignette.rds "$here/build/vignette.rds"
