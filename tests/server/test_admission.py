"""Admission: limits on transports, policies, answers from outside."""

from __future__ import annotations

import pytest

from tests._sessions import REQUEST
from tests.server._clients import Client, endpoint, only
from wsproto_sip.auth.identity import Identity
from wsproto_sip.events import (
    AcceptConnection,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.policy.decision import (
    Continue,
    Decision,
    Deferred,
    Reject,
    RequestContext,
    Respond,
)
from wsproto_sip.policy.forwarded import ForwardedPolicy, TrustedNetworks
from wsproto_sip.policy.health import HealthPolicy
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import (
    AdmissionPending,
    Answer,
    CapacityError,
    Closed,
    Opened,
)
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import Cause, TransportAction
from wsproto_sip.utilities import LocalProtocolError


class TestCapacity:
    @pytest.mark.parametrize(
        ("options", "second"),
        [
            ({"max_connections": 1}, "192.0.2.2"),
            ({"max_per_address": 1}, "192.0.2.1"),
            ({"max_handshaking": 1}, "192.0.2.1"),
            ({"max_handshaking_per_address": 1}, "192.0.2.1"),
        ],
    )
    def test_full(self, options: dict[str, int], second: str) -> None:
        server = endpoint(**options)
        first = server.accept(("192.0.2.1", 1), 0.0)
        with pytest.raises(CapacityError, match=second):
            server.accept((second, 2), 0.0)
        if "per_address" in next(iter(options)):
            server.accept(("192.0.2.9", 2), 0.0)
        server.receive(first, None, 0.0)
        if "per_address" not in next(iter(options)):
            assert server.accept((second, 2), 0.0) == 2

    def test_handshakes_of_many_addresses_keep_no_other_away(self) -> None:
        """The oldest of the address with the most makes room for one that has fewer."""
        server = endpoint(max_handshaking=6)
        of_a = [server.accept(("192.0.2.1", port), 0.0) for port in range(3)]
        for port in range(2):
            server.accept(("192.0.2.2", port), 0.0)
        server.connect("ws://192.0.2.9", 0.0)
        server.take_connects()
        new = [server.accept(("192.0.2.3", 1), 0.0), server.accept(("192.0.2.4", 1), 0.0)]
        gone = {output.cid: output.action for output in server.take_output()}
        assert gone.pop(of_a[0]) is TransportAction.ABORT
        # Both had two then.
        assert set(gone) == {of_a[1]}
        ended = [event for _, event in server.handle_timeout(0.0) if isinstance(event, Closed)]
        assert {event.cid for event in ended} == {of_a[0], *gone}
        assert {event.closed.cause for event in ended} == {Cause.LIMIT}
        assert server.statistics.turned_away == 2
        assert server.registry.handshaking == 6
        # Those that have the most make no room for themselves.
        with pytest.raises(CapacityError, match=r"192\.0\.2\.2 refused: 6 handshakes"):
            server.accept(("192.0.2.2", 9), 0.0)
        assert all(server.registry.get(cid) for cid in new)

    def test_connections_of_our_own_make_no_room(self) -> None:
        server = endpoint(max_handshaking=2)
        for _ in range(2):
            server.connect("ws://192.0.2.9", 0.0, reuse=False)
        with pytest.raises(CapacityError):
            server.accept(("192.0.2.1", 1), 0.0)

    def test_limits_can_be_disabled(self) -> None:
        server = endpoint(
            max_connections=None,
            max_per_address=None,
            max_handshaking=None,
            max_handshaking_per_address=None,
        )
        for _ in range(200):
            server.accept(("192.0.2.1", 1), 0.0)
        assert len(server) == 200

    def test_no_room_for_a_connection_of_our_own(self) -> None:
        near = endpoint(max_connections=1)
        near.connect("ws://a", 0.0)
        with pytest.raises(CapacityError, match="b"):
            near.connect("ws://b", 0.0)
        draining = endpoint()
        draining.drain(0.0, 1.0)
        with pytest.raises(CapacityError):
            draining.connect("ws://a", 0.0)


class TestAdmission:
    def test_opened(self) -> None:
        server = endpoint(SubprotocolPolicy(["sip"]))
        client = Client(server, subprotocols=["sip"])
        opened = only(client.given, Opened)
        assert isinstance(opened, Opened)
        assert (opened.cid, opened.subprotocol, opened.identity) == (1, "sip", None)
        assert isinstance(opened.request, Request)
        assert opened.request.target == "/"
        assert isinstance(client.received[0], AcceptConnection)
        assert client.received[0].subprotocol == "sip"
        assert len(server) == 1
        assert server.statistics.values()["ws_sip_successful_handshakes"] == 1

    def test_refused(self) -> None:
        server = endpoint(lambda context: Reject(403, "no", body=b"go away"))
        client = Client(server)
        rejection = client.received[0]
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 403
        assert client.action is TransportAction.CLOSE
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert not ended.opened
        assert ended.closed.cause is Cause.REJECTION
        assert len(server) == 0
        assert server.statistics.values()["ws_failed_handshakes"] == 1

    @pytest.mark.parametrize(
        ("method", "answer", "failed"),
        [("GET", Respond(200, body=b"page"), 0), ("HEAD", Reject(404), 1), ("GET", Continue(), 1)],
    )
    def test_plain_requests(self, method: str, answer: Decision, failed: int) -> None:
        seen: list[RequestContext] = []

        def look(context: RequestContext) -> Decision:
            seen.append(context)
            return answer

        server = endpoint(look, session=SessionConfig(plain_requests=True))
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        raw = f"{method} /page HTTP/1.1\r\nHost: example.com\r\n\r\n".encode()
        assert server.receive(cid, raw, 1.0) == []
        [context] = seen
        assert (context.method, context.upgrade) == (method, False)
        assert (context.request.target, context.now) == ("/page", 1.0)
        [output] = server.take_output()
        status = 426 if isinstance(answer, Continue) else answer.status  # type: ignore[union-attr]
        assert output.data.startswith(b"HTTP/1.1 %d " % status)
        assert output.data.endswith(b"page") is (status == 200)
        assert output.action is TransportAction.CLOSE
        ended = only(server.receive(cid, None, 2.0), Closed)
        assert isinstance(ended, Closed)
        assert not ended.opened
        # A page is not a failed handshake.
        assert server.statistics.values()["ws_failed_handshakes"] == failed

    def test_plain_requests_are_refused_by_default(self) -> None:
        server = endpoint(lambda context: Respond(200))
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        server.receive(cid, b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", 0.0)
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 426 ")

    def test_context_of_policies(self) -> None:
        seen: list[RequestContext] = []
        counts: list[tuple[int, int]] = []

        def look(context: RequestContext) -> Decision:
            seen.append(context)
            by_address = context.connections_by_address
            counts.append((context.connections, by_address.get(context.peer_address, 0)))
            return Continue()

        server = endpoint(look)
        Client(server, 7.0, secure=True)
        Client(server, 8.0)
        Client(server, 8.0, peer=("192.0.2.2", None))
        first, second, third = seen
        assert (first.now, first.peer_address, first.peer_port) == (7.0, "192.0.2.1", 4000)
        assert (first.secure, first.local_port, first.enabled) == (True, 8080, True)
        # Other connections, not this one.
        assert counts == [(0, 0), (1, 1), (2, 0)]
        # A context kept by a policy shows the current numbers.
        assert third.connections_by_address["192.0.2.1"] == 2
        assert dict(second.connections_by_address) == {"192.0.2.1": 1, "192.0.2.2": 1}
        assert len(second.connections_by_address) == 2

    def test_disabled_comes_before_anything_else(self) -> None:
        asked: list[RequestContext] = []

        def policy(context: RequestContext) -> Decision:
            asked.append(context)
            return Continue()

        server = endpoint(policy)
        server.enabled = False
        client = Client(server)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 503
        assert asked == []

    @pytest.mark.parametrize(
        "raw",
        [
            REQUEST.replace(b"Version: 13", b"Version: 8"),
            REQUEST.replace(b"Sec-WebSocket-Key", b"No-Key"),
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HT",
            b"\x16\x03\x01",
        ],
    )
    def test_disabled_comes_before_what_is_wrong_with_a_request(self, raw: bytes) -> None:
        server = endpoint()
        server.enabled = False
        client = Client(server, shake_hands=False)
        assert server.receive(client.cid, b"", 0.0) == []
        assert server.take_output() == []
        assert server.receive(client.cid, raw, 0.0) == []
        assert server.receive(client.cid, raw, 0.0) == []
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 503 ")
        assert output.action is TransportAction.CLOSE
        client.hang_up(0.0)
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert ended.closed.cause is Cause.REJECTION
        assert server.statistics.failed_handshakes == 1

    def test_disabled_while_policies_are_asked(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        server.enabled = False
        assert server.receive(client.cid, b"\x81", 1.0) == []
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 503 ")
        server.enabled = True
        assert server.decide(client.cid, "yes", 1.0) == []
        assert server.statistics.hook_errors == 0

    def test_our_own_connections_open_while_disabled(self) -> None:
        server = endpoint()
        server.enabled = False
        cid = server.connect("ws://a.example/", 0.0)
        server.connected(cid, 0.0)
        given = server.receive(cid, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 0.0)
        assert isinstance(given[0], RejectConnection)

    def test_identity_and_user_data_stay_with_the_connection(self) -> None:
        server = endpoint(lambda context: Continue(identity=Identity("alice")))
        client = Client(server)
        [entry] = server.registry.by_identity("alice")
        assert entry.cid == client.cid
        entry.user_data = {"room": 5}
        client.hang_up(1.0)
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert ended.identity == Identity("alice")
        assert ended.user_data == {"room": 5}
        assert ended.opened

    def test_deferred(self) -> None:
        def ask(context: RequestContext) -> Decision:
            return Deferred(
                "who?",
                lambda answer: (
                    Continue(identity=Identity(str(answer))) if answer else Reject(401, "nobody")
                ),
            )

        for answer, status in (("bob", None), (None, 401)):
            server = endpoint(ask)
            client = Client(server)
            pending = only(client.given, AdmissionPending)
            assert isinstance(pending, AdmissionPending)
            assert (pending.cid, pending.question) == (1, "who?")
            given = server.decide(client.cid, answer, 1.0)
            assert server.decide(client.cid, answer, 1.0) == []
            client.exchange(1.0)
            if status is None:
                opened = only(given, Opened)
                assert isinstance(opened, Opened)
                assert opened.identity == Identity("bob")
                assert isinstance(client.received[0], AcceptConnection)
            else:
                assert isinstance(client.received[0], RejectConnection)
                assert client.received[0].status_code == status
        assert server.decide(99, "x", 1.0) == []

    def test_answer_after_disabling_is_503(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        server.enabled = False
        assert server.decide(client.cid, "yes", 1.0) == []
        client.exchange(1.0)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 503

    def test_late_answer_is_ignored(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Reject(401, "late")))
        client = Client(server)
        server.handle_timeout(10.0)
        assert server.decide(client.cid, "yes", 10.0) == []
        client.exchange(10.0)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 408
        assert server.statistics.hook_errors == 0
        assert server.statistics.failed_handshakes == 1

    def test_answer_for_a_closed_connection_is_ignored(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        entry = server.registry.get(client.cid)
        assert entry is not None
        server.close(client.cid, now=1.0)
        assert server.decide(client.cid, "yes", 1.0) == []
        assert entry.pending is None
        client.exchange(1.0)
        rejection = only(client.received, RejectConnection)
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 503
        assert server.statistics.hook_errors == 0
        assert server.statistics.failed_handshakes == 1
        assert [type(event) for event in client.given] == [AdmissionPending, Closed]

    def test_client_may_leave_while_a_question_is_open(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        client.hang_up(1.0)
        assert [type(event) for event in client.given] == [AdmissionPending, Closed]
        assert server.decide(client.cid, "yes", 1.0) == []

    def test_second_question(self) -> None:
        server = endpoint(
            lambda context: Deferred(1, lambda answer: Deferred(2, lambda answer: Continue()))
        )
        client = Client(server)
        [pending] = server.decide(client.cid, "yes", 1.0)
        assert pending == AdmissionPending(client.cid, 2)
        [opened] = server.decide(client.cid, "yes", 2.0)
        assert isinstance(opened, Opened)

    def test_policy_that_closes_the_connection_it_is_asked_about(self) -> None:
        def closes(context: RequestContext) -> Decision:
            server.close(1, now=0.0)
            return Continue()

        server = endpoint(closes)
        client = Client(server)
        assert [type(event) for event in client.given] == [Closed]
        assert len(server) == 0
        assert server.statistics.hook_errors == 0
        assert server.statistics.failed_handshakes == 1

    def test_policy_that_ends_the_connection_it_is_asked_about(self) -> None:
        def ends(context: RequestContext) -> Decision:
            server.close(1, now=0.0)
            server.close(1, now=0.0)
            return Continue()

        server = endpoint(ends)
        client = Client(server)
        # The end was known before the call of the policy returned.
        assert client.given == []
        [(cid, ended)] = server.handle_timeout(0.0)
        assert (cid, type(ended)) == (1, Closed)
        assert len(server) == 0
        assert server.statistics.hook_errors == 0
        assert server.statistics.failed_handshakes == 1

    @pytest.mark.parametrize(
        "decision",
        [
            # A body is announced, but does not follow.
            Reject(403, headers=[(b"content-length", b"5")]),
            Continue(headers=[(b"x", b"y")], subprotocol="msrp"),
            None,
        ],
    )
    def test_decision_that_cannot_be_carried_out(self, decision: Decision) -> None:
        server = endpoint(lambda context: decision)
        client = Client(server, subprotocols=["sip"])
        rejection = only(client.received, RejectConnection)
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 500
        assert server.statistics.hook_errors == 1
        assert server.statistics.failed_handshakes == 1

    @pytest.mark.parametrize(
        "decision",
        [
            Reject(304, body=b"a response without a body"),
            Reject(403, body="text"),  # type: ignore[arg-type]
        ],
    )
    def test_rejection_that_breaks_off_ends_its_connection(self, decision: Decision) -> None:
        server = endpoint(lambda context: decision)
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        [closed] = server.receive(cid, REQUEST, 0.0)
        assert isinstance(closed, Closed)
        [output] = server.take_output()
        assert output.action is TransportAction.ABORT
        assert len(server) == 0
        assert server.statistics.hook_errors == 1
        assert server.statistics.failed_handshakes == 1

    def test_failing_extension_hook_is_answered_with_500(self) -> None:
        def broken(subprotocol: str | None) -> list[PerMessageDeflate]:
            raise RuntimeError("no zlib")

        server = endpoint(extensions=broken)
        client = Client(server)
        rejection = only(client.received, RejectConnection)
        assert isinstance(rejection, RejectConnection)
        assert rejection.status_code == 500
        assert server.statistics.hook_errors == 1

    def test_policy_that_raises_costs_its_connection_only(self) -> None:
        def broken(context: RequestContext) -> Decision:
            raise RuntimeError("database gone")

        server = endpoint(broken)
        client = Client(server)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 500
        assert server.statistics.hook_errors == 1

    def test_policy_that_chooses_what_was_not_offered(self) -> None:
        server = endpoint(lambda context: Continue(subprotocol="sip"))
        client = Client(server)
        assert isinstance(client.received[0], RejectConnection)
        assert client.received[0].status_code == 500
        assert server.statistics.hook_errors == 1

    def test_addresses_from_a_proxy(self) -> None:
        server = endpoint(ForwardedPolicy(TrustedNetworks(["192.0.2.0/24"])))
        client = Client(server, headers=[(b"Forwarded", b'for="[2001:db8::1]:99";proto=https')])
        entry = server.registry.get(client.cid)
        assert entry is not None
        assert entry.peer == ("2001:db8::1", 99)
        assert entry.secure
        client.hang_up(1.0)
        ended = only(client.given, Closed)
        assert isinstance(ended, Closed)
        assert (ended.address, ended.port) == ("2001:db8::1", 99)

    def test_extensions(self) -> None:
        asked: list[str | None] = []

        def extensions(subprotocol: str | None) -> list[PerMessageDeflate]:
            asked.append(subprotocol)
            return [PerMessageDeflate()]

        server = endpoint(SubprotocolPolicy(["sip"]), extensions=extensions)
        Client(server, subprotocols=["sip"])
        assert asked == ["sip"]

    def test_frames_after_the_request(self) -> None:
        server = endpoint()
        cid = server.accept(("192.0.2.1", 1), 0.0)
        given = server.receive(cid, REQUEST + b"\x81\x81\0\0\0\0a", 0.0)
        assert [type(event) for event in given] == [Opened, TextMessage]
        assert server.statistics.values()["ws_received_frames"] == 1

    def test_invalid_handshake_is_refused(self) -> None:
        server = endpoint()
        client = Client(server, shake_hands=False)
        client.given += server.receive(client.cid, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0.0)
        [output] = server.take_output()
        assert output.data.startswith(b"HTTP/1.1 426")
        assert output.action is TransportAction.CLOSE
        client.hang_up(0.0)
        assert server.statistics.values()["ws_failed_handshakes"] == 1
        assert len(server) == 0

    def test_caller_cannot_answer_a_handshake(self) -> None:
        server = endpoint(lambda context: Deferred("?", lambda answer: Continue()))
        client = Client(server)
        for event in (AcceptConnection(), RejectConnection(), RejectData(b""), TextMessage("a")):
            with pytest.raises(LocalProtocolError, match="connection 1 is not open"):
                server.send(client.cid, event, 0.0)
        server.decide(client.cid, "yes", 0.0)
        with pytest.raises(LocalProtocolError, match="AcceptConnection"):
            server.send(client.cid, AcceptConnection(), 0.0)


PLAIN = SessionConfig(plain_requests=True)


def fetch(state: str, target: str, *, before: bool = False, method: str = "GET") -> bytes:
    """Return the answer of an endpoint in a state to a plain request."""
    server = endpoint(
        lambda _: Reject(403), session=PLAIN, health=HealthPolicy("/healthz", "/readyz")
    )
    if before:
        cid = server.accept(("192.0.2.1", 1), 0.0)
    if state == "disabled":
        server.enabled = False
    elif state == "draining":
        server.drain(0.0, 100.0)
    if not before:
        cid = server.accept(("192.0.2.1", 1), 0.0)
    server.receive(cid, f"{method} {target} HTTP/1.1\r\nHost: 10.0.0.1\r\n\r\n".encode(), 0.0)
    return b"".join(output.data for output in server.take_output())


@pytest.mark.parametrize("state", ["open", "disabled", "draining"])
@pytest.mark.parametrize("before", [False, True], ids=["opened after", "opened before"])
def test_endpoint_answers_in_every_state_and_with_every_policy(state: str, before: bool) -> None:
    alive = fetch(state, "/healthz", before=before)
    assert alive.startswith(b"HTTP/1.1 200 ")
    assert alive.endswith(b"\r\n\r\nalive\n")
    ready = fetch(state, "/readyz", before=before)
    if state == "open":
        assert ready.startswith(b"HTTP/1.1 200 ")
        assert fetch(state, "/", before=before).startswith(b"HTTP/1.1 403 ")
    else:
        assert ready.startswith(b"HTTP/1.1 503 ")
        assert ready.endswith(b"\r\n\r\nnot ready\n")
        assert fetch(state, "/", before=before).startswith(b"HTTP/1.1 503 ")


def test_head_gets_the_header_of_the_same_answer() -> None:
    head, _, body = fetch("open", "/healthz", method="HEAD").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: 6" in head.lower()
    assert body == b""


class TestAnswers:
    """The endpoint's report on requests that did not open a connection."""

    @staticmethod
    def answer_of(server: Endpoint, raw: bytes, *later: float) -> Answer:
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        given = server.receive(cid, raw, 1.0)
        for now in later:
            given += [event for _, event in server.handle_timeout(now)]
        given += server.receive(cid, None, 20.0)
        closed = only(given, Closed)
        assert isinstance(closed, Closed)
        assert not closed.opened
        assert closed.answer is not None
        return closed.answer

    def test_refusal_by_a_policy_is_reported(self) -> None:
        forwarded = ForwardedPolicy(TrustedNetworks(["192.0.2.1"]))
        server = endpoint(forwarded, lambda _: Reject(403, "not you"))
        client = Client(server, headers=[(b"Forwarded", b'for="203.0.113.9:77"')])
        closed = only(client.given, Closed)
        assert isinstance(closed, Closed)
        assert closed.answer is not None
        assert (closed.answer.status, closed.answer.reason) == (403, "not you")
        assert closed.answer.peer == ("203.0.113.9", 77)
        assert (closed.address, closed.transport) == ("192.0.2.1", ("192.0.2.1", 4000))
        assert closed.answer.request is not None
        assert closed.answer.request.host == "example.com"
        assert server.statistics.answers == {403: 1}

    def test_invalid_handshake_is_reported(self) -> None:
        server = endpoint()
        answer = self.answer_of(server, b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert (answer.status, answer.reason) == (
            426,
            "the request does not ask for an upgrade to websocket",
        )
        assert answer.request is not None
        assert (answer.request.host, answer.request.target) == ("a.test", "/x")
        assert server.statistics.answers == {426: 1}
        assert server.statistics.failed_handshakes == 1

    def test_handshake_timeout_is_reported(self) -> None:
        server = endpoint()
        answer = self.answer_of(server, b"GET /x HTTP/1.1\r\n", 10.0, 10.1)
        assert (answer.status, answer.request) == (408, None)
        assert server.statistics.answers == {408: 1}

    def test_refusal_while_disabled_is_reported(self) -> None:
        server = endpoint()
        server.enabled = False
        answer = self.answer_of(server, b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert (answer.status, answer.request) == (503, None)
        assert answer.reason == "no new connections are wanted"

    def test_unsendable_decision_is_answered_with_500(self) -> None:
        server = endpoint(lambda _: Reject(403, body="text"))  # type: ignore[arg-type]
        client = Client(server)
        closed = only(client.given, Closed)
        assert isinstance(closed, Closed)
        assert closed.answer is not None
        assert (closed.answer.status, closed.answer.reason) == (500, "the decision cannot be sent")

    def test_client_that_goes_away_gets_no_answer(self) -> None:
        server = endpoint()
        cid = server.accept(("192.0.2.1", 4000), 0.0)
        closed = only(server.receive(cid, None, 1.0), Closed)
        assert isinstance(closed, Closed)
        assert closed.answer is None
        assert server.statistics.answers == {}
        assert server.statistics.failed_handshakes == 1
