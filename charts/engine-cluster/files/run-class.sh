#!/usr/bin/env bash
# Run a class of the release: `run-class.sh CLASS [ARGUMENT...]`. The jars are listed, in the order of their names, and
# no folder is on the class path: Java's class archives need both.
set -eu
export LC_ALL=C
class_path=$(printf '%s:' /usr/local/zeebe/lib/*.jar)
exec "${JAVA_HOME:+$JAVA_HOME/bin/}java" -cp "${class_path%:}" "$@"
