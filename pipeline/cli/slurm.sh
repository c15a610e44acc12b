# What is above comes from the command line, what is below is the same in every script.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
[ $# -eq 0 ] || stages=("$@")

export RETORT_KIND="${RETORT_KIND:-gpu}"                 # a node with failed GPUs must not fall back to CPUs
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"    # srun does not take it from the job by itself
retort=("${RETORT:-$program}" --runs "$runs")
nodes=${SLURM_JOB_NUM_NODES:-1}
of_one_node=("${recipe[@]}")
if [ "$nodes" -gt 1 ]; then
    recipe+=("train.accelerate.num_processes=$((nodes * gpus))")
    of_one_node+=("train.accelerate.num_processes=$gpus")
fi

on_one_node() { srun --nodes=1 --ntasks=1 "${retort[@]}" "$@"; }

# A task of an array does its share of the shards; whatever a dead one leaves is for the job without --array.
share_of_task() {
    # shellcheck disable=SC2153  # Slurm assigns it
    local part=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))
    on_one_node "$1" "${recipe[@]}" --part "$part/$SLURM_ARRAY_TASK_COUNT"
}

# Each node does its share; one that fails stops no other.
share_of_nodes() {
    # shellcheck disable=SC2016  # each task expands its own variables
    srun --kill-on-bad-exit=0 --wait=0 bash -c 'exec "$@" --part "$SLURM_PROCID/$SLURM_NTASKS"' \
        share "${retort[@]}" "$1" "${recipe[@]}"
}

run_stage() {
    local code=0
    case "$1" in
    generate | filter | select)
        if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
            share_of_task "$1"
            return
        elif [ "$nodes" -gt 1 ]; then
            share_of_nodes "$1" || code=$?
            case "$code" in 0 | 3 | 137) ;; *) return "$code" ;; esac
        fi
        on_one_node "$1" "${recipe[@]}" # finishes the stage
        ;;
    train) srun --kill-on-bad-exit=1 "${retort[@]}" train "${recipe[@]}" ;;
    compress) on_one_node compress "${of_one_node[@]}" ;; # its recovery trains on one node
    *) on_one_node "$1" "${recipe[@]}" ;;
    esac
}

code=0
for stage in "${stages[@]}"; do
    run_stage "$stage" || code=$?
    [ "$code" -eq 0 ] || break
done

# 130 and 143: stopped before the time limit. 3: some items failed, or a node. 137: killed for lack of memory, or
# with its node. The same command goes on.
restarts=${SLURM_RESTART_COUNT:-0}
case "$code" in
3 | 130 | 137 | 143)
    if [ "$restarts" -lt "${RETORT_MOST_RESTARTS:-50}" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
        echo "exit code $code: back into the queue (restart $((restarts + 1)))" >&2
        scontrol requeue "$SLURM_JOB_ID"
        exit
    fi
    ;;
esac
exit "$code"
