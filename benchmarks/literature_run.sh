#!/usr/bin/env bash
# Train at full literature scale in pieces of a few minutes, evaluate, and write curve and figures.
#
#   benchmarks/literature_run.sh la|acdc [MINUTES]
#
# la: recipe la_bcp, 10 % labels (8 scans), tested on 10 training scans whose labels are hidden.
# acdc: recipe acdc_bcp, 5 % labels (3 patients), evaluated on the 10 validation patients.
# A piece ends by itself after MINUTES (9), saved; call it again until it says that it is finished.
# It may be killed at any time: it goes back to its last checkpoint.
#
# Exit code: 0 finished, 3 call it again, another one: an error that it explains.
#
# Variables: MEDSSL_DATA  folder of Task102_LeftAtrium and Task101_ACDC (../shared/data)
#            RUN          run folder (runs/literature_la), FIGURES where results go (docs)
#            DEVICE       auto, cpu or cuda;  PYTHON the interpreter (python)
#            SETTINGS     changes of the recipe: "training.iterations=40 training.log_every=5"
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
setting=${1:-} minutes=${2:-9} python=${PYTHON:-python}
case $setting in
la) recipe=la_bcp task=Task102_LeftAtrium ;;
acdc) recipe=acdc_bcp task=Task101_ACDC ;;
*)
    echo "usage: $0 la|acdc [MINUTES]" >&2
    exit 2
    ;;
esac
data=${MEDSSL_DATA:-$root/../shared/data}/$task
run=${RUN:-runs/literature_$setting} figures=${FIGURES:-$root/docs}
if [ ! -f "$data/dataset.json" ]; then
    echo "there is no $task in ${MEDSSL_DATA:-../shared/data}: set MEDSSL_DATA" >&2
    exit 2
fi
changes=(--set "data.root=$data")
for change in ${SETTINGS:-}; do changes+=(--set "$change"); done
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

if ! grep -qs '"status": "finished"' "$run/manifest.json"; then
    code=0
    timeout --foreground --preserve-status --signal=USR1 --kill-after=120 "${minutes}m" \
        "$python" -m medssl train "$recipe" "${changes[@]}" \
        --output "$run" --resume-or-start --device "${DEVICE:-auto}" || code=$?
    case $code in
    0) ;;
    137 | 138 | 143) # killed, SIGUSR1, SIGTERM
        echo "not finished: call it again to go on"
        exit 3
        ;;
    *) exit "$code" ;;
    esac
fi
"$python" "$root/benchmarks/literature_figures.py" "$run" --output "$figures"
echo "finished: $run"
