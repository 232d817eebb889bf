#!/bin/bash
# Plain ssh: HOSTS="gpu1 gpu2" CARDS=8 configs/launch/ssh.sh configs/mine.yaml [key=value ...]
# Starts torchrun on every host, in the same folder. That folder and RUNS must be on a disk that all hosts share. Ctrl-C
# ends all of them after the step; the same command goes on from its checkpoint.
set -euo pipefail
config=${1:?usage: HOSTS="gpu1 gpu2" configs/launch/ssh.sh CONFIG.yaml [key=value ...]}
shift
read -ra hosts <<< "${HOSTS:?HOSTS names the machines, such as HOSTS=\"gpu1 gpu2\"}"
cards=${CARDS:-8}
runs=${RUNS:-$PWD/runs}
id=suri-$(date +%s)
started=()
# The ranks end when their terminal goes (-tt), and with it this script's ssh.
trap 'kill -TERM "${started[@]}" 2> /dev/null || true; wait' INT TERM
for number in "${!hosts[@]}"; do
  words=(
    .venv/bin/torchrun "--nnodes=${#hosts[@]}" "--node-rank=$number" "--nproc-per-node=$cards" --rdzv-backend=c10d
    "--rdzv-id=$id" "--rdzv-endpoint=${hosts[0]}:29500" --max-restarts=3 -m scripts.train "--config=$config" "$@"
  )
  printf -v line '%q ' "${words[@]}"
  printf -v folder '%q' "$PWD"
  printf -v shared '%q' "$runs"
  ssh -tt "${hosts[$number]}" "cd $folder && RUNS=$shared $line" < /dev/null &
  started+=("$!")
done
code=0
for process in "${started[@]}"; do
  wait "$process" || code=$?
done
exit "$code"
