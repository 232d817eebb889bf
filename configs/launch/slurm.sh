#!/bin/bash
# SLURM: sbatch configs/launch/slurm.sh configs/mine.yaml [key=value ...]
# Two machines with eight cards each; change --nodes and the cards here. The folder of the job and RUNS must be on a disk
# that all machines share.
#SBATCH --job-name=suri
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
# The ranks get SIGTERM two minutes before the time is over, write a checkpoint and stop; the same job goes on from it.
#SBATCH --signal=TERM@120
set -euo pipefail
config=${1:?usage: sbatch configs/launch/slurm.sh CONFIG.yaml [key=value ...]}
shift
export RUNS=${RUNS:-$PWD/runs}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun .venv/bin/torchrun \
  --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-8}" \
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$first:29500" --max-restarts=3 \
  -m scripts.train --config="$config" "$@"
