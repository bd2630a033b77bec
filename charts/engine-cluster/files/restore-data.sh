#!/usr/bin/env bash
# Lay a backup's data beside what the broker works on: `incoming`, by the engine's own restore program. Its origin is
# written last, so half a restore is nothing. Runs beside the engine; run again, it finds its work done or begins anew.
#
#   VOLUME, TERMINATION_LOG      where the volume is, and where the last word goes
#   RELEASE, DATA_EPOCH          the release whose program it is, and the epoch that the data is to be of
#   BACKUP, BACKUP_OF            the backup's number, and the folder it lies in
#   BACKUP_RELEASE               the release that took it
#   BACKUP_MEBIBYTES             its size, 0 when not known
#   CHECKPOINTS                  "1=4503 2=17": where each partition's log must end, "" when not known
#   ENGINE_HOME                  where the release is; its own settings are in the environment as well
#
# What the program says may hold workflow data: it stays in this pod's scratch folder, and is only looked through for
# words that are known.
set -eu
. "${BASH_SOURCE[0]%/*}/volume.sh"
. "${BASH_SOURCE[0]%/*}/clear-logs.sh"
cd "$VOLUME"
readonly LOG=${TMPDIR:-/tmp}/restore.log
readonly WISH="$BACKUP_OF $BACKUP $ZEEBE_BROKER_CLUSTER_CLUSTERSIZE"

# done_before: whether this restore is in place already, or has been taken in.
done_before() {
    local origin release epoch
    origin=$(origin_of data) || origin=
    read -r release epoch <<<"$origin"
    [[ -z $epoch ]] || ((epoch < DATA_EPOCH)) || return 0
    origin=$(origin_of incoming) || origin=
    read -r release epoch <<<"$origin"
    [[ $epoch == "$DATA_EPOCH" && -f incoming/wish && $(<incoming/wish) == "$WISH" ]]
}

require_possible() {
    if is_newer "$BACKUP_RELEASE" "$RELEASE"; then
        refuse $UNFIT "Release $BACKUP_RELEASE took the backup, and release $RELEASE cannot read it. Choose release $BACKUP_RELEASE or a later one, or an earlier backup."
    fi
    local needed=$((BACKUP_MEBIBYTES + WATERMARK_MEBIBYTES)) free
    free=$(free_mebibytes)
    ((free >= needed)) || refuse $LATER "Disk is short: the backup needs $needed MiB (of which the engine never uses the last $WATERMARK_MEBIBYTES) and the volume has $free MiB free. Let go of what is kept for going back, or make the volume larger."
}

# cause: print what the program's words say of why it failed; true when another try may end otherwise.
cause() {
    local line
    while IFS= read -r line; do
        case $line in
        *"No space left on device"*) printf 'the disk is full'; return ;;
        *java.lang.OutOfMemoryError*) printf 'it ran out of memory'; return ;;
        # No backup is wished for before it is whole, so no other try finds one: three would keep a customer waiting.
        *BackupNotFoundException*) printf 'the store has no complete backup of that number'; return $UNFIT ;;
        *BackupNotValidException*) printf 'the backup is of another number of partitions'; return ;;
        *S3Exception*) printf 'the backup store refused'; return ;;
        *SdkClientException*) printf 'the backup store does not answer'; return ;;
        esac
    done <"$LOG"
    printf "the engine's program for it gave up"
}

# give_up CODE SENTENCE: refuse, and leave no half of it to take up the disk.
give_up() {
    clear_away incoming
    refuse "$@"
}

# fetch: run the program to its end. It is told to stop when this script is.
fetch() {
    local status=0 code=$LATER words
    # Before the program begins: a container's first process is told nothing that it has set no trap for.
    trap 'kill $(jobs -p) 2>/dev/null || true; wait; exit 143' TERM
    "$ENGINE_HOME/bin/restore" --backupId="$BACKUP" >"$LOG" 2>&1 &
    wait $! || status=$?
    trap - TERM
    ((status != 0)) || return 0
    words=$(cause) || code=$?
    give_up "$code" "The backup could not be fetched: $words."
}

if ! done_before; then
    require_possible
    # Without its origin it is nobody's, whatever is left of it. The program refuses a folder in which something is.
    rm -f incoming/origin
    clear_away incoming
    mkdir -p incoming/engine
    fetch
    clear_logs incoming/engine "$CHECKPOINTS" ||
        give_up $UNFIT "The backup was fetched, and a log in it does not end where the backup says, so an engine could stall on it. Choose another backup."
    printf '%s\n' "$WISH" >incoming/wish
    settle
    note_origin incoming "$BACKUP_RELEASE" "$DATA_EPOCH"
    settle
fi
printf 'incoming %s %s\n' "$BACKUP_RELEASE" "$DATA_EPOCH" >"$TERMINATION_LOG" || true
