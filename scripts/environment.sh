# Sourced by scripts/demo and scripts/test: make the virtual environment once and reuse it.
#
# FM_MED_ENV    folder of the environment (default: .venv in the repository)
# FM_MED_PYTHON Python to make it with (default: python3, which must be 3.11 or newer)

prepare_environment() {  # $1: "" for the package alone, "[dev]" for the tools of the tests as well
    local extras="$1" python="${FM_MED_PYTHON:-python3}" wanted
    environment="${FM_MED_ENV:-.venv}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: fm_med needs Python 3.11 or newer, $python is $("$python" --version)" >&2
        exit 2
    }
    if [ ! -x "$environment/bin/python" ]; then
        echo "== making the environment $environment"
        "$python" -m venv "$environment"
    fi
    wanted="$environment/installed$extras-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)"
    if [ ! -e "$wanted" ]; then
        echo "== installing fm_med$extras and what it needs into $environment (some minutes, once)"
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
            --constraint constraints.txt --editable ".$extras"
        rm -f "$environment"/installed"$extras"-*
        touch "$wanted"
    fi
    export PATH="$(cd "$environment/bin" && pwd):$PATH"
    export OMP_WAIT_POLICY=PASSIVE  # waiting threads sleep: spinning is 3-5 times slower under load
}
