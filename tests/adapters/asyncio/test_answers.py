"""Answers about users: slow sources, broken sources, and concurrent questions."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.peers._support import run
from wsproto_sip.adapters.asyncio import answers as module
from wsproto_sip.adapters.asyncio.answers import Answers, answer_to
from wsproto_sip.adapters.reports import Line
from wsproto_sip.auth import (
    LATER,
    Account,
    AccountCache,
    AccountQuestion,
    Algorithm,
    Identity,
    Unavailable,
    UnusableAccount,
    digest_ha1,
)
from wsproto_sip.events import Request
from wsproto_sip.policy.authentication import BasicQuestion
from wsproto_sip.policy.decision import RequestContext
from wsproto_sip.policy.token import TokenPlace, TokenQuestion, TokenSource
from wsproto_sip.sip.registrar.bearer import BearerQuestion

ALICE = Account(Identity("alice"), "wonderland")
QUESTION = AccountQuestion("alice", "calls", "alice")
DOWN = Unavailable("the source of users is failing: down", 5)


class Accounts:
    """A source that answers when released."""

    def __init__(self, found: Account | Exception | None = ALICE) -> None:
        self.found = found
        self.asked: list[AccountQuestion] = []
        self.free = asyncio.Event()
        self.free.set()

    async def account(self, question: AccountQuestion) -> Account | None:
        self.asked.append(question)
        await self.free.wait()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class Tokens:
    async def identity(self, token: str) -> Identity | None:
        return Identity("alice") if token == "hers" else None


def test_account_is_found_and_cached() -> None:
    async def scenario() -> None:
        cache = AccountCache(lambda: 0.0)
        for found in (ALICE, None):
            answers = Answers(Accounts(found), cache=cache)
            assert await answers(QUESTION) is found
            assert cache("alice") is found
        assert await Answers(Accounts())(QUESTION) is ALICE

    run(scenario())


def test_password_is_compared_with_its_account() -> None:
    hashed = Account(
        Identity("alice"),
        ha1={Algorithm.SHA_256: digest_ha1("alice", "calls", "wonderland", Algorithm.SHA_256)},
    )

    async def scenario() -> None:
        for account in (ALICE, hashed):
            answers = Answers(Accounts(account), realm="calls")
            right = await answers(BasicQuestion("alice", "wonderland"))
            assert right == Identity("alice", "basic")
            assert await answers(BasicQuestion("alice", "looking-glass")) is None
        assert await Answers(Accounts(None))(BasicQuestion("alice", "x")) is None
        assert await Answers(Accounts(OSError("down")))(BasicQuestion("a", "x")) == DOWN

    run(scenario())


def test_tokens_go_to_the_token_source() -> None:
    context = RequestContext(Request(host="h", target="/"))
    source = TokenSource(TokenPlace.QUERY, "t")

    async def scenario() -> None:
        answers = Answers(tokens=Tokens())
        assert await answers(BearerQuestion("hers")) == Identity("alice")
        assert await answers(TokenQuestion("his", source, context)) is None
        for question in (QUESTION, BasicQuestion("alice", "x"), "what?"):
            with pytest.raises(TypeError, match="no source is configured for"):
                await answers(question)
        with pytest.raises(TypeError, match="no source is configured for BearerQuestion"):
            await Answers(Accounts())(BearerQuestion("hers"))

    run(scenario())


def test_concurrent_questions_are_asked_once() -> None:
    async def scenario() -> None:
        source = Accounts()
        source.free.clear()
        answers = Answers(source)
        waiting = [asyncio.ensure_future(answers(QUESTION)) for _ in range(3)]
        await asyncio.sleep(0)
        # A caller that is cancelled does not stop it for the others.
        waiting[0].cancel()
        await asyncio.sleep(0)
        source.free.set()
        assert await asyncio.gather(*waiting[1:]) == [ALICE, ALICE]
        assert source.asked == [QUESTION]
        assert await answers(QUESTION) is ALICE
        assert len(source.asked) == 2

    run(scenario())


def test_pending_questions_are_bounded() -> None:
    async def scenario() -> None:
        source = Accounts()
        source.free.clear()
        answers = Answers(source, max_waiting=1)
        first = asyncio.ensure_future(answers(QUESTION))
        await asyncio.sleep(0)
        other = await answers(AccountQuestion("bob", "calls", "bob"))
        assert other == Unavailable("too many pending questions", 5)
        assert (answers.waiting, answers.counts) == (1, {("account", "refused"): 1})
        await answers.close()
        with pytest.raises(asyncio.CancelledError):
            await first

    run(scenario())


def test_failing_source_is_logged_once_and_not_cached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        cache = AccountCache(lambda: 0.0)
        source = Accounts(OSError("down"))
        answers = Answers(source, cache=cache)
        assert await answers(QUESTION) == DOWN
        assert await answers(QUESTION) == DOWN
        assert cache("alice") is LATER
        source.found = None
        assert await answers(QUESTION) is None

    run(scenario())
    assert [record.getMessage() for record in caplog.records] == [
        "users-down error=OSError reason=down",
        "users-up",
    ]


def test_unusable_account_is_answered_like_an_unknown_user_and_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = AccountQuestion("bob", "calls", "bob")

    async def scenario() -> None:
        cache = AccountCache(lambda: 0.0)
        source = Accounts(UnusableAccount("the password is empty"))
        answers = Answers(source, cache=cache, realm="calls")
        # A database that ignores case has one user for both names.
        for question in (QUESTION, QUESTION, AccountQuestion("ALICE", "calls", "ALICE")):
            assert await answers(question) is None
        assert cache("alice") is None
        assert await answers(BasicQuestion("alice", "")) is None
        assert answers.counts == {("account", "unknown"): 4}
        # Only so many names are kept.
        monkeypatch.setattr(module, "_MOST_UNUSABLE", 1)
        for question in (other, QUESTION):
            assert await answers(question) is None
        answers.use(source, None, None)
        assert await answers(QUESTION) is None

    run(scenario())
    lines = [record.msg for record in caplog.records]
    assert all(isinstance(line, Line) for line in lines)
    reason = 'reason="the password is empty"'
    assert [str(line) for line in lines] == [
        f"account-unusable user={user} {reason}" for user in ("alice", "bob", "alice", "alice")
    ]


def test_slow_source_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        source = Accounts()
        source.free.clear()
        answer = await Answers(source, timeout=0.01)(QUESTION)
        assert answer == Unavailable("the source of users is failing: no answer in time", 5)

    run(scenario())
    assert 'users-down error=TimeoutError reason="no answer in time"' in caplog.text


def test_sources_can_be_replaced() -> None:
    async def scenario() -> None:
        before, after = AccountCache(lambda: 0.0), AccountCache(lambda: 0.0)
        old, new = Accounts(), Accounts(None)
        old.free.clear()
        answers = Answers(old, cache=before)
        waiting = asyncio.ensure_future(answers(QUESTION))
        await asyncio.sleep(0)
        answers.use(new, Tokens(), after)
        # The same question is asked again, and the answers are not confused.
        assert await answers(QUESTION) is None
        assert await answers(BearerQuestion("hers")) == Identity("alice")
        old.free.set()
        assert await waiting is ALICE
        assert (before("alice"), after("alice")) == (ALICE, None)
        old.free.clear()
        answers.use(old, None, None)
        again = asyncio.ensure_future(answers(QUESTION))
        await asyncio.sleep(0)
        answers.use(new, None, None)
        await answers.close()
        with pytest.raises(asyncio.CancelledError):
            await again

    run(scenario())


def test_results_of_questions_are_counted() -> None:
    async def scenario() -> None:
        source = Accounts()
        answers = Answers(source, Tokens())
        for found in (ALICE, None, OSError("down")):
            source.found = found
            await answers(QUESTION)
        await answers(BearerQuestion("hers"))
        await answers(BearerQuestion("his"))
        kinds = [("account", "found"), ("account", "unknown"), ("account", "failed")]
        assert answers.counts == dict.fromkeys(
            [*kinds, ("token", "found"), ("token", "unknown")], 1
        )
        assert answers.seconds.count == 5

    run(scenario())


@pytest.mark.parametrize("options", [{"timeout": 0}, {"max_waiting": 0}])
def test_bounds_must_be_positive(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Answers(**options)


def test_every_question_gets_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    async def found(question: object) -> object:
        return question

    async def broken(question: object) -> object:
        raise RuntimeError("broken")

    async def scenario() -> None:
        assert await answer_to(found, 1) == 1
        assert await answer_to(None, QUESTION) == Unavailable("no source of users is configured")
        assert await answer_to(broken, QUESTION) == Unavailable("the source failed", 5)

    run(scenario())
    assert 'question-failed question=AccountQuestion reason="resolve= is not given"' in caplog.text
    assert "RuntimeError: broken" in caplog.text
