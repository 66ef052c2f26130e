"""The login phase as a table (RFC 7143, 6.3 and 11.12 to 11.13).

Owns who gets in, and with which parameters. Must not know sockets, sessions or clocks: it is
fed one request at a time and answers with one. Fails by an answer with a failure status,
after which the connection ends.

Rules of the table: the first request names initiator and target. A target without CHAP lets
the initiator skip the security stage; one with CHAP never does. CHAP takes three steps in
order (AuthMethod, CHAP_A, CHAP_N with CHAP_R), and none may come again. The operational stage
is entered once, and never left but for the full feature phase.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from targets.iscsi import chap, text
from targets.iscsi.chap import ChapCredentials, ChapError
from targets.iscsi.negotiation import (
    NegotiationError,
    Offer,
    Parameters,
    When,
    agreed,
    negotiate,
)
from targets.naming import MAX_NAME_BYTES

MAX_REQUESTS = 32
SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3


class LoginStatus(enum.IntEnum):
    """Status class and detail (RFC 7143, 11.13.5)."""

    SUCCESS = 0x0000
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILED = 0x0201
    FORBIDDEN = 0x0202
    NOT_FOUND = 0x0203
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    SESSION_TYPE = 0x0209
    NO_SESSION = 0x020A
    INVALID_REQUEST = 0x020B
    OUT_OF_RESOURCES = 0x0302


class State(enum.Enum):
    """Where a login stands."""

    START = "start"
    METHOD_AGREED = "method_agreed"
    CHALLENGED = "challenged"
    AUTHENTICATED = "authenticated"
    OPERATIONAL = "operational"
    DONE = "done"
    FAILED = "failed"


class Input(enum.Enum):
    """What a request is, by its stage and keys."""

    METHOD = "method"
    """Security stage with AuthMethod."""
    ALGORITHM = "algorithm"
    """Security stage with CHAP_A."""
    RESPONSE = "response"
    """Security stage with CHAP_N or CHAP_R."""
    SECURITY = "security"
    """Security stage with none of these."""
    OPERATIONAL = "operational"
    """Operational stage."""


@dataclass(frozen=True, slots=True)
class Request:
    """A login request's fields that matter here."""

    transit: bool
    more: bool
    current_stage: int
    next_stage: int
    version_min: int
    isid: bytes
    tsih: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """What to answer."""

    status: LoginStatus = LoginStatus.SUCCESS
    transit: bool = False
    current_stage: int = SECURITY
    next_stage: int = SECURITY
    pairs: tuple[tuple[str, str], ...] = ()
    detail: str = ""
    """For the log; never holds a secret."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the machine has to know about its surroundings."""

    find: Callable[[str], tuple[ChapCredentials | None, str] | None]
    """Credentials and alias of a target by name; None when there is no such target."""
    random_bytes: Callable[[int], bytes]
    admits: Callable[[str, str], bool]
    """Whether an initiator (the second name) may log in to a target that there is."""
    discovery_chap: ChapCredentials | None = None
    offer: Offer = field(default_factory=Offer)
    portal_group: int = 1


