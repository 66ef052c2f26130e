"""Verdicts, result codes and exit codes: the vocabulary of every answer.

Owns the numbers and names scripts rely on. Must not hold sentences about a concrete case:
those are written where the case is known. A code, once published, keeps its meaning.
"""

from __future__ import annotations

import enum


class Verdict(enum.StrEnum):
    """What became of a command. A repeated command is a no-op, never an error."""

    ACCEPTED = "accepted"
    NO_OP = "no_op"
    REJECTED = "rejected"


class Code(enum.StrEnum):
    """Why, machine-readable. `OK` goes with accepted and no-op, every other with rejected."""

    OK = "ok"
    BAD_REQUEST = "bad_request"
    """The request does not parse: unknown verb, unknown or missing field, value out of range."""
    NOT_FOUND = "not_found"
    EXISTS = "exists"
    WRONG_STATE = "wrong_state"
    """The state table refuses the command in this state."""
    IN_USE = "in_use"
    """An initiator, a pair, a view or a job holds the object."""
    NO_PEER = "no_peer"
    """The other controller can't be reached, or speaks another version."""
    NOT_CONSISTENT = "not_consistent"
    """The volume's content is half of two points in time: no source, no backup (law L7)."""
    SPLIT_BRAIN = "split_brain"
    DIRECTION_NEEDED = "direction_needed"
    """Only the S-VOL was written since: the command must name the side to keep (law L8)."""
    UNRELATED = "unrelated"
    """The two sides never shared a version (law L8)."""
    FULL_COPY_NEEDED = "full_copy_needed"
    """Possible only as a full copy, which must be asked for by name."""
    GENERATION_MISMATCH = "generation_mismatch"
    """The command named a generation that the volume no longer has."""
    NO_SPACE = "no_space"
    IO_ERROR = "io_error"
    HOST_ERROR = "host_error"
    """Something on a host failed: attach, mount, copy, unmount."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    """No answer: broker or node away."""
    EXPIRED = "expired"
    """The request was older than its expiry when it arrived."""
    BUSY = "busy"
    """The node has too many requests under way; nothing was done."""
    INTERNAL = "internal"
    """Our mistake: please report it."""


class Exit(enum.IntEnum):
    """The exit codes of `trilun`, documented in the README."""

    OK = 0
    FAILED = 1
    """The command was carried out and failed: a job, or a verify that found differences."""
    USAGE = 2
    """The command line is wrong."""
    REJECTED = 3
    """Refused in this state; the message names the next step."""
    NOT_FOUND = 4
    UNREACHABLE = 5
    """No broker, or the node does not answer."""
    TIMEOUT = 6
    """A wait ended before what it waited for."""
    INTERRUPTED = 130


_EXIT_BY_CODE = {
    Code.OK: Exit.OK,
    Code.BAD_REQUEST: Exit.USAGE,
    Code.NOT_FOUND: Exit.NOT_FOUND,
    Code.UNREACHABLE: Exit.UNREACHABLE,
    Code.TIMEOUT: Exit.TIMEOUT,
    Code.EXPIRED: Exit.TIMEOUT,
    Code.IO_ERROR: Exit.FAILED,
    Code.HOST_ERROR: Exit.FAILED,
    Code.INTERNAL: Exit.FAILED,
}


def exit_for(code: Code) -> Exit:
    """The exit code a command line ends with for an answer's `code`."""
    return _EXIT_BY_CODE.get(code, Exit.REJECTED)
