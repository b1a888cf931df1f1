#!/bin/sh
# Builds the R package and checks it: sh r/check.sh [--without-python]
#
# As CRAN does, without its network. Ends with a status other than 0 where R CMD check has an error, a
# warning, or a note other than that the package is new there, or where a test fails or warns. The Python is
# BERTONNX_TEST_PYTHON, else RETICULATE_PYTHON, else python3, and needs the package with its extra "export";
# --without-python shows that the check passes on a machine that has none. Skipped tests are printed with
# their reasons.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
# Or PyTorch would leave a folder in R's temporary one, which is a note.
export TORCHINDUCTOR_CACHE_DIR="$work/inductor"
export TZ="${TZ:-UTC}" LC_ALL="${LC_ALL:-C.UTF-8}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# What is suggested may be missing; what uses it says so. No check may wait for a network.
export _R_CHECK_FORCE_SUGGESTS_=false _R_CHECK_CRAN_INCOMING_REMOTE_=false _R_CHECK_SYSTEM_CLOCK_=false
# Other tests run beside this: how long an example took says nothing.
export _R_CHECK_EXAMPLE_TIMING_THRESHOLD_=600
# It is asked for by what makes PDFs smaller, of which there are none.
command -v qpdf >/dev/null || export _R_CHECK_DOC_SIZES_=false
# Tests run as CRAN runs none: those with files, processes and Python of their own, too.
export NOT_CRAN=true

if [ "${1:-}" = "--without-python" ]; then
  unset BERTONNX_TEST_MODELS BERTONNX_TEST_PYTHON || true
  # A Python that is not there: whatever else this machine has is not found.
  export RETICULATE_PYTHON="$work/no-python"
else
  python=${BERTONNX_TEST_PYTHON:-${RETICULATE_PYTHON:-python3}}
  RETICULATE_PYTHON=$(command -v "$python")
  export RETICULATE_PYTHON
  "$RETICULATE_PYTHON" -c "import bertonnx, onnxruntime" || {
    echo "error: $RETICULATE_PYTHON has no bertonnx; set BERTONNX_TEST_PYTHON, or use --without-python" >&2
    exit 1
  }
  if [ -z "${BERTONNX_TEST_MODELS:-}" ]; then
    "$RETICULATE_PYTHON" "$here/tests/testthat/python/make_models.py" "$work/models" >"$work/models.log" 2>&1 || {
      cat "$work/models.log" >&2
      exit 1
    }
    export BERTONNX_TEST_MODELS="$work/models"
  fi
fi

# In CRAN's place, a mirror that holds nothing: what is asked of it is answered at once, and alike everywhere.
mkdir -p "$work/cran/src/contrib" "$work/cran/web/packages"
: >"$work/cran/src/contrib/PACKAGES"
Rscript -e 'saveRDS(data.frame(Package = character(), Maintainer = character()), commandArgs(TRUE))' \
  "$work/cran/web/packages/packages.rds"
printf 'menu_name\tURL\tdefault\tsource\twin.binary\tmac.binary\nCRAN\tCRAN\tfile://%s\tTRUE\tTRUE\tFALSE\tFALSE\n' \
  "$work/cran" >"$work/repositories"
export R_CRAN_WEB="file://$work/cran" R_CRAN_SRC="file://$work/cran" R_REPOSITORIES="$work/repositories"

# Most vignettes are rendered beforehand, and R CMD build runs the rest, with an export; once is enough.
build= check=--no-vignettes
if ! command -v pandoc >/dev/null; then
  echo "note: no pandoc here, so the vignettes are left out; on Debian: apt-get install pandoc"
  build=--no-build-vignettes check=--ignore-vignettes
fi
cd "$work"
R CMD build $build "$here" >build.log 2>&1 || { cat build.log >&2; exit 1; }
# What R CMD INSTALL of this folder brings.
tar -xzf bertonnx_*.tar.gz bertonnx/inst/doc 2>/dev/null || true
for vignette in bertonnx/inst/doc/*.Rmd; do
  [ -f "$vignette" ] || continue
  cmp -s "$vignette" "$here/inst/doc/$(basename "$vignette")" || {
    echo "error: $(basename "$vignette") differs from that in r/inst/doc; type: sh r/vignettes/prerender-install.sh" >&2
    exit 1
  }
done
status=0
R CMD check --as-cran --no-manual $check bertonnx_*.tar.gz || status=$?

# What went wrong comes last, for whoever keeps only the end.
if [ $status -ne 0 ] && [ -f bertonnx.Rcheck/00install.out ]; then
  cat bertonnx.Rcheck/00install.out >&2
fi
results=bertonnx.Rcheck/tests
echo "--- tests ---"
cat $results/testthat.Rout 2>/dev/null | sed -n '/^> test_check/,$p' || true
if [ -f $results/testthat.Rout.fail ]; then
  cat $results/testthat.Rout.fail
fi
# What follows "NOTE" or "WARNING" up to the next check, without what says that the package is new, or that a
# package is not here that is only suggested.
notes=$(sed -n '/\.\.\. \(.*[sm]\] \)\?\(NOTE\|WARNING\)$/,/^\* /p; /^ WARNING$/p' bertonnx.Rcheck/00check.log | grep -v \
  -e '^Maintainer: ' -e '^New submission$' -e '^$' -e '^\* checking CRAN incoming feasibility' -e '^\* checking.* OK$' \
  -e '^\* checking package dependencies ' -e '^Packages\? suggested but not available for checking: ' || true)
if [ $status -eq 0 ] && [ -n "$notes" ]; then
  printf 'error: R CMD check has warnings or notes:\n%s\n' "$notes" >&2
  status=1
fi
if [ $status -eq 0 ] && ! grep -q '| WARN 0 |' $results/testthat.Rout; then
  echo "error: tests warn" >&2
  status=1
fi
exit $status
