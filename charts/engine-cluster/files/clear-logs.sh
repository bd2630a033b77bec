# Clear what the engine's restore program leaves behind the end of a partition's log; sourced. Without it an engine that
# was restored from a backup taken under load calls itself healthy and processes nothing: ADR 9, and the same cure as
# provisioning/backends/local/journal.py, with whose results a test compares this.
#
# A segment is a descriptor and then frames: one byte 1 (0 is the end), a header of 8 bytes that begins with the length
# of the block behind it, that block (checksum, length of the data), the data. Little endian.

readonly CHUNK=65536

# clear_logs DATA CHECKPOINTS: clear every partition's log; fails at one that is not what it should be.
clear_logs() {
    local -A positions=()
    local pair partition number
    for pair in $2; do
        positions[${pair%%=*}]=${pair#*=}
    done
    for partition in "$1"/raft-partition/partitions/*/; do
        [[ -d $partition ]] || continue
        partition=${partition%/} number=${partition%/}
        number=${number##*/}
        if [[ -n $2 && -z ${positions[$number]:-} ]]; then
            printf 'partition %s is not in the backup\n' "$number" >&2
            return 1
        fi
        clear_log "$(last_segment "$partition")" "${positions[$number]:-}" || return 1
    done
}

# last_segment PARTITION: print the file with the highest number.
last_segment() {
    local path number best= highest=-1
    for path in "$1"/*-*.log; do
        number=${path%.log} number=${number##*-}
        [[ $number =~ ^[0-9]+$ ]] || continue
        ((10#$number > highest)) && best=$path highest=$((10#$number))
    done
    printf '%s\n' "$best"
}

# clear_log SEGMENT POSITION: overwrite all behind the last frame, whose record must be at this position, with zeros.
clear_log() {
    local size end position
    [[ -f $1 && ! -L $1 ]] || { printf 'a partition has no log\n' >&2; return 1; }
    size=$(stat -c %s "$1")
    find_end "$1" "$size" || { printf '%s is of another format\n' "$1" >&2; return 1; }
    if [[ -z $position || ( -n $2 && $position != "$2" ) ]]; then
        printf '%s ends at position %s, and the checkpoint is at %s\n' "$1" "${position:-none}" "${2:-no known one}" >&2
        return 1
    fi
    dd if=/dev/zero of="$1" bs=1M iflag=count_bytes oflag=seek_bytes seek="$end" count=$((size - end)) \
        conv=notrunc,fsync status=none
}

# find_end SEGMENT SIZE: set `end` behind the last frame and `position` to its record's; fails at another format.
# Reads a chunk at a time, as numbers: bash cannot hold the byte 0, and one call of od for each frame takes minutes.
find_end() {
    local segment=$1 size=$2 first=0 last=
    local -a bytes=()
    position= end=0
    load 0
    ((${#bytes[@]} >= 25 && bytes[0] == 2)) || return 1
    end=$((25 + bytes[17] + (bytes[18] << 8)))
    local at block length
    while ((end + 21 < size)); do
        at=$((end - first))
        ((at + 21 <= ${#bytes[@]})) || { load "$end"; at=0; }
        ((bytes[at] == 1)) || break
        ((block = bytes[at + 1] | bytes[at + 2] << 8, \
        length = bytes[at + 17] | bytes[at + 18] << 8 | bytes[at + 19] << 16 | bytes[at + 20] << 24, \
        block == 12 && length >= 24 && end + 21 + length <= size)) || return 1
        ((last = end, end += 21 + length))
    done
    [[ -n $last ]] || return 0
    load $((last + 37))
    position=0
    for ((at = 7; at >= 0; at--)); do
        ((position = position << 8 | bytes[at])) || true
    done
}

# load OFFSET: read a chunk of `segment` into `bytes`, which begins at `first` then.
load() {
    first=$1
    # shellcheck disable=SC2207
    bytes=($(od -An -v -tu1 -j "$1" -N $CHUNK "$segment"))
}
