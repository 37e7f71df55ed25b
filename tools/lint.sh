#!/bin/bash
# Every check that runs nothing of the product: style, types, layers, metadata,
# workflows.  Uses the tools of the `dev` extra, from PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=()
step() {
    local name=$1
    shift
    echo "-- $name"
    "$@" || failed+=("$name")
}

c_format() {
    find src tests '(' -name '*.c' -o -name '*.h' ')' -print0 |
        xargs -0 -r clang-format --dry-run -Werror
}

# The same code as Windows sees it, and the tests that run there only.
mypy_windows() {
    mypy --platform win32 virtdisk &&
        MYPYPATH=tests/wine/guest:tests/wine/guest/recorded \
            mypy --platform win32 tests/wine/guest/*/*.py
}

shell_syntax() {
    local script
    for script in .ci/run tools/*.sh; do
        bash -n "$script" || return 1
    done
}

workflow_schemas() {
    check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
}

step "ruff check" ruff check .
step "ruff format" ruff format --check .
step "clang-format" c_format
step "mypy" mypy
step "mypy for Windows" mypy_windows
step "typos" typos
step "layers" python tools/check_layers.py
step "pyproject" validate-pyproject pyproject.toml
step "workflow schemas" workflow_schemas
step "zizmor" zizmor --offline --quiet .github/workflows
step "shell syntax" shell_syntax

if ((${#failed[@]})); then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
