#!/usr/bin/env bash
# A run on a Slurm node that outlives the time limit: shortly before it, the job stops the run, which keeps all that
# is finished, and puts itself back into the queue; started again it goes on where it stopped.
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
# 900: seconds before the limit. Training finishes a step and saves a checkpoint in that time.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2

export RETORT_KIND="${RETORT_KIND:-gpu}" # a node whose GPUs have failed must not set up for processors and go on
"${RETORT:-./run.sh}" run "$@" &
run=$!
stopped=
trap 'stopped=yes; kill -TERM "$run" 2>/dev/null' TERM INT

code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do # a signal ends `wait`, not the run: it saves first
    code=0
    wait "$run" || code=$?
done

# 130 and 143: stopped. 3: some answers could not be had; the same command asks for them alone.
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
