"""trilun as a user installs it: a wheel of this tree and its locked dependencies in /opt/trilun.

Owns the virtual environment that lab hosts see there. It is made on the machine, in a mount
namespace in which /opt/trilun is a directory of ours, so the machine's own /opt is left alone.
Dependencies are kept in `.cache/lab`, by their lock file. Fails with LabError that quotes pip.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from deploy.labs.problem import LabError
from deploy.labs.process import call
from deploy.pair import BIN, REPOSITORY

PYTHON = "/usr/bin/python3"
LOCK = REPOSITORY / "requirements.lock"
CACHE = REPOSITORY / ".cache" / "lab"

# $1: what /opt/trilun is to be, $2: an empty directory for the machine's /opt, then a command.
_INSIDE = """
package=$1 old=$2; shift 2
mount --bind /opt "$old"
mount -t tmpfs none /opt
for entry in "$old"/*; do ln -s "$entry" /opt/; done
rm -f /opt/trilun
mkdir /opt/trilun
mount --bind "$package" /opt/trilun
exec "$@"
"""


def install(target: Path) -> None:
    """Make `target` what /opt/trilun is after an installation of this tree."""
    dependencies = _dependencies()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(dependencies, target, symlinks=True, copy_function=_link_or_copy)
    wheels = Path(tempfile.mkdtemp(prefix="wheel-", dir=target.parent))
    try:
        pip = [str(BIN / "python"), "-m", "pip", "-q"]
        call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(REPOSITORY))
        (wheel,) = wheels.glob("trilun-*.whl")
        _in_opt(target, "/opt/trilun/bin/pip", "-q", "install", "--no-deps", str(wheel))
    finally:
        shutil.rmtree(wheels)


def _dependencies() -> Path:
    """The environment with the locked dependencies, made when the lock has changed."""
    version = call(PYTHON, "--version")
    key = hashlib.sha256(LOCK.read_bytes() + version.encode()).hexdigest()[:16]
    wanted = CACHE / f"venv-{key}"
    if wanted.exists():
        return wanted
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.iterdir():
        shutil.rmtree(old)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=CACHE))
    fresh.chmod(0o755)
    _in_opt(fresh, PYTHON, "-m", "venv", "/opt/trilun")
    _in_opt(fresh, "/opt/trilun/bin/pip", "-q", "install", "--require-hashes", "-r", str(LOCK))
    return fresh.rename(wanted)


def _in_opt(package: Path, *command: str) -> None:
    old = Path(tempfile.mkdtemp(prefix="opt-", dir=package.parent))
    try:
        call("unshare", "--mount", "sh", "-euc", _INSIDE, "sh", str(package), str(old), *command)
    except LabError as error:
        raise LabError(f"installing trilun for the lab failed: {error}") from error
    finally:
        old.rmdir()


def _link_or_copy(source: str, target: str) -> str:
    """Hard links where they can be: pip replaces files, it doesn't write into them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
