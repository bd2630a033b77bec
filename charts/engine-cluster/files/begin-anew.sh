#!/usr/bin/env bash
# Let the broker begin with nothing at its next start with this release and epoch, if what it has then is not usable.
# For one that goes back to an earlier release beside others that hold every partition: they give it its replicas. A copy
# from before lacks what this broker has said yes to since, and with one that was behind it could outvote the one that
# has it.
set -eu
. "${BASH_SOURCE[0]%/*}/volume.sh"
cd "$VOLUME"

printf '%s %s\n' "$RELEASE" "$DATA_EPOCH" >anew.new
sync anew.new
mv -fT anew.new anew
settle
printf 'anew %s %s\n' "$RELEASE" "$DATA_EPOCH" >"$TERMINATION_LOG" || true
