#!/usr/bin/env bash
# Remove what is kept for going back. May run beside the engine, which knows `data` only, and may run twice.
set -eu
. "${BASH_SOURCE[0]%/*}/volume.sh"
cd "$VOLUME"

# Under a name of its own: a starting broker may be at work on `discarded`.
put_aside former gone
clear_away gone
settle
printf 'former none\n' >"$TERMINATION_LOG" || true
