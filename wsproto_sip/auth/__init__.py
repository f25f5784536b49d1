"""Authentication: one Digest, nonce store and form of accounts for HTTP, SIP and MSRP."""

from __future__ import annotations

from .accounts import (
    Account,
    Lookup,
    UnusableAccount,
    Users,
    account_lookup,
    common_algorithms,
    parse_accounts,
    password_verifier,
)
from .cache import AccountCache
from .digest import (
    Algorithm,
    Challenge,
    Credentials,
    DigestError,
    Secret,
    answer_challenge,
    digest_ha1,
    digest_response,
    verify_response,
    verify_server,
)
from .identity import Identity
from .nonces import Nonces
from .outcome import LATER, Denied, Later, Question, Unavailable
from .throttle import Attempt, Failure, FailureCause, Slowdown, Throttle, ThrottleConfig
from .timed import TimedAccounts, timed_credentials
from .used import FirstUse, UsedTokens
from .verifier import AccountQuestion, DigestVerifier, Proven

__all__ = [
    "LATER",
    "Account",
    "AccountCache",
    "AccountQuestion",
    "Algorithm",
    "Attempt",
    "Challenge",
    "Credentials",
    "Denied",
    "DigestError",
    "DigestVerifier",
    "Failure",
    "FailureCause",
    "FirstUse",
    "Identity",
    "Later",
    "Lookup",
    "Nonces",
    "Proven",
    "Question",
    "Secret",
    "Slowdown",
    "Throttle",
    "ThrottleConfig",
    "TimedAccounts",
    "Unavailable",
    "UnusableAccount",
    "UsedTokens",
    "Users",
    "account_lookup",
    "answer_challenge",
    "common_algorithms",
    "digest_ha1",
    "digest_response",
    "parse_accounts",
    "password_verifier",
    "timed_credentials",
    "verify_response",
    "verify_server",
]
