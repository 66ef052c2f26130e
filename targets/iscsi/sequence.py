"""Sequence numbers of a session: CmdSN window and StatSN (RFC 7143, 4.2.2).

Owns flow control: the window is closed by what is outstanding and opened by answers, so its
upper edge never goes back. Must not know PDUs. Fails with `ProtocolError` for a gap, which
cannot be filled at error recovery level 0 with one connection.
"""

from __future__ import annotations

from targets.iscsi.pdu import ProtocolError, serial_distance


class Sequence:
    """ExpCmdSN, MaxCmdSN and StatSN."""

    __slots__ = ("exp_cmd_sn", "immediate_left", "max_cmd_sn", "stat_sn")

    def __init__(self, cmd_sn: int, stat_sn: int, window: int, immediate: int) -> None:
        self.exp_cmd_sn = cmd_sn
        self.max_cmd_sn = cmd_sn + window - 1 & 0xFFFFFFFF
        self.stat_sn = stat_sn
        self.immediate_left = immediate

    def accept(self, cmd_sn: int) -> bool:
        """Whether a non-immediate request is the next one; False: drop it silently."""
        ahead = serial_distance(cmd_sn, self.exp_cmd_sn)
        if ahead < 0 or serial_distance(cmd_sn, self.max_cmd_sn) > 0:
            return False
        if ahead == 0:
            self.exp_cmd_sn = cmd_sn + 1 & 0xFFFFFFFF
            return True
        raise ProtocolError(f"gap in CmdSN: {cmd_sn} instead of {self.exp_cmd_sn}")

    def answered(self, immediate: bool) -> None:
        """A request is no longer outstanding: the window opens by one."""
        if immediate:
            self.immediate_left += 1
        else:
            self.max_cmd_sn = self.max_cmd_sn + 1 & 0xFFFFFFFF

    def next_stat_sn(self) -> int:
        """StatSN of an answer that carries status."""
        value = self.stat_sn
        self.stat_sn = value + 1 & 0xFFFFFFFF
        return value
