#!/usr/bin/env bash
# Makes the environment and runs the demo: bash deploy/demo.sh [options of triage-node demo]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. deploy/environment.sh
make_environment ""
exec .venv/bin/triage-node demo "$@"
