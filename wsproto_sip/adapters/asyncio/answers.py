"""Answers to questions about users, from sources that take time, on asyncio.

Theory of operation: policies, a SIP edge and an MSRP relay return questions for what they cannot
decide at once. :class:`Answers` is called with each question, asks the source, and returns the
answer. It bounds the time and number of questions, asks once for what several callers wait for, and
stores accounts in the cache in which the checks look them up. A failing source is logged, and the
answer is :class:`~wsproto_sip.auth.outcome.Unavailable`, so that requests get 503 and not a wrong
answer. A user with an unusable account is answered, cached and counted like an unknown one, since
any difference would show that the name exists; the log names the user once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Protocol

from ...auth.accounts import UnusableAccount, password_verifier
from ...auth.identity import folded_name
from ...auth.outcome import Unavailable
from ...auth.verifier import AccountQuestion
from ...policy.authentication import BasicQuestion
from ...policy.token import TokenQuestion
from ...server.histogram import Histogram
from ...sip.registrar.bearer import BearerQuestion
from .._lines import report, report_failure

if TYPE_CHECKING:
    from ...auth.accounts import Account
    from ...auth.cache import AccountCache
    from ...auth.identity import Identity

__all__ = ["AccountSource", "Answers", "IdentitySource", "Resolve", "answer_to"]

Resolve = Callable[[object], Awaitable[object]]
"""Answers a question: :class:`Answers`, or any async function."""

#: The buckets of the histogram of answer times, in seconds.
_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

#: The Retry-After for a failed source, in seconds.
_RETRY_AFTER: Final = 5

#: Unusable accounts that are remembered, so that each is logged once.
_MOST_UNUSABLE: Final = 10_000


class AccountSource(Protocol):
    """A source of accounts."""

    async def account(self, question: AccountQuestion) -> Account | None:
        """Return an account, or ``None`` for an unknown user.

        Raises:
            UnusableAccount: What is stored about the user could not match any credentials.
            Exception: The source fails.
        """
        ...


class IdentitySource(Protocol):
    """A source of identities for tokens."""

    async def identity(self, token: str) -> Identity | None:
        """Return the identity in a token, ``None`` if it is invalid; raise if the source fails."""
        ...


async def answer_to(resolve: Resolve | None, question: object) -> object:
    """Answer a question without raising.

    Args:
        resolve: Answers it; ``None`` if no source is configured.
        question: The question.

    Returns:
        The answer; an :class:`~wsproto_sip.auth.outcome.Unavailable` if there is no answer.
    """
    if resolve is None:
        report(
            "auth",
            logging.ERROR,
            "question-failed",
            about="question-failed",
            question=type(question).__name__,
            reason="resolve= is not given",
        )
        return Unavailable("no source of users is configured")
    try:
        return await resolve(question)
    except Exception as exc:
        report_failure("auth", "question-failed", exc, question=type(question).__name__)
        return Unavailable("the source failed", _RETRY_AFTER)


class Answers:
    """Ask sources of users.

    Args:
        accounts: The source of accounts, if they are not local.
        tokens: The source of identities for tokens, if any.
        cache: Where accounts are cached; pass it to the checks as their users.
        realm: The realm of stored hashes.
        timeout: Seconds that a source may take; less than requests wait.
        max_waiting: Questions that may be pending; further ones are refused.

    Attributes:
        counts: The number of questions by subject, ``"account"`` or ``"token"``, and result:
            ``"found"``, ``"unknown"``, ``"failed"`` for a source that fails or is too slow, or
            ``"refused"`` for too many questions.
        seconds: The times that sources took.
        timeout: Seconds that a source may take.

    Raises:
        ValueError: The timeout or the bound is not positive.
    """

    def __init__(
        self,
        accounts: AccountSource | None = None,
        tokens: IdentitySource | None = None,
        *,
        cache: AccountCache | None = None,
        realm: str = "",
        timeout: float = 4.0,
        max_waiting: int = 256,
    ) -> None:
        if not (timeout > 0 and max_waiting > 0):
            raise ValueError(f"must be positive: timeout {timeout!r}, max_waiting {max_waiting!r}")
        self._accounts = accounts
        self._tokens = tokens
        self._cache = cache
        self._realm = realm
        self.timeout = timeout
        self._max_waiting = max_waiting
        #: Pending tasks by question, and the tasks of earlier sources.
        self._tasks: dict[tuple[str, object], asyncio.Task[object]] = {}
        self._earlier: set[asyncio.Task[object]] = set()
        self._failing = False
        #: The users with unusable accounts that were logged, the latest last.
        self._unusable: dict[str, None] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds = Histogram(_BOUNDS)

    @property
    def waiting(self) -> int:
        """The number of pending questions."""
        return len(self._tasks)

    def use(
        self,
        accounts: AccountSource | None,
        tokens: IdentitySource | None,
        cache: AccountCache | None,
    ) -> None:
        """Ask other sources from now on; pending questions are answered by the earlier ones.

        Args:
            accounts: As for the constructor, like the others.
            tokens: The source of identities for tokens.
            cache: Where accounts are cached.
        """
        self._accounts, self._tokens, self._cache = accounts, tokens, cache
        # New questions must not wait for answers of the earlier source.
        self._earlier |= set(self._tasks.values())
        self._tasks = {}
        self._unusable.clear()

    async def __call__(self, question: object) -> object:
        """Answer a question.

        Args:
            question: An :class:`~wsproto_sip.auth.verifier.AccountQuestion`, a
                :class:`~wsproto_sip.policy.authentication.BasicQuestion`, a
                :class:`~wsproto_sip.policy.token.TokenQuestion` or a
                :class:`~wsproto_sip.sip.registrar.bearer.BearerQuestion`.

        Returns:
            The answer in the form that the question defines.

        Raises:
            TypeError: It is another kind of question, or no source is configured for it.
        """
        accounts, tokens = self._accounts, self._tokens
        if isinstance(question, AccountQuestion) and accounts is not None:
            return await self._account(accounts, question)
        if isinstance(question, BasicQuestion) and accounts is not None:
            name = question.username
            account = await self._account(accounts, AccountQuestion(name, self._realm, name))
            if isinstance(account, Unavailable):
                return account
            users = {} if account is None else {name: account}
            return password_verifier(users, self._realm)(name, question.password)
        if isinstance(question, TokenQuestion | BearerQuestion) and tokens is not None:
            token = question.token
            return await self._ask(("token", token), lambda: tokens.identity(token))
        raise TypeError(f"no source is configured for {type(question).__name__}")

    async def close(self) -> None:
        """Stop; pending questions are cancelled."""
        tasks = [*self._tasks.values(), *self._earlier]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _account(
        self, source: AccountSource, question: AccountQuestion
    ) -> Account | Unavailable | None:
        cache = self._cache

        async def find() -> Account | None:
            try:
                account = await source.account(question)
            except UnusableAccount as exc:
                account = None
                self._tell_unusable(question.name, str(exc))
            if cache is not None:
                cache.store(question.username, account)
            return account

        answer: Account | Unavailable | None = await self._ask(("account", question), find)  # type: ignore[assignment]
        return answer

    def _tell_unusable(self, name: str, reason: str) -> None:
        """Log an unusable account, unless that was done since the source was replaced."""
        # A database may take several forms of a name for the same. Clients choose the form, and
        # must not be able to fill the log.
        user = folded_name(name)
        if user in self._unusable:
            return
        self._unusable[user] = None
        if len(self._unusable) > _MOST_UNUSABLE:
            del self._unusable[next(iter(self._unusable))]
        report("auth", logging.WARNING, "account-unusable", user=name, reason=reason)

    async def _ask(self, key: tuple[str, object], ask: Callable[[], Awaitable[object]]) -> object:
        """Ask a source, or wait for the same question that is already pending."""
        task = self._tasks.get(key)
        if task is None:
            if len(self._tasks) >= self._max_waiting:
                self.counts[key[0], "refused"] += 1
                return Unavailable("too many pending questions", _RETRY_AFTER)
            task = self._tasks[key] = asyncio.ensure_future(self._answer(key[0], ask))
            task.add_done_callback(lambda done: self._forget(key, done))
        return await asyncio.shield(task)

    def _forget(self, key: tuple[str, object], task: asyncio.Task[object]) -> None:
        self._earlier.discard(task)
        if self._tasks.get(key) is task:
            del self._tasks[key]

    async def _answer(self, kind: str, ask: Callable[[], Awaitable[object]]) -> object:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self.timeout):
                answer = await ask()
        except Exception as exc:
            reason = "no answer in time" if isinstance(exc, TimeoutError) else str(exc)
            # Log the failure and the recovery once each, so that clients cannot fill the log.
            if not self._failing:
                self._failing = True
                report("auth", logging.ERROR, "users-down", error=type(exc).__name__, reason=reason)
            self.counts[kind, "failed"] += 1
            return Unavailable(f"the source of users is failing: {reason:.200}", _RETRY_AFTER)
        finally:
            self.seconds.add(max(loop.time() - began, 0.0))
        self.counts[kind, "unknown" if answer is None else "found"] += 1
        if self._failing:
            self._failing = False
            report("auth", logging.WARNING, "users-up")
        return answer
