# What all scripts on a broker's volume know; sourced. Bash and coreutils only: it is the engine's image.
#
# On the volume lie folders of one make: `engine/` (what an engine works on) and `origin`, one line "release epoch": the
# release that opened it last and the data epoch it is of.
#   data      what the broker works on
#   former    what is kept for going back
#   incoming  what a restore has made; without an origin it is not finished
# The others are nobody's, whatever is in them: `discarded`, `copying`, `fresh`, `gone`.
#
# A folder gets one of the three names by one rename, with its origin already in it, so whoever is killed leaves each
# folder where it was or where it goes. Nothing that has a name is ever removed: it is renamed to a nobody's first.

# Of sysexits.h: 64 is a wrong wish, 65 data that does not fit, 75 something that passes.
readonly WRONG=64 UNFIT=65 LATER=75
# Below this much free disk the engine stops processing, so it is no room for a copy.
readonly WATERMARK_MEBIBYTES=512

# refuse CODE SENTENCE: say why on stderr and in the pod's status, and end.
refuse() {
    printf '%s\n' "$2" >&2
    printf '%s' "$2" >"$TERMINATION_LOG" || true
    exit "$1"
}

# is_newer RELEASE OTHER: whether a release comes after another. What no release has opened ("-") is never too new.
is_newer() {
    [[ $1 != - && $2 != - ]] || return 1
    local -a one other
    IFS=. read -r -a one <<<"${1%%-*}"
    IFS=. read -r -a other <<<"${2%%-*}"
    local at mine its
    for ((at = 0; at < ${#one[@]}; at++)); do
        ((at < ${#other[@]})) || return 0
        mine=${one[at]} its=${other[at]}
        [[ $mine =~ ^[0-9]+$ ]] || mine=0
        [[ $its =~ ^[0-9]+$ ]] || its=0
        ((10#$mine == 10#$its)) || { ((10#$mine > 10#$its)); return; }
    done
    return 1
}

# origin_of FOLDER: print "release epoch", nothing without the folder. Fails when it cannot be read.
origin_of() {
    [[ -d $1 ]] || return 0
    local release epoch rest
    [[ -f $1/origin ]] && read -r release epoch rest <"$1/origin" || return 1
    [[ -z $rest && $release =~ ^[0-9A-Za-z.-]+$ && $epoch =~ ^(0|[1-9][0-9]*)$ && -d $1/engine ]] || return 1
    # Nothing was ever opened that is empty.
    [[ -n $(ls -A "$1/engine") ]] || release=-
    printf '%s %s\n' "$release" "$epoch"
}

# note_origin FOLDER RELEASE EPOCH: in one rename, on the disk.
note_origin() {
    printf '%s %s\n' "$2" "$3" >"$1/origin.new"
    sync "$1/origin.new"
    mv -fT "$1/origin.new" "$1/origin"
}

# clear_away FOLDER...: remove what is nobody's.
clear_away() {
    rm -rf -- "$@"
}

# put_aside FOLDER NOBODY: take a folder's name away, then remove it.
put_aside() {
    [[ -e $1 ]] || return 0
    clear_away "$2"
    mv -T "$1" "$2"
    clear_away "$2"
}

# settle: wait until all that was done is on the disk.
settle() {
    sync -f "$VOLUME"
}

free_mebibytes() {
    local -a lines
    mapfile -t lines < <(df --output=avail --block-size=1M "$VOLUME")
    printf '%d\n' "${lines[1]}"
}

# size_of FOLDER: in mebibytes, rounded up; 0 without it.
size_of() {
    [[ -d $1 ]] || { printf '0\n'; return; }
    local size rest
    read -r size rest < <(du -s --block-size=1M "$1")
    printf '%d\n' "$size"
}