class LoginError(Exception):
    """The login fails with a status."""

    def __init__(self, status: LoginStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


Keys = dict[str, str]
Action = Callable[["LoginMachine", Request, Keys], tuple[State, list[tuple[str, str]]]]


class LoginMachine:
    """One connection's login, from the first request to the full feature phase."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.state = State.START
        self.initiator = ""
        self.target = ""
        self.discovery = False
        self.isid = b""
        self.parameters = Parameters()
        self._credentials: ChapCredentials | None = None
        self._alias = ""
        self._challenge: chap.Challenge | None = None
        self._requests = 0
        self._partial = b""
        self._stage = SECURITY
        self._declared = False
        self._seen: set[str] = set()

    def receive(self, request: Request) -> Reply:
        """Take one request and say what to answer; `state` tells whether login has ended."""
        try:
            return self._receive(request)
        except LoginError as error:
            self.state = State.FAILED
            return Reply(error.status, current_stage=request.current_stage, detail=str(error))
        except ChapError as error:
            self.state = State.FAILED
            status = LoginStatus.AUTHENTICATION_FAILED
            return Reply(status, current_stage=request.current_stage, detail=str(error))
        except (text.TextError, NegotiationError) as error:
            self.state = State.FAILED
            status = LoginStatus.INITIATOR_ERROR
            return Reply(status, current_stage=request.current_stage, detail=str(error))

    def _receive(self, request: Request) -> Reply:
        self._check(request)
        self._partial += request.data
        if len(self._partial) > text.MAX_TEXT_BYTES:
            raise LoginError(LoginStatus.INITIATOR_ERROR, "login text too long")
        if request.more:
            return Reply(current_stage=request.current_stage)
        keys = dict(text.decode(self._partial))
        self._partial = b""
        repeated = self._seen & keys.keys()
        if repeated:
            raise LoginError(LoginStatus.INITIATOR_ERROR, f"{min(repeated)} negotiated twice")
        self._seen |= keys.keys()
        pairs: list[tuple[str, str]] = []
        if self.state is State.START and not self.initiator:
            pairs += self._introduce(keys)
        action = TABLE.get((self.state, _classify(request, keys)))
        if action is None:
            raise LoginError(LoginStatus.INVALID_REQUEST, "request out of order")
        self.state, answers = action(self, request, keys)
        return self._reply(request, pairs + answers)

    def _check(self, request: Request) -> None:
        self._requests += 1
        if self.state in {State.DONE, State.FAILED} or self._requests > MAX_REQUESTS:
            raise LoginError(LoginStatus.INVALID_REQUEST, "too many login requests")
        if request.version_min > 0:
            raise LoginError(LoginStatus.UNSUPPORTED_VERSION, "only version 0 is supported")
        stage = request.current_stage
        forward = not request.transit or (
            stage < request.next_stage and request.next_stage in {OPERATIONAL, FULL_FEATURE}
        )
        if stage not in {SECURITY, OPERATIONAL} or not forward:
            raise LoginError(LoginStatus.INITIATOR_ERROR, "impossible stage")
        if request.transit and request.more:
            raise LoginError(LoginStatus.INITIATOR_ERROR, "transit and continue together")
        if stage < self._stage:
            raise LoginError(LoginStatus.INVALID_REQUEST, "stage went backwards")
        if self._requests > 1 and request.isid != self.isid:
            raise LoginError(LoginStatus.INITIATOR_ERROR, "ISID changed during login")
        self.isid = request.isid

    def _introduce(self, keys: Keys) -> list[tuple[str, str]]:
        """Who wants what: the keys of the first request (RFC 7143, 6.3.1)."""
        self.initiator = keys.get("InitiatorName", "")
        if not self.initiator:
            raise LoginError(LoginStatus.MISSING_PARAMETER, "no InitiatorName")
        if len(self.initiator.encode()) > MAX_NAME_BYTES or not self.initiator.isprintable():
            raise LoginError(LoginStatus.INITIATOR_ERROR, "malformed InitiatorName")
        kind = keys.get("SessionType", "Normal")
        if kind not in {"Normal", "Discovery"}:
            raise LoginError(LoginStatus.SESSION_TYPE, "unknown SessionType")
        self.discovery = kind == "Discovery"
        if self.discovery:
            self._credentials = self.rules.discovery_chap
            return [("TargetPortalGroupTag", str(self.rules.portal_group))]
        self.target = keys.get("TargetName", "")
        if not self.target:
            raise LoginError(LoginStatus.MISSING_PARAMETER, "no TargetName")
        found = self.rules.find(self.target)
        if found is None:
            raise LoginError(LoginStatus.NOT_FOUND, "no such target")
        if not self.rules.admits(self.target, self.initiator):
            raise LoginError(LoginStatus.FORBIDDEN, f"not in the list of {self.target}")
        self._credentials, self._alias = found
        pairs = [("TargetPortalGroupTag", str(self.rules.portal_group))]
        if self._alias:
            pairs.append(("TargetAlias", self._alias))
        return pairs

    def _reply(self, request: Request, pairs: list[tuple[str, str]]) -> Reply:
        """Grant a transit where the state allows it."""
        allowed = self.state in {State.AUTHENTICATED, State.OPERATIONAL}
        transit = request.transit and allowed
        if transit:
            self._stage = request.next_stage
            if request.next_stage == FULL_FEATURE:
                self.state = State.DONE
                self.parameters = agreed(self.parameters)
            else:
                self.state = State.OPERATIONAL
        return Reply(
            transit=transit,
            current_stage=request.current_stage,
            next_stage=request.next_stage if transit else SECURITY,
            pairs=tuple(pairs),
        )

    # ------------------------------------------------------------------ the table's actions

    def choose_method(self, _request: Request, keys: Keys) -> tuple[State, list[tuple[str, str]]]:
        """AuthMethod: CHAP when the target asks for it, else None."""
        offered = keys["AuthMethod"].split(",")
        if self._credentials is not None:
            if "CHAP" not in offered:
                raise ChapError("the target asks for CHAP")
            return State.METHOD_AGREED, [("AuthMethod", "CHAP"), *self._operational(keys)]
        if "None" not in offered:
            raise ChapError("the initiator insists on authentication, none is configured")
        return State.AUTHENTICATED, [("AuthMethod", "None"), *self._operational(keys)]

    def challenge(self, _request: Request, keys: Keys) -> tuple[State, list[tuple[str, str]]]:
        """CHAP_A: choose an algorithm and ask."""
        algorithm = chap.choose(keys["CHAP_A"])
        if algorithm is None:
            raise ChapError("no common CHAP algorithm")
        identifier = self.rules.random_bytes(1)[0]
        value = self.rules.random_bytes(chap.CHALLENGE_BYTES)
        self._challenge = chap.Challenge(algorithm, identifier, value)
        return State.CHALLENGED, [
            ("CHAP_A", algorithm),
            ("CHAP_I", str(identifier)),
            ("CHAP_C", text.hexadecimal(value)),
        ]

    def authenticate(self, _request: Request, keys: Keys) -> tuple[State, list[tuple[str, str]]]:
        """CHAP_N and CHAP_R: check the answer, and give ours when asked to."""
        assert self._credentials is not None
        assert self._challenge is not None
        if "CHAP_N" not in keys or "CHAP_R" not in keys:
            raise ChapError("CHAP_N and CHAP_R belong together")
        answer = text.binary(keys["CHAP_R"])
        chap.check(self._credentials, self._challenge, keys["CHAP_N"], answer)
        if "CHAP_I" not in keys and "CHAP_C" not in keys:
            return State.AUTHENTICATED, []
        identifier = text.number(keys.get("CHAP_I", ""))
        asked = text.binary(keys.get("CHAP_C", ""))
        name, proof = chap.prove(self._credentials, self._challenge, identifier, asked)
        return State.AUTHENTICATED, [("CHAP_N", name), ("CHAP_R", text.hexadecimal(proof))]

    def skip_security(self, request: Request, keys: Keys) -> tuple[State, list[tuple[str, str]]]:
        """No security keys at all: fine where none are asked for."""
        if self._credentials is not None:
            raise ChapError("the target asks for CHAP")
        if request.current_stage == OPERATIONAL:
            return self.operate(request, keys)
        return State.AUTHENTICATED, self._operational(keys)

    def go_on(self, _request: Request, keys: Keys) -> tuple[State, list[tuple[str, str]]]:
        """Authenticated, still in the security stage: operational keys are taken early."""
        return State.AUTHENTICATED, self._operational(keys)

    def operate(self, _request: Request, keys: Keys) -> tuple[State, list[tuple[str, str]]]:
        """Operational keys."""
        self._stage = OPERATIONAL
        answers = self._operational(keys)
        if not self._declared:
            self._declared = True
            size = self.rules.offer.max_recv_segment_bytes
            answers.append(("MaxRecvDataSegmentLength", str(size)))
        return State.OPERATIONAL, answers

    def _operational(self, keys: Keys) -> list[tuple[str, str]]:
        answers: list[tuple[str, str]] = []
        for key, value in keys.items():
            if key == "AuthMethod" or key.startswith("CHAP_"):
                continue
            self.parameters, answer = negotiate(
                self.parameters, self.rules.offer, key, value, When.LOGIN
            )
            if answer is not None:
                answers.append((key, answer))
        return answers


def _classify(request: Request, keys: Keys) -> Input:
    if request.current_stage == OPERATIONAL:
        return Input.OPERATIONAL
    if "AuthMethod" in keys:
        return Input.METHOD
    if "CHAP_A" in keys:
        return Input.ALGORITHM
    return Input.RESPONSE if {"CHAP_N", "CHAP_R"} & keys.keys() else Input.SECURITY


TABLE: dict[tuple[State, Input], Action] = {
    (State.START, Input.METHOD): LoginMachine.choose_method,
    (State.START, Input.SECURITY): LoginMachine.skip_security,
    (State.START, Input.OPERATIONAL): LoginMachine.skip_security,
    (State.METHOD_AGREED, Input.ALGORITHM): LoginMachine.challenge,
    (State.CHALLENGED, Input.RESPONSE): LoginMachine.authenticate,
    (State.AUTHENTICATED, Input.SECURITY): LoginMachine.go_on,
    (State.AUTHENTICATED, Input.OPERATIONAL): LoginMachine.operate,
    (State.OPERATIONAL, Input.OPERATIONAL): LoginMachine.operate,
}
"""Every pair that isn't here ends the login with INVALID_REQUEST."""
