"""Nodes that share a location store, which answers late, in another order, or not at all."""

from __future__ import annotations

from itertools import count

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.sip._location import Location, NodeWorld
from tests.sip._phones import Phone
from wsproto_sip.auth.outcome import Unavailable
from wsproto_sip.sip import SipRequest, SipResponse
from wsproto_sip.sip.registrar.store import NotAsked

USERS = ("alice", "bob")


class Nodes(RuleBasedStateMachine):
    """Two nodes and their store.

    Whatever the store does with its answers, each request gets one final response, and once it
    answers again, it has what is in the memory of the nodes, and nothing else.
    """

    def __init__(self) -> None:
        super().__init__()
        self.location = Location()
        self.worlds = [NodeWorld("one"), NodeWorld("two", 101)]
        #: Questions on their way, by node and number, and answers on their way back.
        self.answers: list[tuple[int, int, object]] = []
        #: Requests of living connections, and the final responses they have.
        self.requests: dict[tuple[int, int, str], list[int]] = {}
        self.calls = count(1)

    @initialize(users=st.lists(st.sampled_from(USERS), min_size=3, max_size=5))
    def begin(self, users: list[str]) -> None:
        for index, user in enumerate(users):
            Phone(self.worlds[index % 2], user, registers=False)

    def questions(self) -> list[tuple[int, int]]:
        return [(index, number) for index in (0, 1) for number in self.worlds[index].questions]

    def phones(self) -> list[tuple[int, Phone]]:
        return [(index, phone) for index in (0, 1) for phone in self.worlds[index].phones.values()]

    def listen(self) -> None:
        """Take what the telephones have heard."""
        for index, phone in self.phones():
            while phone.heard:
                message = phone.heard.pop(0)
                if isinstance(message, SipRequest):
                    if message.method == "INVITE":
                        phone.answer(message, 486)
                elif isinstance(message, SipResponse) and message.status >= 200:
                    key = index, phone.cid, str((message.call_id, message.cseq.number))
                    if message.cseq.method == "CANCEL":
                        continue
                    self.requests[key].append(message.status)

    def sent(self, index: int, phone: Phone, request: SipRequest) -> None:
        key = index, phone.cid, str((request.call_id, request.cseq.number))
        self.requests.setdefault(key, [])

    def tick(self) -> None:
        for world in self.worlds:
            world.wait(0.001)

    # -- what clients do ---------------------------------------------------------------------------

    @rule(
        data=st.data(),
        expires=st.sampled_from([0, 10, 300, 300]),
        instance=st.none() | st.sampled_from(["urn:1", "urn:2"]),
        everything=st.booleans(),
    )
    def register(
        self, data: st.DataObject, expires: int, instance: str | None, everything: bool
    ) -> None:
        if not self.phones():
            return
        index, phone = data.draw(st.sampled_from(self.phones()))
        self.tick()
        contact = f"<{phone.contact}>"
        if instance is not None:
            contact += f';reg-id=1;+sip.instance="<{instance}>"'
        fields = [("Contact", contact), ("Expires", str(expires))]
        if everything and not expires:
            fields[0] = ("Contact", "*")
        number = next(self.calls)
        request = phone.make(
            "REGISTER",
            "sip:sip.test",
            *fields,
            ("Supported", "path, outbound, gruu"),
            to=f"<{phone.aor}>",
            call_id=f"reg-{phone.cid}",
            cseq=number,
        )
        self.sent(index, phone, request)
        phone.say(request)
        self.listen()

    @rule(data=st.data(), user=st.sampled_from(USERS), method=st.sampled_from(["INVITE", "INFO"]))
    def call(self, data: st.DataObject, user: str, method: str) -> None:
        if not self.phones():
            return
        index, phone = data.draw(st.sampled_from(self.phones()))
        request = phone.make(method, f"sip:{user}@sip.test")
        if method == "INVITE":
            self.sent(index, phone, request)
        else:
            # What is not an INVITE may end without a word (RFC 4320).
            request = phone.make("REGISTER", "sip:sip.test", to=f"<sip:{user}@sip.test>")
            self.sent(index, phone, request)
        phone.say(request)
        if method == "INVITE" and data.draw(st.booleans()):
            phone.follow("CANCEL", request)
        self.listen()

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        if not self.phones():
            return
        index, phone = data.draw(st.sampled_from(self.phones()))
        phone.hang_up()
        for key in [key for key in self.requests if key[:2] == (index, phone.cid)]:
            del self.requests[key]
        self.listen()

    @rule(index=st.integers(0, 1), user=st.sampled_from(USERS))
    def connect(self, index: int, user: str) -> None:
        if len(self.phones()) < 6:
            Phone(self.worlds[index], user, registers=False)

    # -- what the store does -----------------------------------------------------------------------

    @rule(data=st.data())
    def do(self, data: st.DataObject) -> None:
        """Take one of the questions in the store; its answer is on its way."""
        if self.questions():
            index, number = data.draw(st.sampled_from(self.questions()))
            question = self.worlds[index].questions.pop(number)
            answer = self.location.ask(self.worlds[index].node, question)
            self.answers.append((index, number, answer))

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Any of the answers comes."""
        if self.answers:
            position = data.draw(st.integers(0, len(self.answers) - 1))
            self.come(*self.answers.pop(position))

    @rule(data=st.data(), asked=st.booleans())
    def refuse(self, data: st.DataObject, asked: bool) -> None:
        """Make the store unreachable, before or after the question arrives."""
        if self.questions():
            index, number = data.draw(st.sampled_from(self.questions()))
            question = self.worlds[index].questions.pop(number)
            if asked and data.draw(st.booleans()):
                self.location.ask(self.worlds[index].node, question)
            self.come(index, number, Unavailable("down") if asked else NotAsked("down"))

    @rule(data=st.data())
    def swallow(self, data: st.DataObject) -> None:
        """Lose an answer."""
        if self.answers:
            self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))

    def come(self, index: int, number: int, answer: object) -> None:
        world = self.worlds[index]
        world.do(world.edge.answer(number, answer, world.now))
        self.listen()

    @rule(seconds=st.sampled_from([0.5, 2.0, 11.0]))
    def wait(self, seconds: float) -> None:
        for world in self.worlds:
            world.wait(seconds)
        self.listen()

    # -- what has to hold --------------------------------------------------------------------------

    @invariant()
    def one_response_each(self) -> None:
        assert all(len(statuses) <= 1 for statuses in self.requests.values()), self.requests

    def settle(self, seconds: int) -> None:
        """Let the store do everything in order and answer at once."""
        for _ in range(seconds):
            while self.questions() or self.answers:
                for index, number in self.questions():
                    question = self.worlds[index].questions.pop(number)
                    answer = self.location.ask(self.worlds[index].node, question)
                    self.answers.append((index, number, answer))
                while self.answers:
                    self.come(*self.answers.pop(0))
            for world in self.worlds:
                world.wait(1.0)
            self.listen()

    def teardown(self) -> None:
        self.settle(40)
        # A node learns that a client has moved when it looks; what it writes then, the other does.
        for _ in range(2):
            for index, world in enumerate(self.worlds):
                asker = Phone(world, "carol", registers=False)
                for user in USERS:
                    request = asker.make("INVITE", f"sip:{user}@sip.test")
                    self.sent(index, asker, request)
                    asker.say(request)
            self.settle(5)
        assert all(len(statuses) == 1 for statuses in self.requests.values()), self.requests
        for world in self.worlds:
            registrar = world.registrar
            assert (world.edge.waiting, len(registrar.errands)) == (0, 0)
            aors = registrar.store.page(0, 99)
            sizes = [each.size for aor in aors for each in registrar.store.get(aor)]
            assert registrar._shares.held == sum(sizes)
            assert set(registrar._views) <= set(aors)
            for user in USERS:
                self.agree(world, f"sip:{user}@sip.test")

    def agree(self, world: NodeWorld, aor: str) -> None:
        wall, held = world.registrar.wall(world.now), world.held(aor)
        for here in held.values():
            assert here.flow is not None
            assert here.flow.cid in world.phones
            assert here in self.location.bindings(aor)
        for there in self.location.bindings(aor):
            if there.node == world.node and there.expires_at > wall:
                assert held.get(there.name) == there


Nodes.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestNodes = Nodes.TestCase
