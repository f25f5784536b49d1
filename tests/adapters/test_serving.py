"""Serving one connection: what decides about its request, in which order, and its close code."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters._serving import Serving, awaited, run_async, run_blocking
from wsproto_sip.adapters.exceptions import ConnectionClosedError, HandshakeRejected
from wsproto_sip.auth.identity import Identity
from wsproto_sip.events import AcceptConnection, Request
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.policy import Continue, Deferred, PolicyChain, Reject, RequestContext
from wsproto_sip.policy.decision import Respond
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed
from wsproto_sip.utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsproto_sip.policy.decision import Decision
    from wsproto_sip.typing import Address

LOGGER = logging.getLogger("wsproto_sip.test")

#: How often a connection may refuse an answer.
Fault = Exception | None


class Connection:
    """A stand-in for a driver."""

    def __init__(self, *, upgrade: bool = True, fault: Fault = None, asked: bool = True) -> None:
        self.request = Request("h", "/", subprotocols=["x", "msrp", "sip"]) if asked else None
        self.peer: Address = ("192.0.2.1", 5)
        self.local: Address = ("192.0.2.2", 80)
        self.secure = False
        self.identity: Identity | None = None
        self.method = "GET"
        self.upgrade = upgrade
        self.session = SimpleNamespace(closed=False)
        self.answers: list[Any] = []
        self._fault = fault

    def _time(self) -> float:
        return 7.0

    def answer(self, answer: Any) -> bool:
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        self.answers.append(answer)
        return isinstance(answer, AcceptConnection)


def serving(*policies: Callable[[RequestContext], Decision], **options: Any) -> Serving[Any]:
    chain = PolicyChain(policies) if policies else None
    return Serving(LOGGER, policies=chain, **options)


def answered(server: Serving[Any], connection: Connection | None = None) -> Any:
    """Answer a connection, as with threads and as on asyncio, and return the outcome."""
    connections = [connection] if connection else [Connection(), Connection()]
    opened = [run_blocking(server.answering(connections[0]))]
    if connection is None:

        async def asynchronous() -> bool:
            return await run_async(server.answering(connections[1]))

        opened.append(asyncio.run(asynchronous()))
    answers = [end.answers for end in connections]
    assert all(answer == answers[0] for answer in answers)
    [answer] = answers[0]
    assert opened == [isinstance(answer, AcceptConnection)] * len(connections)
    return answer


def refuse(context: RequestContext) -> Decision:
    return Reject(403, "no")


class TestWithoutPolicies:
    def test_clients_order_of_sub_protocols_decides(self) -> None:
        extension = PerMessageDeflate()
        server = serving(subprotocols=["sip", "msrp"], extensions=lambda: [extension])
        assert answered(server) == AcceptConnection("msrp", [extension])

    def test_missing_request_is_not_answered(self) -> None:
        connection = Connection(asked=False)
        assert not run_blocking(serving().answering(connection))
        assert connection.answers == []

    def test_connections_are_not_counted(self) -> None:
        server = serving()
        server.enter(Connection())
        assert not server._addresses
        server.leave(Connection())

    @pytest.mark.parametrize("own", [AcceptConnection("sip"), Reject(404), Respond(200)])
    def test_programs_answer_is_sent(self, own: Any) -> None:
        connection = Connection()
        server = serving(process_request=lambda end: own)
        assert answered(server, connection) is own

    def test_raised_rejection_is_sent(self) -> None:
        def process_request(connection: Connection) -> None:
            raise HandshakeRejected(401)

        assert answered(serving(process_request=process_request), Connection()).status_code == 401

    def test_invalid_answer_is_500(self, caplog: pytest.LogCaptureFixture) -> None:
        server = serving(process_request=lambda end: True)
        assert answered(server, Connection()).status_code == 500
        assert "must return AcceptConnection, Reject, Respond or None, not bool" in caplog.text

    def test_failure_of_the_program_is_500(self, caplog: pytest.LogCaptureFixture) -> None:
        def process_request(connection: Connection) -> None:
            raise ZeroDivisionError

        assert answered(serving(process_request=process_request), Connection()).status_code == 500
        assert "ZeroDivisionError" in caplog.text

    def test_unsendable_rejection_is_500(self, caplog: pytest.LogCaptureFixture) -> None:
        def process_request(connection: Connection) -> None:
            raise HandshakeRejected(401)

        connection = Connection(fault=LocalProtocolError("x"))
        assert answered(serving(process_request=process_request), connection).status_code == 500
        assert "a rejection could not be sent" in caplog.text


class TestPlainRequests:
    def test_program_may_answer_with_a_page(self) -> None:
        page = Respond(200, body=b"ok")
        server = serving(process_request=lambda end: None if end.upgrade else page)
        assert answered(server, Connection(upgrade=False)) is page
        assert isinstance(answered(server, Connection()), AcceptConnection)

    @pytest.mark.parametrize("policies", [[], [lambda context: Continue()]])
    def test_program_answers_after_policies(self, policies: Any) -> None:
        page = Respond(200, body=b"ok")
        server = serving(*policies, process_request=lambda end: page)
        assert answered(server, Connection(upgrade=False)) is page

    @pytest.mark.parametrize("policies", [[], [lambda context: Continue()]])
    def test_426_if_nothing_answers(self, policies: Any) -> None:
        assert answered(serving(*policies), Connection(upgrade=False)).status == 426

    def test_policies_are_asked_first(self) -> None:
        server = serving(refuse, process_request=lambda end: Respond(200))
        assert answered(server, Connection(upgrade=False)).status == 403

    def test_plain_request_cannot_be_accepted(self, caplog: pytest.LogCaptureFixture) -> None:
        server = serving(process_request=lambda end: AcceptConnection())
        assert answered(server, Connection(upgrade=False)).status_code == 500
        assert "answer a plain request with Respond()" in caplog.text


class TestPolicies:
    def test_refusal_of_a_policy_is_sent(self) -> None:
        assert answered(serving(refuse)) == Reject(403, "no")

    def test_admitted_request_gets_headers_identity_and_subprotocol(self) -> None:
        who = Identity("alice")

        def contribute(context: RequestContext) -> Decision:
            assert (context.now, context.peer_address, context.peer_port) == (7.0, "192.0.2.1", 5)
            assert (context.local_port, context.secure, context.method) == (80, False, "GET")
            return Continue([(b"x-a", b"1")], identity=who, subprotocol="sip")

        connection = Connection()
        server = serving(contribute, subprotocols=["msrp"])
        assert answered(server, connection) == AcceptConnection("sip", [], [(b"x-a", b"1")])
        assert connection.identity is who

    def test_header_fields_are_added_to_the_programs_answer(self) -> None:
        def contribute(context: RequestContext) -> Decision:
            return Continue([(b"x-a", b"1")])

        def process_request(connection: Connection) -> AcceptConnection:
            return AcceptConnection("sip", [], [(b"x-b", b"2")])

        server = serving(contribute, process_request=process_request)
        fields = [(b"x-a", b"1"), (b"x-b", b"2")]
        assert answered(server, Connection()) == AcceptConnection("sip", [], fields)

    def test_corrected_address_becomes_the_peer(self) -> None:
        def correct(context: RequestContext) -> Decision:
            there = RequestContext(context.request, peer_address="203.0.113.1", secure=True)
            return Continue(context=there)

        server, connection = serving(correct), Connection()
        server.enter(connection)
        answered(server, connection)
        assert connection.peer == ("203.0.113.1", None)
        assert connection.secure
        assert dict(server._counts) == {"203.0.113.1": 1}
        server.leave(connection)
        server.leave(connection)
        assert not server._counts

    def test_ended_connection_is_not_counted_again(self) -> None:
        connection = Connection()
        connection.session.closed = True
        server = serving(lambda context: Continue())
        answered(server, connection)
        assert not server._counts

    def test_other_connections_are_counted_by_address(self) -> None:
        seen: list[tuple[int, int]] = []

        def count(context: RequestContext) -> Decision:
            by_address = context.connections_by_address
            seen.append((context.connections, by_address[context.peer_address]))
            return Continue()

        server = serving(count)
        connections = [Connection() for _ in range(3)]
        connections[0].peer = ("192.0.2.9", 1)
        for connection in connections:
            server.enter(connection)
        answered(server, connections[2])
        assert seen == [(2, 1)]

    def test_addresses_of_one_ipv6_network_are_counted_together(self) -> None:
        server = serving(lambda context: Continue())
        for number in range(3):
            connection = Connection()
            connection.peer = (f"2001:db8::{number}", 1)
            server.enter(connection)
        assert server._counts == {"2001:db8::/64": 3}

    def test_deferred_decision_is_resolved(self) -> None:
        def defer(context: RequestContext) -> Decision:
            return Deferred("who?", lambda answer: Continue(identity=Identity(str(answer))))

        def resolve(connection: Connection, question: object) -> str:
            assert question == "who?"
            return "bob"

        connection = Connection()
        answered(serving(defer, resolve=resolve), connection)
        assert connection.identity == Identity("bob")

    def test_deferred_decision_without_resolve_is_500(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = serving(lambda context: Deferred(1, lambda answer: Continue()))
        assert answered(server, Connection()).status_code == 500
        assert "pass resolve=" in caplog.text

    def test_failing_policy_is_500(self, caplog: pytest.LogCaptureFixture) -> None:
        def fail(context: RequestContext) -> Decision:
            raise ZeroDivisionError

        assert answered(serving(fail), Connection()).status_code == 500

    def test_list_of_policies_is_refused(self) -> None:
        with pytest.raises(TypeError, match="policies must be a PolicyChain, not list"):
            Serving(LOGGER, policies=[refuse])  # type: ignore[arg-type]


class TestAdmitting:
    """The policies alone, for applications that answer themselves."""

    def test_every_request_is_admitted_without_policies(self) -> None:
        accepted = run_blocking(serving().admitting(Connection()))
        assert accepted is not None
        assert accepted.context.peer_address == "192.0.2.1"

    def test_refusal_and_failure_are_answered(self) -> None:
        def fail(context: RequestContext) -> Decision:
            raise ZeroDivisionError

        for policy, status in ((refuse, 403), (fail, 500)):
            connection = Connection()
            assert run_blocking(serving(policy).admitting(connection)) is None
            [answer] = connection.answers
            assert getattr(answer, "status", None) or answer.status_code == status

    def test_admitted_request_is_not_answered(self) -> None:
        connection = Connection()
        policy = serving(lambda context: Continue(identity=Identity("alice")))
        assert run_blocking(policy.admitting(connection)) is not None
        assert connection.identity == Identity("alice")
        assert connection.answers == []


class TestAwaiting:
    def test_calls_of_the_program_are_awaited(self) -> None:
        async def process_request(connection: Connection) -> AcceptConnection:
            await asyncio.sleep(0)
            if connection.method == "HEAD":
                raise HandshakeRejected(405)
            return AcceptConnection("sip")

        async def both() -> None:
            server, head, get = serving(process_request=process_request), Connection(), Connection()
            head.method = "HEAD"
            assert not await run_async(server.answering(head))
            assert head.answers[0].status_code == 405
            assert await run_async(server.answering(get))

        asyncio.run(both())

    def test_function_that_is_not_async_is_refused(self) -> None:
        def handler() -> None: ...

        class Handler:
            def __call__(self) -> None: ...

        with pytest.raises(TypeError, match=r"handler\(\) must be an async function: it returned"):
            awaited(handler)
        with pytest.raises(TypeError, match=r"Handler\(\) must be an async function"):
            awaited(Handler())


class TestTheEnd:
    def test_finished_handler_closes_with_1000(self) -> None:
        closed = ConnectionClosedError(ConnectionClosed(1006, "", Cause.END_OF_INPUT))
        group = ExceptionGroup("tasks", [closed, ExceptionGroup("more", [closed])])
        assert [serving().code_after(error) for error in (None, closed, group)] == [1000] * 3

    def test_failing_handler_closes_with_1011(self, caplog: pytest.LogCaptureFixture) -> None:
        closed = ConnectionClosedError(ConnectionClosed(1006, "", Cause.END_OF_INPUT))
        for error in (ZeroDivisionError(), ExceptionGroup("tasks", [closed, ZeroDivisionError()])):
            assert serving().code_after(error) == 1011
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
            ZeroDivisionError,
            ExceptionGroup,
        ]
