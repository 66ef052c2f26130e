"""The error a command handler raises to reject a request.

Owns the one exception that becomes a rejected `Reply`: code, sentence and next step travel
together. Anything else a handler raises is our mistake and answered as `internal`.
"""

from __future__ import annotations

from controller.api.codes import Code


class RejectedError(Exception):
    """A command can't be carried out; `next_step` says what would make it possible."""

    def __init__(self, code: Code, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.next_step = next_step
