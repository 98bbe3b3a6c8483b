"""In which codes and words providers say why they do not serve. A new one goes here, with a case in test_statements."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Meaning = Literal["no credit", "too long", "withheld", "not this deployment", "busy", ""]
"""Why a provider does not serve; empty: its status alone says it."""

_SAID_BY_CODE: Mapping[Meaning, str] = {
    "no credit": """
        insufficient_quota billing_hard_limit_reached billing_not_active billing_error payment_required
        insufficient_balance insufficient_credits insufficient_credit insufficient_funds credit_balance_too_low
        arrearage credits_exhausted out_of_credits account_suspended servicequotaexceededexception
        spend_limit_exceeded monthly_limit_reached
    """,
    "too long": """
        context_length_exceeded string_above_max_length request_too_large exceed_context_size_error
        context_window_exceeded model_context_window_exceeded input_too_long prompt_too_long
        max_context_length_exceeded
    """,
    "withheld": """
        content_policy_violation content_filter content_filtered moderation_blocked responsibleaipolicyviolation
        data_inspection_failed prohibited_content safety content_policy guardrail_intervened sensitive_content
        moderation_error
    """,
    "not this deployment": """
        invalid_api_key incorrect_api_key api_key_invalid api_key_expired authentication_error unauthenticated
        unauthorized permission_error permission_denied permission_denied_error accessdeniedexception
        unrecognizedclientexception expiredtokenexception invalidsignatureexception account_deactivated
        missingauthenticationtokenexception incompletesignatureexception model_not_found modelnotfound
        deploymentnotfound not_found_error not_found resourcenotfoundexception model_decommissioned model_deprecated
        unsupported_country_region_territory failed_precondition
    """,
    "busy": """
        rate_limit_exceeded rate_limit_error rate_limited too_many_requests throttlingexception throttling
        toomanyrequestsexception resource_exhausted overloaded_error overloaded engine_overloaded server_overloaded
        server_error internal_server_error internal_error api_error internal unavailable service_unavailable
        serviceunavailableexception internalserverexception modelnotreadyexception modeltimeoutexception
        modelerrorexception deadline_exceeded timeout capacity_exceeded service_tier_capacity_exceeded aborted
    """,
}

# Several providers say it in words only. Elsewhere in a message may stand what was asked, so they are looked for at its
# beginning, and only where the status leaves it open.
_SAID_IN_WORDS: Mapping[Meaning, tuple[str, ...]] = {
    "no credit": (
        r"credit balance is too low",
        r"exceeded your (?:current |monthly |included )*(?:quota|usage|credits?)",
        r"insufficient (?:account )?(?:balance|credits?|funds|quota)",
        r"billing hard limit",
        r"spend(?:ing)? limit",
        r"(?:out of|no|not enough|requires more|ran out of) credits?\b",
        r"used (?:up )?all (?:of )?(?:the |your )?(?:available )?credits?\b",
        r"payment (?:is )?required",
        r"negative balance",
        r"account (?:is )?in arrears",
        r"billing (?:account )?(?:is )?not (?:active|enabled)",
        r"(?:top up|recharge) your (?:account|balance)",
    ),
    "too long": (
        r"maximum context length",
        r"context (?:window|length|size)\b.{0,40}(?:exceed|too small|limit|larger|longer)",
        r"(?:exceed(?:s|ed|ing)?|(?:larg|long)er than|over) (?:\w+(?:'s)? ){0,4}(?:context|tokens|length|token limit)\b",
        r"(?:prompt|input|request|message)s? (?:is |are |was )?too (?:long|large)",
        r"input token count",
        r"too many (?:input )?tokens",
        r"too large for (?:this )?model",
        r"input length and .?max_tokens.? exceed",
        r"reduce the length of (?:the |your )?(?:messages|prompt|input)",
        r"tokens? (?:\(\d+\) )?exceeds?",
    ),
    "withheld": (
        r"content (?:management|safety|moderation|filter(?:ing)?|usage)? ?polic(?:y|ies)",
        r"content[ _]filter",
        r"\bflagged\b",
        r"\bmoderation\b",
        r"(?:blocked|rejected|refused) (?:by|due to|because of) (?:our |the )?(?:safety|content|polic)",
        r"safety (?:system|filter|settings|reasons)",
        r"responsible ai",
        r"(?:inappropriate|prohibited) content",
        r"usage polic(?:y|ies)",
    ),
    "not this deployment": (
        r"(?:invalid|incorrect|expired|missing|wrong|no) (?:api[ -]?key|credentials|token|authentication)",
        r"api[ -]?key (?:is )?(?:not valid|invalid|expired|missing|not found|incorrect|disabled)",
        r"(?:model|deployment)\b.{0,60}\b(?:not (?:exist|found|supported|available|authorized)|does not exist)",
        r"(?:model|deployment)\b.{0,60}\b(?:decommissioned|deprecated|unknown|retired)",
        r"model identifier is invalid",
        r"(?:unknown|no such|invalid|unsupported) (?:model|deployment)",
        r"on-demand throughput",
        r"not authorized",
        r"access denied",
        r"location is not supported",
    ),
    "busy": (
        r"rate[ -]?limit",
        r"too many requests",
        r"overloaded",
        r"over capacity",
        r"capacity (?:exceeded|reached)",
        r"try again (?:later|in)",
        r"temporarily (?:unavailable|overloaded)",
        r"throttl",
        r"(?:currently |is )loading",
        r"(?:being|still) loaded",
        r"please retry",
        r"server (?:is )?busy",
        r"service unavailable",
        r"internal (?:server )?error",
    ),
}

CODES: Mapping[Meaning, frozenset[str]] = {meaning: frozenset(codes.split()) for meaning, codes in _SAID_BY_CODE.items()}
"""Codes in lower case, with `_` for `-`."""

WORDS: Mapping[Meaning, re.Pattern[str]] = {
    meaning: re.compile("|".join(phrases), re.IGNORECASE) for meaning, phrases in _SAID_IN_WORDS.items()
}

_ANY: tuple[Meaning, ...] = ("no credit", "too long", "withheld", "not this deployment", "busy")

OPEN: Mapping[int, tuple[Meaning, ...]] = {
    400: _ANY,
    401: ("no credit",),
    403: ("no credit", "withheld"),
    409: ("no credit",),
    418: _ANY,
    422: ("no credit", "too long", "withheld", "not this deployment"),
    424: _ANY,
    429: ("no credit",),
    451: ("withheld",),
    # Some answer everything that failed with this one.
    500: ("no credit", "too long", "withheld"),
}
"""Which meanings words may give to a status: those that it leaves open."""
