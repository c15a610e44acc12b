#!/usr/bin/env bash
# Runs a recipe on a Slurm node across time limits: shortly before the limit the job stops the run, which keeps all
# finished work, and requeues itself; when it starts again, it resumes the run.
#
#   RETORT_KIND=gpu ./run.sh setup    # once, where there is a network
#   sbatch pipeline/recipes/slurm.sh pipeline/recipes/r1-math.toml [KEY=VALUE]...
#
#SBATCH --job-name=retort
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@900
# 900 seconds before the limit: time for training to finish a step and save a checkpoint.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2

export RETORT_KIND="${RETORT_KIND:-gpu}" # a node with failed GPUs must not fall back to CPUs
"${RETORT:-./run.sh}" run "$@" &
run=$!
stopped=
trap 'stopped=yes; kill -TERM "$run" 2>/dev/null' TERM INT

code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do # a signal ends `wait`, but the run is still saving
    code=0
    wait "$run" || code=$?
done

# 130 and 143: stopped. 3: some items failed; the same command retries only those.
case "$code" in
130 | 143) again=yes ;;
3) again=yes ;;
*) again=$([ "$code" -ne 0 ] && [ "$code" -ne 2 ] && echo "$stopped") ;;
esac
restarts=${SLURM_RESTART_COUNT:-0}
if [ -n "$again" ] && [ "$restarts" -lt "${RETORT_MOST_RESTARTS:-50}" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    echo "slurm.sh: exit code $code, back into the queue (restart $((restarts + 1)))" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit
fi
exit "$code"
