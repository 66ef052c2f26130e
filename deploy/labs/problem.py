"""What goes wrong in the lab, as a sentence with the next step."""

from __future__ import annotations


class LabError(Exception):
    """The lab can't do what it was asked; `next_step` says what helps."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nnext: {self.next_step}" if self.next_step else message


class HostGoneError(LabError):
    """The host lost its power, or the way to it, while a command ran there."""


class CommandError(LabError):
    """A command on a host ended with another exit code than 0."""
