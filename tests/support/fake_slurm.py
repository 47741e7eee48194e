"""A queue of one machine that takes sbatch, srun, scontrol and sacct: enough to run real jobs."""

from __future__ import annotations

import os
from pathlib import Path

SBATCH = r"""#!/bin/bash
# sbatch FILE: one job, or --array=A-B[%N]; tasks run one after another in the background.
script="${@: -1}"
echo "$script" >> "$FAKE_SLURM/submitted"
if [ -e "$FAKE_SLURM/refuse" ]; then
  echo "sbatch: error: invalid partition specified: nowhere" >&2
  exit 1
fi
id=$((70 + $(wc -l < "$FAKE_SLURM/submitted")))
cp "$script" "$FAKE_SLURM/$id.sh"
echo "Submitted batch job $id"
setsid "$FAKE_SLURM/bin/run-job" "$id" </dev/null >/dev/null 2>&1 &
"""

RUN_JOB = r"""#!/bin/bash
id=$1
file="$FAKE_SLURM/$id.sh"
array=$(sed -n 's/^#SBATCH.*--array=\([0-9]*-[0-9]*\).*/\1/p' "$file")
export SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
export SLURM_JOB_NODELIST=$(hostname)
first=0; last=0
if [ -n "$array" ]; then
  first=${array%-*}; last=${array#*-}
  export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_MAX=$last SLURM_ARRAY_TASK_MIN=$first
  for task in $(seq $first $last); do echo PENDING > "$FAKE_SLURM/state-${id}_$task"; done
fi
for task in $(seq $first $last); do
  export SLURM_JOB_ID=$id; name=$id
  if [ -n "$array" ]; then
    export SLURM_JOB_ID=$((1000 * id + task)) SLURM_ARRAY_TASK_ID=$task; name=${id}_$task
  fi
  while true; do
    echo RUNNING > "$FAKE_SLURM/state-$name"
    bash "$file" > "$FAKE_SLURM/log-$name" 2>&1
    code=$?
    echo "$name $code" >> "$FAKE_SLURM/ended"
    [ -e "$FAKE_SLURM/requeue-$name" ] || break
    rm "$FAKE_SLURM/requeue-$name"
  done
  state=COMPLETED; [ $code -eq 0 ] || state=FAILED
  echo $state > "$FAKE_SLURM/state-$name"
done
"""

SRUN = r"""#!/bin/bash
# srun [--option[=VALUE] | --output VALUE | --error VALUE]... COMMAND
output=""
while [[ $1 == --* ]]; do
  case $1 in
    --output|--error) [ "$1" == --output ] && output=$2; shift 2;;
    *) shift;;
  esac
done
output=${output//%A/$SLURM_ARRAY_JOB_ID}; output=${output//%a/$SLURM_ARRAY_TASK_ID}
output=${output//%j/$SLURM_JOB_ID}; output=${output//%t/0}
[ -n "$output" ] && exec >> "$output" 2>&1
"$@" &
child=$!
if [ -e "$FAKE_SLURM/preempt" ]; then
  # "SIGNAL FILE": once the file is there, the signal, as ahead of a limit.
  read signal awaited < "$FAKE_SLURM/preempt"
  rm "$FAKE_SLURM/preempt"
  until [ -e "$awaited" ] || ! kill -0 $child 2>/dev/null; do sleep 0.02; done
  kill -$signal $child
fi
wait $child
"""

SCONTROL = r"""#!/bin/bash
case $1 in
  requeue) echo "$2" >> "$FAKE_SLURM/requeued"; touch "$FAKE_SLURM/requeue-$2";;
  show) hostname;;  # scontrol show hostnames LIST
esac
"""

SACCT = r"""#!/bin/bash
echo "JobID|State|NodeList"
for file in "$FAKE_SLURM"/state-*; do
  [ -e "$file" ] && echo "${file##*/state-}|$(cat "$file")|here"
done
exit 0
"""


def install(folder: Path) -> dict[str, str]:
    """Put the commands into ``folder/bin``; return what the environment needs."""
    programs = {"sbatch": SBATCH, "run-job": RUN_JOB, "srun": SRUN}
    programs |= {"scontrol": SCONTROL, "sacct": SACCT}
    (folder / "bin").mkdir(parents=True)
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return {"FAKE_SLURM": str(folder), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
