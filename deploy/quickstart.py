"""The quickstart: trilun's main job on this machine, end to end, with proof.

Owns the story and its checks. Everything an operator would do is done with the `trilun` command,
shown as it is typed. Exits 0 only when every check holds, 1 when one fails, 2 when something is
missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.pair import DATA_SET, PATH, LocalPair, PairError

VOLUME_BYTES = 1 << 30
LEDGER_BYTES = 10 << 20
FILES = 2200
MAX_FILE_BYTES = 256 << 10
MIB = 1 << 20
SOURCES = ("/usr/share", "/usr/lib/python3", "/usr/include", "/etc")
BLOCK_BYTES = 4096
WIRE_LIMIT = 1.05
EXT4_EXTRA_BYTES = 8 << 20


@dataclass
class Check:
    """One thing that has to be true at the end."""

    name: str
    ok: bool
    detail: str = ""


@dataclass
class Receipt:
    """What the quickstart found, as --json prints it."""

    ok: bool = False
    filesystem: str = ""
    files: int = 0
    checks: list[Check] = field(default_factory=list)
    restored_bytes: int = 0
    differing_bytes: int = 0
    wire_bytes: int = 0
    payload_bytes: int = 0
    volume_bytes: int = VOLUME_BYTES
    restore_s: float = 0.0
    total_s: float = 0.0
    directory: str = ""
    restore: dict[str, Any] = field(default_factory=dict)


class Story:
    """One run."""

    def __init__(self, pair: LocalPair, *, quiet: bool) -> None:
        self.pair = pair
        self.quiet = quiet
        self.receipt = Receipt(filesystem=pair.filesystem, directory=str(pair.directory))
        self._began_s = time.monotonic()

    def say(self, text: str) -> None:
        """A line for the reader, with the time since the start."""
        stream = sys.stderr if self.quiet else sys.stdout
        print(f"[{time.monotonic() - self._began_s:5.1f} s] {text}", file=stream, flush=True)

    def trilun(self, *arguments: str) -> dict[str, Any]:
        """Run and show an operator's command."""
        self.say(f"  $ trilun {' '.join(arguments)}")
        return self.pair.trilun(*arguments)

    def check(self, name: str, ok: bool, detail: str = "") -> None:
        """Note a check."""
        self.receipt.checks.append(Check(name, ok, detail))
        self.say(f"  {'ok  ' if ok else 'FAIL'} {name}{f': {detail}' if detail else ''}")

    # ------------------------------------------------------------ acts

    def raise_up(self) -> None:
        """Broker, controllers, volumes, a file system, agents."""
        pair = self.pair
        self.say(f"starting a broker and two controllers in {pair.directory}")
        pair.configure()
        pair.launch_broker()
        pair.launch_controller(1)
        pair.launch_controller(2)
        pair.wait_online("ctl1", "ctl2")
        self.say("making the three volumes, 1 GiB each, sparse")
        for volume in ("ctl1/first", "ctl2/second", "ctl2/third"):
            self.trilun("volume", "create", volume, str(VOLUME_BYTES))
        self.say(f"putting {pair.filesystem} on the first volume, over iSCSI")
        self._make_filesystem()
        self.say("starting the agents of host 1 and host 2; host 1 mounts the first volume")
        pair.launch_agent(1)
        pair.launch_agent(2)
        pair.wait_online("host1", "host2")
        wait_for(lambda: os.path.ismount(pair.mountpoint), "host 1 to mount the first volume")

    def _make_filesystem(self) -> None:
        pair = self.pair
        image = pair.directory / "blank.img"
        with image.open("wb") as output:
            output.truncate(VOLUME_BYTES)
        options = {"ext4": ["-q", "-F"], "xfs": ["-q"], "btrfs": ["-q"]}[pair.filesystem]
        owner = f"root_owner={os.getuid()}:{os.getgid()}"
        if pair.filesystem == "ext4":
            options += ["-E", f"lazy_itable_init=0,{owner}"]
        run(pair.tool(f"mkfs.{pair.filesystem}"), *options, str(image))
        info = pair.trilun("volume", "show", "ctl1/first")
        url = f"iscsi://{info['portals'][0]}/{info['target']}/{info['lun']}"
        run(pair.tool("qemu-img"), "convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw",
            str(image), url)  # fmt: skip
        image.unlink()

    def fill(self) -> None:
        """Real files, and three that matter."""
        files = self.pair.mountpoint / "files"
        files.mkdir()
        copied = 0
        for source in real_files():
            target = files / f"{copied % 40:02}" / f"{copied:05}-{source.name}"
            target.parent.mkdir(exist_ok=True)
            try:
                shutil.copyfile(source, target)
            except OSError:
                target.unlink(missing_ok=True)
                continue
            copied += 1
            if copied == FILES:
                break
        self.receipt.files = copied
        books = self.pair.mountpoint / "books"
        books.mkdir()
        (books / "ledger.dat").write_bytes(os.urandom(LEDGER_BYTES))
        (books / "contract.txt").write_text("signed in ink\n" * 3000, encoding="utf-8")
        (books / "today.txt").write_text("morning\n", encoding="utf-8")
        os.sync()
        self.say(f"copied {copied} files of this machine, and made the three that matter")
        self.check("at least 2,000 real files are on the first volume", copied >= 2000, str(copied))

    def mirror(self) -> None:
        """Pairs and a backup."""
        self.say("pairing first = second over TCP, then second = third inside the secondary")
        self.trilun("pair", "create", "demo-remote", "ctl1/first", "ctl2/second")
        self.trilun("pair", "wait", "demo-remote", "PAIR")
        self.trilun("pair", "create", "demo-local", "ctl2/second", "ctl2/third")
        self.trilun("pair", "wait", "demo-local", "PAIR")
        self.say("taking a backup: the third volume is split at one instant, the mirror goes on")
        # A FUSE file system can't be frozen by its user; it was synced, and nobody writes.
        quiesce = ["--no-quiesce"] if self.pair.mount_with == "fuse2fs" else []
        self.trilun("backup", DATA_SET, "--label", "before-the-accident", *quiesce)

    def accident(self) -> tuple[str, str]:
        """Damage one file, delete another, change a third. Returns the good digests."""
        books = self.pair.mountpoint / "books"
        good = digest(books / "ledger.dat"), digest(books / "contract.txt")
        with (books / "ledger.dat").open("r+b") as ledger:
            for offset in range(0, LEDGER_BYTES, MIB):
                ledger.seek(offset)
                ledger.write(b"\xde\xad" * 32768)
        (books / "contract.txt").unlink()
        with (books / "today.txt").open("a", encoding="utf-8") as today:
            today.write("afternoon: written after the backup, must survive\n")
        os.sync()
        self.say("accident: ledger.dat is damaged, contract.txt is deleted;")
        self.say("          today.txt was changed after the backup and must survive")
        return good

    def restore(self, good: tuple[str, str]) -> None:
        """One command, then the proof as a user sees it."""
        books = self.pair.mountpoint / "books"
        wanted = [str(books / "ledger.dat"), str(books / "contract.txt")]
        plan = self.trilun("restore", "--dry-run", *wanted)["plan"]
        self.say(
            f"  would bring back {len(plan['files'])} files, {plan['bytes_to_copy'] / MIB:.2f} MiB;"
            f" writes on the first volume that would be lost: {plan['overwritten_bytes']} bytes"
        )
        self.say(f"  because {plan['rule']}")
        began_s = time.monotonic()
        job = self.trilun("restore", *wanted)
        receipt = self.receipt
        receipt.restore_s = round(time.monotonic() - began_s, 2)
        receipt.restore = job.get("receipt") or {}
        numbers = receipt.restore
        receipt.restored_bytes = int(numbers.get("file_bytes", 0))
        receipt.differing_bytes = int(numbers.get("union_bytes", 0))
        receipt.wire_bytes = int(numbers.get("wire_bytes", 0))
        receipt.payload_bytes = int(numbers.get("payload_bytes", 0))
        wait_for(lambda: os.path.ismount(self.pair.mountpoint), "host 1 to mount it again")
        self.say("looking at the files on the first volume")
        self.check("ledger.dat is back bit for bit", digest(books / "ledger.dat") == good[0])
        self.check("contract.txt is back bit for bit", digest(books / "contract.txt") == good[1])
        kept = (books / "today.txt").read_text(encoding="utf-8")
        self.check("today.txt kept what was written after the backup", "must survive" in kept)
        count = sum(1 for path in (self.pair.mountpoint / "files").rglob("*") if path.is_file())
        self.check("all other files are there", count == receipt.files, str(count))

    def prove(self) -> None:
        """The proof below the file system, with host 1 gone."""
        pair, receipt = self.pair, self.receipt
        self.say("stopping host 1's agent (it unmounts), then looking beneath")
        pair.stop("host1")
        wait_for(lambda: not os.path.ismount(pair.mountpoint), "host 1 to unmount")
        info = pair.trilun("pair", "show", "demo-remote")["pair"]
        self.check("the remote pair is in PAIR, no block is marked",
                   info["state"] == "PAIR" and info["dirty_bytes"] == 0)  # fmt: skip
        first, second = pair.image("first"), pair.image("second")
        self.check("the file system on the first volume is clean", self._fsck(first))
        sums = image_digest(first), image_digest(second)
        self.check("first equals second", sums[0] == sums[1], sums[0][:16])
        union, wire = receipt.differing_bytes, receipt.wire_bytes
        ratio = wire / union if union else 0.0
        self.check(
            "bytes on the wire are at most 1.05 x the differing blocks",
            0 < wire <= WIRE_LIMIT * union,
            f"{wire / MIB:.2f} MiB for {union / MIB:.2f} MiB, {ratio:.4f} x",
        )
        if pair.filesystem == "ext4":
            extra = union - receipt.restored_bytes
            self.check(
                "differing blocks are at most the files + 8 MiB",
                extra <= EXT4_EXTRA_BYTES,
                f"{union / MIB:.2f} MiB for {receipt.restored_bytes / MIB:.2f} MiB of files",
            )

    def _fsck(self, image: Path) -> bool:
        checker = {
            "ext4": ["e2fsck", "-f", "-n"],
            "xfs": ["xfs_repair", "-n", "-f"],
            "btrfs": ["btrfs", "check", "--readonly"],
        }[self.pair.filesystem]
        command = [self.pair.tool(checker[0]), *checker[1:], str(image)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            self.say(result.stdout + result.stderr)
        return result.returncode == 0

    def close(self, *, keep: bool) -> bool:
        """The verdict."""
        receipt = self.receipt
        receipt.total_s = round(time.monotonic() - self._began_s, 2)
        receipt.ok = bool(receipt.checks) and all(check.ok for check in receipt.checks)
        if self.quiet:
            print(json.dumps(asdict(receipt), indent=2))
        else:
            self._print_receipt()
        if keep:
            self.pair.launch_agent(1)
            self.say("left running; to play with it:")
            self.say(f"  export TRILUN_BROKER={self.pair.broker} PATH={BIN_HINT}:$PATH")
            self.say("  trilun status")
            self.say(
                f"to stop it and remove its files: deploy/quickstart --stop {receipt.directory}"
            )
        return receipt.ok

    def _print_receipt(self) -> None:
        receipt = self.receipt
        print()
        print(f"  files brought back      {len(receipt.restore.get('files', []))}"
              f" ({receipt.restored_bytes / MIB:.2f} MiB)")  # fmt: skip
        print(f"  blocks that differed    {receipt.differing_bytes / MIB:.2f} MiB of "
              f"{receipt.volume_bytes // MIB} MiB")  # fmt: skip
        print(f"  bytes on the wire       {receipt.wire_bytes / MIB:.2f} MiB")
        print(f"  time of the restore     {receipt.restore_s:.1f} s")
        print(f"  time of all of this     {receipt.total_s:.1f} s")
        print(f"  verdict                 {'everything holds' if receipt.ok else 'FAILED'}")
        print(flush=True)


BIN_HINT = Path(sys.executable).parent


def run(*command: str) -> None:
    """Run a program; PairError with what it said when it fails."""
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH}
    )
    if result.returncode != 0:
        said = (result.stderr or result.stdout).strip()
        raise PairError(f"{Path(command[0]).name} failed: {said}")


