"""The Java runtime that engines run on."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path

from provisioning.errors import JavaMissing

OLDEST_JAVA = 21
VERSION = re.compile(r'^JAVA_VERSION="((\d+)[^"]*)"', re.MULTILINE)


def require_java(java_home: Path) -> str:
    """Return a name for this build of Java, which class archives are bound to; reads two files.

    Raises:
        JavaMissing: there is no Java, or one that engines cannot run on.
    """
    java = java_home / "bin" / "java"
    if not os.access(java, os.X_OK):
        raise JavaMissing(
            f"There is no Java runtime at {java}. Set FLOWPLANE_JAVA_HOME to one of version {OLDEST_JAVA} or later."
        )
    release = _read_release(java_home)
    version = VERSION.search(release)
    if version is None or int(version[2]) < OLDEST_JAVA:
        found = version[1] if version else "an unknown version"
        raise JavaMissing(
            f"The Java runtime at {java_home} is {found}, and engines need version {OLDEST_JAVA} or later. "
            "Set FLOWPLANE_JAVA_HOME to such a runtime."
        )
    return f"{version[1]}-{sha256((release + _machine_stamp(java_home)).encode()).hexdigest()[:12]}"


def _read_release(java_home: Path) -> str:
    try:
        return (java_home / "release").read_text()
    except OSError:
        return ""


def _machine_stamp(java_home: Path) -> str:
    """Size and time of the virtual machine itself: two builds may share a version."""
    try:
        found = (java_home / "lib" / "server" / "libjvm.so").stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"
