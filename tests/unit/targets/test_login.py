"""Text keys, negotiation, CHAP and the login table, with no sockets."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.iscsi import chap, text
from targets.iscsi.chap import ChapCredentials, ChapError
from targets.iscsi.login import (
    MAX_REQUESTS,
    TABLE,
    Input,
    LoginMachine,
    LoginStatus,
    Request,
    Rules,
    State,
)
from targets.iscsi.negotiation import (
    RULES,
    NegotiationError,
    Offer,
    Parameters,
    When,
    agreed,
    negotiate,
)

pytestmark = pytest.mark.plain

NAME = {"InitiatorName": "iqn.2026-11.example:host", "TargetName": "iqn.2026-11.io.trilun:v"}
CREDENTIALS = ChapCredentials("user", "secret12secret", "target", "other34secret")

keys = st.from_regex(r"[A-Z][A-Za-z0-9]{0,20}", fullmatch=True)
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)


@given(st.dictionaries(keys, values, max_size=20))
def test_text_round_trip(pairs: dict[str, str]) -> None:
    assert text.decode(text.encode(pairs.items())) == list(pairs.items())


@given(st.binary(max_size=300))
def test_text_never_fails_otherwise(data: bytes) -> None:
    try:
        text.decode(data)
    except text.TextError:
        return


@pytest.mark.parametrize("data", [b"novalue\0", b"=x\0", b"A=1\0A=2\0", b"\xff=1\0", b"a b=1\0"])
def test_text_refuses(data: bytes) -> None:
    with pytest.raises(text.TextError):
        text.decode(data)


@given(st.binary(min_size=1, max_size=64))
def test_binary_values(value: bytes) -> None:
    assert text.binary(text.hexadecimal(value)) == value


def test_numbers_and_base64() -> None:
    assert (text.number("0x1F"), text.number("31")) == (31, 31)
    assert text.binary("0baGVsbG8=") == b"hello"
    for bad in ("", "-1", "0x", "1e3", "99999999999999999999999"):
        with pytest.raises(text.TextError):
            text.number(bad)
    for bad in ("hello", "0xzz", "0b???"):
        with pytest.raises(text.TextError):
            text.binary(bad)


@pytest.mark.parametrize(
    ("key", "value", "answer"),
    [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("DataDigest", "Fancy", "Reject"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxRecvDataSegmentLength", "65536", None),
        ("MaxBurstLength", "16776192", str(1 << 20)),
        ("MaxBurstLength", "0x200", "512"),
        ("FirstBurstLength", "65536", "65536"),
        ("MaxOutstandingR2T", "16", "1"),
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "5", "5"),
        ("DefaultTime2Retain", "20", "0"),
        ("MaxConnections", "8", "1"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "Yes", "Yes"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("TaskReporting", "RFC3720,FastAbort", "RFC3720"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("OFMarker", "Yes", "No"),
        ("IFMarkInt", "1~65535", "Reject"),
        ("InitiatorAlias", "me", None),
        ("X-com.example", "1", "NotUnderstood"),
        ("MaxBurstLength", "Irrelevant", None),
    ],
)
def test_answers(key: str, value: str, answer: str | None) -> None:
    assert negotiate(Parameters(), Offer(), key, value, When.LOGIN)[1] == answer


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MaxBurstLength", "511"),
        ("FirstBurstLength", "16777216"),
        ("ErrorRecoveryLevel", "3"),
        ("InitialR2T", "maybe"),
        ("MaxConnections", "many"),
    ],
)
def test_values_out_of_range(key: str, value: str) -> None:
    with pytest.raises(NegotiationError):
        negotiate(Parameters(), Offer(), key, value, When.LOGIN)


def test_only_some_keys_belong_to_full_feature() -> None:
    now, answer = negotiate(Parameters(), Offer(), "InitialR2T", "No", When.FULL_FEATURE)
    assert (now, answer) == (Parameters(), "Reject")
    now, _ = negotiate(now, Offer(), "MaxRecvDataSegmentLength", "4096", When.FULL_FEATURE)
    assert now.max_send_segment_bytes == 4096
    assert agreed(Parameters(max_burst_bytes=512)).first_burst_bytes == 512


@given(st.sampled_from(sorted(RULES)), values)
def test_no_value_breaks_negotiation(key: str, value: str) -> None:
    try:
        negotiate(Parameters(), Offer(), key, value, When.LOGIN)
    except NegotiationError:
        return


def test_chap_vectors() -> None:
    challenge = bytes(range(16))
    for number, name in chap.ALGORITHMS.items():
        expected = hashlib.new(name, b"\x07secret" + challenge).digest()
        assert chap.response(number, 7, "secret", challenge) == expected
    # MD5("\x01" "abc" "xyz"), computed apart.
    assert chap.response("5", 1, "abc", b"xyz") == hashlib.md5(b"\x01abcxyz").digest()
    assert chap.choose("9,7,5") == "7"
    assert chap.choose("1") is None


def test_credentials_hide_their_secrets() -> None:
    assert "secret" not in repr(CREDENTIALS).replace("mutual_user='target'", "")
    with pytest.raises(ValueError):
        ChapCredentials("u", "same", "m", "same")
    with pytest.raises(ValueError):
        ChapCredentials("u", "s", "m")
    with pytest.raises(ValueError):
        ChapCredentials("u", "")


def machine(credentials: ChapCredentials | None = None) -> LoginMachine:
    def find(iqn: str) -> tuple[ChapCredentials | None, str] | None:
        return (credentials, "alias") if iqn == NAME["TargetName"] else None

    return LoginMachine(Rules(find, lambda count: bytes(range(count)), lambda *_names: True))


def request(
    stage: int, pairs: dict[str, str], *, to: int | None = None, more: bool = False, tsih: int = 0
) -> Request:
    data = text.encode(pairs.items())
    return Request(to is not None, more, stage, to or 0, 0, b"\0\x02\x3d\0\0\1", tsih, data)


def test_login_without_security() -> None:
    login = machine()
    reply = login.receive(request(1, NAME | {"InitialR2T": "No"}, to=3))
    assert (reply.status, reply.transit, login.state) == (0, True, State.DONE)
    assert dict(reply.pairs) == {
        "TargetPortalGroupTag": "1",
        "TargetAlias": "alias",
        "InitialR2T": "No",
        "MaxRecvDataSegmentLength": "262144",
    }
    assert not login.parameters.initial_r2t


def test_login_in_two_stages() -> None:
    login = machine()
    reply = login.receive(request(0, NAME | {"AuthMethod": "CHAP,None"}, to=1))
    assert (dict(reply.pairs)["AuthMethod"], reply.next_stage) == ("None", 1)
    assert login.receive(request(1, {"DataDigest": "CRC32C"})).transit is False
    assert login.receive(request(1, {}, to=3)).transit
    assert login.parameters.data_digest
    assert login.state is State.DONE


def proof(pairs: tuple[tuple[str, str], ...], secret: str, user: str = "user") -> dict[str, str]:
    asked = dict(pairs)
    answer = chap.response(
        asked["CHAP_A"], int(asked["CHAP_I"]), secret, text.binary(asked["CHAP_C"])
    )
    return {"CHAP_N": user, "CHAP_R": text.hexadecimal(answer)}


def challenged() -> tuple[LoginMachine, tuple[tuple[str, str], ...]]:
    login = machine(CREDENTIALS)
    assert login.receive(request(0, NAME | {"AuthMethod": "CHAP"}, to=1)).transit is False
    reply = login.receive(request(0, {"CHAP_A": "7,5"}))
    assert dict(reply.pairs)["CHAP_A"] == "7"
    return login, reply.pairs


def test_chap_one_way_and_mutual() -> None:
    login, asked = challenged()
    assert login.receive(request(0, proof(asked, "secret12secret"), to=1)).transit
    login, asked = challenged()
    mutual = {"CHAP_I": "9", "CHAP_C": "0x" + "ab" * 16}
    reply = login.receive(request(0, proof(asked, "secret12secret") | mutual, to=3))
    expected = chap.response("7", 9, "other34secret", b"\xab" * 16)
    assert dict(reply.pairs) == {"CHAP_N": "target", "CHAP_R": text.hexadecimal(expected)}
    assert login.state is State.DONE


@pytest.mark.parametrize("user", ["user", "nobody"])
def test_chap_refuses(user: str) -> None:
    login, asked = challenged()
    secret = "wrong" if user == "user" else "secret12secret"
    reply = login.receive(request(0, proof(asked, secret, user), to=1))
    assert reply.status is LoginStatus.AUTHENTICATION_FAILED
    assert login.receive(request(0, {})).status is LoginStatus.INVALID_REQUEST


def test_chap_refuses_reflection() -> None:
    login, asked = challenged()
    mirrored = {"CHAP_I": dict(asked)["CHAP_I"], "CHAP_C": dict(asked)["CHAP_C"]}
    reply = login.receive(request(0, proof(asked, "secret12secret") | mirrored, to=1))
    assert reply.status is LoginStatus.AUTHENTICATION_FAILED
    with pytest.raises(ChapError):
        chap.prove(ChapCredentials("u", "s"), chap.Challenge("5", 1, b"x"), 1, b"y")


def test_chap_cant_be_skipped() -> None:
    for first in (
        request(1, NAME, to=3),
        request(0, NAME, to=1),
        request(0, NAME | {"AuthMethod": "None"}, to=1),
    ):
        reply = machine(CREDENTIALS).receive(first)
        assert reply.status is LoginStatus.AUTHENTICATION_FAILED


STATES: dict[State, list[Request]] = {
    State.START: [],
    State.METHOD_AGREED: [request(0, NAME | {"AuthMethod": "CHAP"})],
    State.CHALLENGED: [request(0, NAME | {"AuthMethod": "CHAP"}), request(0, {"CHAP_A": "5"})],
    State.AUTHENTICATED: [request(0, NAME | {"AuthMethod": "None"})],
    State.OPERATIONAL: [request(1, NAME)],
    State.DONE: [request(1, NAME, to=3)],
    State.FAILED: [request(0, {})],
}
INPUTS: dict[Input, Request] = {
    Input.METHOD: request(0, {"AuthMethod": "CHAP,None"}),
    Input.ALGORITHM: request(0, {"CHAP_A": "5"}),
    Input.RESPONSE: request(0, {"CHAP_N": "user", "CHAP_R": "0x00"}),
    Input.SECURITY: request(0, {}),
    Input.OPERATIONAL: request(1, {}),
}


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("what", list(Input))
def test_every_state_and_input(state: State, what: Input) -> None:
    needs_chap = state in {State.METHOD_AGREED, State.CHALLENGED}
    login = machine(CREDENTIALS if needs_chap else None)
    for each in STATES[state]:
        login.receive(each)
    assert login.state is state
    asked = INPUTS[what]
    if state is State.START:
        pairs = dict(text.decode(asked.data)) | NAME
        asked = request(asked.current_stage, pairs)
    reply = login.receive(asked)
    if (state, what) not in TABLE:
        assert reply.status is not LoginStatus.SUCCESS
        assert login.state is State.FAILED
    elif (state, what) == (State.CHALLENGED, Input.RESPONSE):
        assert reply.status is LoginStatus.AUTHENTICATION_FAILED
    elif (state, what) == (State.AUTHENTICATED, Input.SECURITY) or reply.status == 0:
        assert login.state is not State.FAILED


@pytest.mark.parametrize(
    ("first", "status"),
    [
        (request(1, {}, to=3), LoginStatus.MISSING_PARAMETER),
        (request(1, {"InitiatorName": "iqn.x"}, to=3), LoginStatus.MISSING_PARAMETER),
        (request(1, NAME | {"TargetName": "iqn.none"}, to=3), LoginStatus.NOT_FOUND),
        (request(1, NAME | {"SessionType": "Odd"}, to=3), LoginStatus.SESSION_TYPE),
        (request(2, NAME, to=3), LoginStatus.INITIATOR_ERROR),
        (request(1, NAME, to=1), LoginStatus.INITIATOR_ERROR),
        (request(1, NAME | {"MaxBurstLength": "1"}), LoginStatus.INITIATOR_ERROR),
        (Request(False, False, 1, 0, 1, b"", 0, b""), LoginStatus.UNSUPPORTED_VERSION),
        (Request(False, False, 1, 0, 0, b"", 0, b"\xff\0"), LoginStatus.INITIATOR_ERROR),
        (Request(True, True, 1, 3, 0, b"", 0, b""), LoginStatus.INITIATOR_ERROR),
    ],
)
def test_refused_at_once(first: Request, status: LoginStatus) -> None:
    assert machine().receive(first).status is status


def test_discovery_and_continued_text() -> None:
    login = machine()
    data = text.encode({"InitiatorName": "iqn.x", "SessionType": "Discovery"}.items())
    first = Request(False, True, 1, 0, 0, b"1", 0, data[:20])
    assert login.receive(first).pairs == ()
    assert login.receive(Request(True, False, 1, 3, 0, b"1", 0, data[20:])).transit
    assert login.discovery


def test_login_is_bounded() -> None:
    login = machine()
    login.receive(request(1, NAME))
    replies = [login.receive(request(1, {})) for _ in range(MAX_REQUESTS)]
    assert replies[-1].status is LoginStatus.INVALID_REQUEST
    login = machine()
    big = Request(False, True, 1, 0, 0, b"", 0, b"x" * 60000)
    login.receive(big)
    assert login.receive(big).status is LoginStatus.INITIATOR_ERROR
    login = machine()
    login.receive(request(1, NAME | {"InitialR2T": "No"}))
    assert login.receive(request(1, {"InitialR2T": "No"})).status is LoginStatus.INITIATOR_ERROR
