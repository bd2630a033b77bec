#!/usr/bin/env bash
# Put the data that is wished in its place, before the engine starts. Ends with 0 when the engine may start on
# $VOLUME/data/engine; else with a sentence. Killed anywhere, it comes to the same end when it is run again.
#
#   VOLUME, TERMINATION_LOG      where the volume is, and where the last word goes
#   RELEASE, DATA_EPOCH          what is wished: who will open the data, and which data
#   MAY_BEGIN_EMPTY_FROM         brokers from this number on may begin with nothing at any epoch (at epoch 0 all may)
#   ZEEBE_BROKER_CLUSTER_NODEID  this broker's number
#
# The last word: two lines, "data RELEASE EPOCH" and "former RELEASE EPOCH" or "former none".
set -eu
. "${BASH_SOURCE[0]%/*}/volume.sh"
cd "$VOLUME"

[[ $RELEASE =~ ^[0-9]+(\.[0-9]+)+(-[0-9A-Za-z.-]+)?$ ]] || refuse $WRONG "\"$RELEASE\" is not an engine release."
[[ $DATA_EPOCH =~ ^(0|[1-9][0-9]*)$ ]] || refuse $WRONG "\"$DATA_EPOCH\" is not a data epoch."

# look: read what lies there into data_release, data_epoch and so on; all "" without the folder, or without its origin.
look() {
    local origin
    origin=$(origin_of data) || origin=
    read -r data_release data_epoch <<<"$origin" || true
    origin=$(origin_of former) || origin=
    read -r former_release former_epoch <<<"$origin" || true
    origin=$(origin_of incoming) || origin=
    read -r incoming_release incoming_epoch <<<"$origin" || true
}

# usable RELEASE EPOCH: whether data of that origin is what is wished, and this release may open it.
usable() {
    [[ $2 == "$DATA_EPOCH" ]] && ! is_newer "$1" "$RELEASE"
}

may_begin_empty() {
    ((DATA_EPOCH == 0)) && return
    [[ -n ${MAY_BEGIN_EMPTY_FROM:-} ]] && ((ZEEBE_BROKER_CLUSTER_NODEID >= MAY_BEGIN_EMPTY_FROM))
}

is_told_to_begin_anew() {
    [[ -f anew && $(<anew) == "$RELEASE $DATA_EPOCH" ]]
}

require_not_newer() {
    is_newer "$2" "$RELEASE" || return 0
    refuse $UNFIT "$1 release $2, which release $RELEASE cannot read, and no data from before is kept. Choose release $2 or a later one, or restore a backup that an earlier release took."
}

# take_in: what a restore made becomes the data, and the data what is kept.
take_in() {
    if [[ -d data ]]; then
        put_aside former discarded
        mv -T data former
    fi
    # Nobody has opened a backup here: there is no earlier release to go back to, so no copy of it in place of `former`.
    note_origin incoming "$RELEASE" "$DATA_EPOCH"
    mv -T incoming data
}

# put_back: what was kept becomes the data, and the data is given up.
put_back() {
    if [[ -d data ]]; then
        clear_away discarded
        mv -T data discarded
    fi
    mv -T former data
}

# begin_empty: an empty folder for the engine to fill.
begin_empty() {
    if [[ -d data ]]; then
        clear_away discarded
        mv -T data discarded
    fi
    clear_away fresh
    mkdir -p fresh/engine
    note_origin fresh "$RELEASE" "$DATA_EPOCH"
    mv -T fresh data
}

# keep_copy: before a later release opens the data, which may make it unreadable for this one.
keep_copy() {
    clear_away copying discarded
    local needed free
    needed=$(size_of data)
    free=$(($(free_mebibytes) + $(size_of former) - WATERMARK_MEBIBYTES))
    ((free >= needed)) || refuse $LATER "Disk is short: a copy of the data, for going back to release $data_release, needs $needed MiB, and the volume has $free MiB to spare. Make the volume larger."
    # There is room for one; going back two steps was never promised.
    put_aside former discarded
    cp -a --reflink=auto data copying
    settle
    mv -T copying former
}

look
if [[ -n $data_epoch ]] && usable "$data_release" "$data_epoch"; then
    :
elif [[ -d data && -z $data_epoch && $incoming_epoch != "$DATA_EPOCH" ]]; then
    refuse $UNFIT "What the broker's data is cannot be read from the volume, so it was left alone. Restore a backup, or have somebody look at data/origin on the volume."
elif is_told_to_begin_anew; then
    begin_empty
elif [[ -n $former_epoch ]] && usable "$former_release" "$former_epoch"; then
    put_back
elif [[ $incoming_epoch == "$DATA_EPOCH" ]]; then
    require_not_newer "The backup was taken by" "$incoming_release"
    take_in
elif [[ $data_epoch == "$DATA_EPOCH" ]]; then
    require_not_newer "The engine's data was last opened by" "$data_release"
elif [[ ! -d data ]] && may_begin_empty; then
    begin_empty
else
    refuse $LATER "The data of the wished backup (epoch $DATA_EPOCH) is not on the volume yet."
fi

look
if [[ $data_release != - && $data_release != "$RELEASE" ]]; then
    keep_copy
fi
note_origin data "$RELEASE" "$DATA_EPOCH"
clear_away discarded copying fresh anew
if [[ -n $incoming_epoch ]] && ((incoming_epoch <= DATA_EPOCH)); then
    # Nobody will wish for it any more.
    put_aside incoming discarded
fi
settle

look
kept=none
[[ -z $former_epoch ]] || kept="$former_release $former_epoch"
printf 'data %s %s\nformer %s\n' "$RELEASE" "$DATA_EPOCH" "$kept" >"$TERMINATION_LOG" || true
