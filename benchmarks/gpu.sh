#!/usr/bin/env bash
# Check the pixel search on this machine's GPU, and time it: under 8 minutes, with the Python packages that are there.
#
#     gpu.sh [--smoke] [OPTIONS of spade_index.benchmarks.gpu.search]
#
# Works in a checkout (benchmarks/gpu.sh) and where spade_index is installed (spade_index/benchmarks/gpu.sh). FAISS is
# not needed. Results go to $OUT, or ./benchmarks/results; the table comes last. $PYTHON is the interpreter; wheels in
# .whl/ are installed beside it, for this run: those of flashlib and flash-kmeans (with tqdm) make them peers. Where
# there is no git, $COMMIT says which commit runs.
# The exit status is not 0 if a result of ours is wrong.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$(dirname "$here") # the checkout, or the installed package spade_index
path=$root              # the folder that holds the package spade_index
[ -f "$root/spade_index/__init__.py" ] || path=$(dirname "$root")
python=${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python3)}
results=${OUT:-benchmarks/results}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
touch "$site/started"
if compgen -G "$root/.whl/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$root"/.whl/*.whl
fi
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONPATH="$path:$site${PYTHONPATH:+:$PYTHONPATH}"

"$python" -m spade_index.benchmarks.gpu.search --results "$results" "$@"
status=$?

written=$(find "$results" -maxdepth 1 -name '*.json' -newer "$site/started" | head -n 1)
[ -n "$written" ] && "$python" -m spade_index.benchmarks.gpu.search --show "$written"
exit $status
