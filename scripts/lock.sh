#!/usr/bin/env bash
# Resolve pyproject.toml (core and dev) into requirements.lock. Pins already there stay where they can.
# Usage: scripts/lock.sh [--upgrade | --upgrade-package NAME | ...]
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

find_uv
"$uv" pip compile pyproject.toml --extra dev --python-version 3.12 --universal --quiet \
    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --output-file requirements.lock "$@"
say "$(grep -c '^[a-z]' requirements.lock) packages in requirements.lock"