def real_files() -> Iterator[Path]:
    """Regular files of this machine, neither empty nor big."""
    for source in SOURCES:
        for directory, subdirectories, names in os.walk(source):
            subdirectories.sort()
            for name in sorted(names):
                path = Path(directory) / name
                try:
                    if not path.is_symlink() and 0 < path.stat().st_size <= MAX_FILE_BYTES:
                        yield path
                except OSError:
                    continue


def digest(path: Path) -> str:
    """SHA-256 of a file; empty when it isn't there."""
    if not path.exists():
        return ""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def image_digest(path: Path) -> str:
    """SHA-256 of a whole volume, holes as zeros."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def wait_for(condition: Any, what: str, within_s: float = 60.0) -> None:
    """Wait for a condition; PairError when it does not come."""
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise PairError(f"waited {within_s:.0f} s in vain for {what}")
        time.sleep(0.05)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="deploy/quickstart", description="trilun's main job on this machine, with proof."
    )
    parser.add_argument("--fs", choices=("ext4", "xfs", "btrfs"), default="ext4")
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON")
    parser.add_argument("--directory", type=Path, help="where to put it all (default: a new one)")
    parser.add_argument("--stop", type=Path, metavar="DIRECTORY", help="end what --keep left")
    return parser.parse_args()


def stop_kept(directory: Path) -> None:
    """End a kept quickstart and remove its files."""
    pair = LocalPair.recall(directory)
    pair.stop()
    if os.path.ismount(pair.mountpoint):
        raise PairError(f"{pair.mountpoint} is still mounted; leave it and try again")
    shutil.rmtree(directory)


def main() -> int:
    """Tell the story; returns the exit code."""
    arguments = parse_arguments()
    if arguments.stop:
        stop_kept(arguments.stop)
        return 0
    root = os.geteuid() == 0
    if not root and arguments.fs != "ext4":
        print("quickstart: without root only ext4 can be mounted (by fuse2fs)", file=sys.stderr)
        return 2
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="trilun-", dir="/var/tmp"))
    directory.mkdir(parents=True, exist_ok=True)
    pair = LocalPair(directory, arguments.fs, "auto" if root else "fuse2fs")
    story = Story(pair, quiet=arguments.json)
    # A terminated run unwinds like an interrupted one, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    finished = failed = False
    try:
        story.raise_up()
        story.fill()
        story.mirror()
        story.restore(story.accident())
        story.prove()
        finished = story.close(keep=arguments.keep)
    except PairError as error:
        failed = True
        story.say(f"FAILED: {error}")
        story.say(f"the logs are in {directory}/log")
    except KeyboardInterrupt:
        story.say("stopped")
    finally:
        if not (arguments.keep and finished):
            pair.stop()
            if not failed and not os.path.ismount(pair.mountpoint):
                shutil.rmtree(directory)
    return 0 if finished else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PairError as failure:
        print(f"quickstart: {failure}", file=sys.stderr)
        sys.exit(2)
