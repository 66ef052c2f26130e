"""Negotiation of the operational keys (RFC 7143, 13): a table of rules, and what came of them.

Owns the values a session runs with. Must not know login phases. Fails with
`NegotiationError` for values outside their range.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

from targets.iscsi.text import TextError, number

MAX_SEGMENT_BYTES = (1 << 24) - 1


class NegotiationError(ValueError):
    """An offer that can't be answered."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a session runs with; the defaults are RFC 7143's where nothing is negotiated."""

    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    max_send_segment_bytes: int = 8192
    """The initiator's MaxRecvDataSegmentLength."""
    max_burst_bytes: int = 262144
    first_burst_bytes: int = 65536
    max_outstanding_r2t: int = 1
    default_time2wait_s: int = 2
    default_time2retain_s: int = 0


@dataclass(frozen=True, slots=True)
class Offer:
    """What this target is ready to do."""

    max_recv_segment_bytes: int = 256 << 10
    max_burst_bytes: int = 1 << 20
    first_burst_bytes: int = 256 << 10
    digests: tuple[str, ...] = ("CRC32C", "None")


Answer = str | None
Rule = Callable[[Parameters, Offer, str], tuple[Parameters, Answer]]


def _in_range(key: str, value: str, low: int, high: int) -> int:
    try:
        wanted = number(value)
    except TextError as error:
        raise NegotiationError(str(error)) from error
    if not low <= wanted <= high:
        raise NegotiationError(f"{key} out of range")
    return wanted


def _is_yes(key: str, value: str) -> bool:
    if value not in {"Yes", "No"}:
        raise NegotiationError(f"{key} is Yes or No")
    return value == "Yes"


def _yes(flag: bool) -> str:
    return "Yes" if flag else "No"


def _header_digest(now: Parameters, offer: Offer, value: str) -> tuple[Parameters, Answer]:
    chosen = next((each for each in value.split(",") if each in offer.digests), None)
    if chosen is None:
        return now, "Reject"
    return replace(now, header_digest=chosen == "CRC32C"), chosen


def _data_digest(now: Parameters, offer: Offer, value: str) -> tuple[Parameters, Answer]:
    chosen = next((each for each in value.split(",") if each in offer.digests), None)
    if chosen is None:
        return now, "Reject"
    return replace(now, data_digest=chosen == "CRC32C"), chosen


def _initial_r2t(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    result = _is_yes("InitialR2T", value)  # OR with our No
    return replace(now, initial_r2t=result), _yes(result)


def _immediate_data(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    result = _is_yes("ImmediateData", value)  # AND with our Yes
    return replace(now, immediate_data=result), _yes(result)


def _max_recv(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    wanted = _in_range("MaxRecvDataSegmentLength", value, 512, MAX_SEGMENT_BYTES)
    return replace(now, max_send_segment_bytes=wanted), None


def _max_burst(now: Parameters, offer: Offer, value: str) -> tuple[Parameters, Answer]:
    wanted = _in_range("MaxBurstLength", value, 512, MAX_SEGMENT_BYTES)
    result = min(wanted, offer.max_burst_bytes)
    return replace(now, max_burst_bytes=result), str(result)


def _first_burst(now: Parameters, offer: Offer, value: str) -> tuple[Parameters, Answer]:
    wanted = _in_range("FirstBurstLength", value, 512, MAX_SEGMENT_BYTES)
    result = min(wanted, offer.first_burst_bytes)
    return replace(now, first_burst_bytes=result), str(result)


def _outstanding(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    _in_range("MaxOutstandingR2T", value, 1, 65535)
    return now, "1"


def _time2wait(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    result = max(_in_range("DefaultTime2Wait", value, 0, 3600), 2)
    return replace(now, default_time2wait_s=result), str(result)


def _time2retain(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    _in_range("DefaultTime2Retain", value, 0, 3600)
    return now, "0"


def _connections(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    _in_range("MaxConnections", value, 1, 65535)
    return now, "1"


def _recovery(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    _in_range("ErrorRecoveryLevel", value, 0, 2)
    return now, "0"


def _protocol_level(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    return now, str(min(_in_range("iSCSIProtocolLevel", value, 0, 31), 1))


def _task_reporting(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    return now, "RFC3720" if "RFC3720" in value.split(",") else "Reject"


def _ordered(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    _is_yes("ordering", value)  # OR with our Yes
    return now, "Yes"


def _no_markers(now: Parameters, _offer: Offer, value: str) -> tuple[Parameters, Answer]:
    _is_yes("marker", value)
    return now, "No"


def _rejected(now: Parameters, _offer: Offer, _value: str) -> tuple[Parameters, Answer]:
    return now, "Reject"


def _noted(now: Parameters, _offer: Offer, _value: str) -> tuple[Parameters, Answer]:
    return now, None


class When(enum.Flag):
    """Where a key may appear."""

    LOGIN = enum.auto()
    FULL_FEATURE = enum.auto()


RULES: dict[str, tuple[When, Rule]] = {
    "HeaderDigest": (When.LOGIN, _header_digest),
    "DataDigest": (When.LOGIN, _data_digest),
    "InitialR2T": (When.LOGIN, _initial_r2t),
    "ImmediateData": (When.LOGIN, _immediate_data),
    "MaxRecvDataSegmentLength": (When.LOGIN | When.FULL_FEATURE, _max_recv),
    "MaxBurstLength": (When.LOGIN, _max_burst),
    "FirstBurstLength": (When.LOGIN, _first_burst),
    "MaxOutstandingR2T": (When.LOGIN, _outstanding),
    "DefaultTime2Wait": (When.LOGIN, _time2wait),
    "DefaultTime2Retain": (When.LOGIN, _time2retain),
    "MaxConnections": (When.LOGIN, _connections),
    "ErrorRecoveryLevel": (When.LOGIN, _recovery),
    "DataPDUInOrder": (When.LOGIN, _ordered),
    "DataSequenceInOrder": (When.LOGIN, _ordered),
    "iSCSIProtocolLevel": (When.LOGIN, _protocol_level),
    "TaskReporting": (When.LOGIN, _task_reporting),
    "OFMarker": (When.LOGIN, _no_markers),
    "IFMarker": (When.LOGIN, _no_markers),
    "OFMarkInt": (When.LOGIN, _rejected),
    "IFMarkInt": (When.LOGIN, _rejected),
    "InitiatorName": (When.LOGIN, _noted),
    "InitiatorAlias": (When.LOGIN | When.FULL_FEATURE, _noted),
    "SessionType": (When.LOGIN, _noted),
    "TargetName": (When.LOGIN, _noted),
}


def negotiate(
    now: Parameters, offer: Offer, key: str, value: str, when: When
) -> tuple[Parameters, Answer]:
    """The parameters after one key, and our answer (None: nothing to say).

    Raises `NegotiationError` when the value is outside the key's range.
    """
    if value in {"NotUnderstood", "Irrelevant", "Reject"}:
        return now, None
    rule = RULES.get(key)
    if rule is None:
        return now, "NotUnderstood"
    if not rule[0] & when:
        return now, "Reject"
    return rule[1](now, offer, value)


def agreed(now: Parameters) -> Parameters:
    """The parameters at the end of login: the first burst never exceeds a burst."""
    return replace(now, first_burst_bytes=min(now.first_burst_bytes, now.max_burst_bytes))
