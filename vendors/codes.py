"""Tables of business codes, as most vendors answer: a code in the body, with HTTP 200 or not.

A vendor file lists every code of its sheet once: code -> what it is called and which kind of verdict it is. The
verdict's name for metrics and traces is the code with that word. What stands in no table is judged by its HTTP status;
a 200 with an unknown code is a refusal (final, counted by name), and a 200 without any code is uncertain: neither is
taken for acceptance, and neither costs a token.

Source: the classes are those of facts/vendors-china.md and vendors-international.md (2026-11); DESIGN.md section 7 maps
them to verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.ledger import Reason
from gateway.verdict import Answer, Scope, Verdict
from vendors.http_answer import by_status_class, counted_name, retry_after_s

ACCEPTED = Answer(Verdict.ACCEPTED)
PAYLOAD = Answer(Verdict.REJECTED)
#: For its words.
SENSITIVE = PAYLOAD._replace(reason=Reason.SENSITIVE_CONTENT)
DEAD = Answer(Verdict.TOKEN_DEAD)
MUTED = Answer(Verdict.TOKEN_MUTED)
#: A new credential may help.
AUTH = Answer(Verdict.CREDENTIAL, scope=Scope.APP, is_refreshable=True)
#: Only a human can mend it.
AUTH_CONFIG = Answer(Verdict.CREDENTIAL, scope=Scope.APP)
#: The credential is known, and the app lacks the right to send at all.
APP_RIGHT = AUTH_CONFIG._replace(reason=Reason.NO_PERMISSION)
#: The same for one kind of message or one token: it blames nobody's credential.
REFUSED = Answer(Verdict.CREDENTIAL, scope=Scope.DEVICE)
#: The same where the vendor says that a right is what is missing.
RIGHT = REFUSED._replace(reason=Reason.NO_PERMISSION)
THROTTLED = Answer(Verdict.THROTTLED, scope=Scope.APP)
THROTTLED_DEVICE = Answer(Verdict.THROTTLED, scope=Scope.DEVICE)
QUOTA_APP = Answer(Verdict.QUOTA, scope=Scope.APP)
QUOTA_CLASS = Answer(Verdict.QUOTA, scope=Scope.CLASS)
QUOTA_DEVICE = Answer(Verdict.QUOTA, scope=Scope.DEVICE)
ERROR = Answer(Verdict.UNAVAILABLE, scope=Scope.APP)

UNREADABLE = Answer(Verdict.UNCERTAIN, "unreadable_answer", is_unknown=True)


def table(rows: Mapping[str, tuple[str, Answer]]) -> dict[str, Answer]:
    """Code -> answer, each with its name: `80300008_payload_too_large`. A code that means acceptance has none."""
    return {
        code: answer if answer.verdict is Verdict.ACCEPTED else answer._replace(name=f"{code}_{word}")
        for code, (word, answer) in rows.items()
    }


def of_list(answer: Answer) -> Answer:
    """What an answer means for all rows of a request: where it calls a token dead and does not say which, none is."""
    return PAYLOAD._replace(name=answer.name) if answer.verdict is Verdict.TOKEN_DEAD else answer


def is_fewer(named: int, failures: object) -> bool:
    """An answer counts more failures than it names: whose the others are, nobody knows."""
    return isinstance(failures, int) and failures > named


def answer_of(
    answers: Mapping[str, Answer],
    code: str,
    status: int,
    headers: Mapping[bytes, bytes],
    statuses: Mapping[int, Answer],
) -> Answer:
    """The answer for a code; without a known one by the HTTP status: first the vendor's own table, then its class."""
    answer = answers.get(code)
    if answer is None:
        if status != 200:
            answer = statuses.get(status)
            if answer is None:
                return by_status_class(status, f"code_{code}" if code else "", headers)
        elif not code:
            return UNREADABLE
        else:
            return Answer(Verdict.REJECTED, counted_name(f"code_{code}", status), is_unknown=True)
    elif status != 200 and answer.verdict is Verdict.ACCEPTED:
        # The body says yes and the status no: nobody knows.
        return UNREADABLE
    if answer.verdict in (Verdict.THROTTLED, Verdict.UNAVAILABLE, Verdict.QUOTA):
        wait_s = retry_after_s(headers)
        return answer if wait_s is None else answer._replace(retry_after_s=wait_s)
    return answer
