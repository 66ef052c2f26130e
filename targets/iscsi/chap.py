"""CHAP, one way and mutual (RFC 1994; RFC 7143, 12.1.3).

Owns the secrets' arithmetic: responses, constant-time comparison, and the refusal of a
reflected challenge. Must not draw randomness itself. Fails with `ChapError`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

CHALLENGE_BYTES = 16
MAX_CHALLENGE_BYTES = 1024

ALGORITHMS: dict[str, str] = {"5": "md5", "6": "sha1", "7": "sha256", "8": "sha3_256"}
"""CHAP_A numbers (IANA PPP authentication algorithms) and hashlib's names."""


class ChapError(Exception):
    """The initiator is not who it says, or can't be; the text never holds a secret."""


@dataclass(frozen=True)
class ChapCredentials:
    """Who may log in, and how this target proves itself when asked to."""

    user: str
    secret: str = field(repr=False)
    mutual_user: str | None = None
    mutual_secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.user or not self.secret:
            raise ValueError("CHAP needs a user and a secret")
        if (self.mutual_user is None) != (self.mutual_secret is None):
            raise ValueError("mutual CHAP needs a user and a secret")
        if self.mutual_secret is not None and hmac.compare_digest(
            self.secret.encode(), self.mutual_secret.encode()
        ):
            raise ValueError("the two directions of CHAP need different secrets")


def choose(offered: str) -> str | None:
    """The first algorithm of the initiator's list that is known here."""
    return next((each for each in offered.split(",") if each in ALGORITHMS), None)


def response(algorithm: str, identifier: int, secret: str, challenge: bytes) -> bytes:
    """H(identifier ‖ secret ‖ challenge); RFC 1994, 4.1."""
    material = bytes((identifier,)) + secret.encode() + challenge
    return hashlib.new(ALGORITHMS[algorithm], material, usedforsecurity=False).digest()


@dataclass(frozen=True, slots=True)
class Challenge:
    """What this target asked of the initiator."""

    algorithm: str
    identifier: int
    value: bytes


def check(credentials: ChapCredentials, asked: Challenge, user: str, answer: bytes) -> None:
    """Raise `ChapError` unless `user` answered `asked` with the right secret."""
    wanted = response(asked.algorithm, asked.identifier, credentials.secret, asked.value)
    # Both comparisons always run, so that the time tells nothing about the user's name.
    same_user = hmac.compare_digest(user.encode(), credentials.user.encode())
    same_answer = hmac.compare_digest(answer, wanted)
    if not (same_user and same_answer):
        raise ChapError("wrong user or secret")


def prove(
    credentials: ChapCredentials, asked: Challenge, identifier: int, challenge: bytes
) -> tuple[str, bytes]:
    """Our name and answer to the initiator's challenge; raises `ChapError`."""
    if credentials.mutual_user is None or credentials.mutual_secret is None:
        raise ChapError("mutual authentication is not configured")
    if not 0 <= identifier <= 0xFF or not 1 <= len(challenge) <= MAX_CHALLENGE_BYTES:
        raise ChapError("malformed challenge")
    if hmac.compare_digest(challenge, asked.value):
        raise ChapError("our own challenge was reflected")
    answer = response(asked.algorithm, identifier, credentials.mutual_secret, challenge)
    return credentials.mutual_user, answer
