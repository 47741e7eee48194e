#!/usr/bin/env bash
# What a machine with a card is asked: the GPU tests, then the benchmarks, in pieces of minutes.
#
#   benchmarks/gpu_suite.sh [MINUTES]
#
# A piece ends after MINUTES (9); call it again until it says that it is finished. Tests that have
# passed for this commit and parts that are measured are not repeated.
#
# Exit code: 0 finished, 3 call it again, 1 a test or a part failed.
#
# Variables: OUTPUT       results (benchmarks-gpu.json)
#            PARTS        parts of benchmarks/run.py, in this order (below)
#            MEDSSL_DATA  folder of the public datasets; without it, some parts use synthetic scans
#            DEVICE (cuda), PYTHON (python), QUICK (1: small sizes, to try the script)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
limit=$(awk -v m="${1:-9}" 'BEGIN { printf "%d", 60 * m }')
python=${PYTHON:-python} output=${OUTPUT:-benchmarks-gpu.json} device=${DEVICE:-cuda}
read -r -a parts <<<"${PARTS:-literature_la literature_acdc la_inference data_path growth \
    resident_memory rail_step scaling time_to_dice metrics cache_build}"
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

if [ "$device" = cuda ] &&
    ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch sees no CUDA card here; DEVICE=cpu QUICK=1 $0 tries the script" >&2
    exit 2
fi

commit=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
passed=$output.tests-passed
if [ "$(cat "$passed" 2>/dev/null || true)" = "$commit" ]; then
    echo "GPU tests: passed before, of this commit"
else
    code=0
    timeout "$limit" "$python" -m pytest -q -n 0 -m gpu "$root/tests" || code=$?
    if [ "$code" -eq 124 ]; then
        echo "not finished: the GPU tests need more time, call it with more minutes"
        exit 3
    fi
    [ "$code" -eq 0 ] || exit 1
    [ "$device" != cuda ] || echo "$commit" >"$passed"
fi

left=$((limit - SECONDS))
if [ "$left" -lt 10 ]; then
    echo "not finished: call it again to go on"
    exit 3
fi
quick=()
[ -z "${QUICK:-}" ] || quick=(--quick)
"$python" "$root/benchmarks/run.py" "${parts[@]}" "${quick[@]}" --device "$device" \
    --output "$output" --minutes "$(awk -v s="$left" 'BEGIN { print s / 60 }')"
