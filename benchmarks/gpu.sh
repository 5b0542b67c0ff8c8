#!/usr/bin/env bash
# Is the pixel search right on this machine's GPU, and how fast? Under 8 minutes, with what Python packages there are.
#
#     benchmarks/gpu.sh [--smoke] [OPTIONS of gpu/search.py]
#
# Results go to $OUT, or benchmarks/results; the table comes last. Wheels in .whl/ are installed beside, not into, Python.
# Where there is no git, COMMIT says what was run. Ends with a status other than 0 if anything of ours was not right.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$([ -x "$root/.venv/bin/python" ] && echo "$root/.venv/bin/python" || echo python3)}
results=${OUT:-$root/benchmarks/results}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
cd "$root" || exit 2
touch "$site/started"

if ls .whl/*.whl >/dev/null 2>&1; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
if ! "$python" -c 'from importlib.util import find_spec; exit(not find_spec("spade_index.kernels"))' 2>/dev/null; then
    # The packages as setup.py maps them, without installing anything.
    mkdir "$site/spade_index"
    ln -s "$root"/spade_index/* "$root/kernels" "$root/benchmarks" "$site/spade_index/"
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
    if ! "$python" -c 'import spade_index'; then
        rm "$site/spade_index/__init__.py" && : >"$site/spade_index/__init__.py"
    fi
fi

"$python" -m spade_index.benchmarks.gpu.search --results "$results" "$@"
status=$?

tests=(tests/kernels/test_fused.py tests/kernels/test_triton_backend.py)
if [[ " $* " != *" --smoke "* ]] && [ -f "${tests[0]}" ] && "$python" -c 'import pytest, hypothesis' 2>/dev/null; then
    # Without the conftest.py above, which needs FAISS.
    timeout 40 "$python" -m pytest -x --confcutdir tests/kernels -p no:cacheprovider "${tests[@]}" \
        >"$results/pytest.log" 2>&1
    echo "pytest ended with $?: $(tail -n 1 "$results/pytest.log")"
fi

written=$(find "$results" -maxdepth 1 -name '*.json' -newer "$site/started" | head -n 1)
[ -n "$written" ] && "$python" -m spade_index.benchmarks.gpu.search --show "$written"
exit $status
