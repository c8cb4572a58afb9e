"""One session at a submission server, blocking: for a thread (RFC 5321; STARTTLS 3207, AUTH 4954, TLS 8314).

The standard library's `smtplib` speaks the protocol. Its exceptions are mapped here and nowhere else: `SessionFailed`
while a session begins, `SessionLost` afterwards, and replies are values, whatever they say. `docs/decisions.md` says
why not a sans-IO library.
"""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from typing import Literal, NamedTuple

from gateway.errors import CloseReason, GatewayError
from gateway.wire.smtp.message import Mail

OK, START_MAIL_INPUT = 250, 354
WILL_FORWARD = 251
#: The server closes the session after this reply, whatever it answered.
SERVICE_CLOSING = 421
Phase = Literal["mail", "rcpt", "data", "message"]


class SmtpPlace(NamedTuple):
    """Where and how sessions are opened. timeout_s: of connecting and of each reply."""

    host: str
    port: int
    security: Literal["tls", "starttls"]
    local_name: str
    user_name: str
    timeout_s: float


class Reply(NamedTuple):
    """What the server said that decided a message, and to which command."""

    code: int
    text: bytes
    phase: Phase


class SessionFailed(GatewayError):
    """No session came about; the world is at fault. `reason` counts it."""

    def __init__(self, reason: CloseReason, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{reason.value}: {detail}")


class SessionLost(GatewayError):
    """The session is over. may_be_sent: the message had begun to leave."""

    def __init__(self, reason: CloseReason, *, may_be_sent: bool) -> None:
        self.reason = reason
        self.may_be_sent = may_be_sent
        super().__init__(reason.value)


class SmtpSession:
    """One thread at a time. Everything blocks but `abort`, which any thread may call."""

    def __init__(self, client: smtplib.SMTP) -> None:
        self._client = client

    @classmethod
    def open(cls, place: SmtpPlace, context: ssl.SSLContext, password: str) -> SmtpSession:
        """Connected, encrypted and logged in. Raises SessionFailed."""
        client: smtplib.SMTP | None = None
        try:
            where = (place.host, place.port, place.local_name)
            if place.security == "tls":
                client = smtplib.SMTP_SSL(*where, timeout=place.timeout_s, context=context)
            else:
                client = smtplib.SMTP(*where, timeout=place.timeout_s)
                client.starttls(context=context)
            client.login(place.user_name, password)
        except BaseException as error:
            if client is not None:
                client.close()
            if not isinstance(error, OSError | smtplib.SMTPException | ValueError):
                raise
            raise SessionFailed(_reason_of(error), _detail_of(error)) from error
        return cls(client)

    def send(self, mail: Mail) -> Reply:
        """The reply that decided the message. Raises SessionLost."""
        client, may_be_sent = self._client, False
        try:
            code, text = client.mail(mail.sender, [f"size={len(mail.message)}"] if client.has_extn("size") else [])
            if code != OK:
                return self._refused(code, text, "mail")
            code, text = client.rcpt(mail.recipient)
            if code not in (OK, WILL_FORWARD):
                return self._refused(code, text, "rcpt")
            code, text = client.docmd("data")
            if code != START_MAIL_INPUT:
                return self._refused(code, text, "data")
            may_be_sent = True
            client.send(mail.message.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            code, text = client.getreply()
        except (OSError, smtplib.SMTPException, ValueError) as error:
            self.abort()
            raise SessionLost(_reason_of(error), may_be_sent=may_be_sent) from error
        return _reply(code, text, "message", may_be_sent=True)

    def _refused(self, code: int, text: bytes, phase: Phase) -> Reply:
        """The transaction is taken back, so that the next message finds a clean session."""
        reply = _reply(code, text, phase, may_be_sent=False)
        if code != SERVICE_CLOSING:
            # A session that is gone by now is the next message's news.
            with contextlib.suppress(OSError, smtplib.SMTPException):
                self._client.rset()
        return reply

    def quit(self) -> None:
        """Said goodbye, as far as the server takes it."""
        with contextlib.suppress(OSError, smtplib.SMTPException):
            self._client.quit()

    def abort(self) -> None:
        """Closed now: a thread that waits for a reply gets an error."""
        with contextlib.suppress(OSError):
            self._client.close()


def _reply(code: int, text: bytes, phase: Phase, *, may_be_sent: bool) -> Reply:
    if not 200 <= code <= 599:
        raise SessionLost(CloseReason.PROTOCOL_ERROR, may_be_sent=may_be_sent)
    return Reply(code, text, phase)


def _reason_of(error: BaseException) -> CloseReason:
    match error:
        case smtplib.SMTPAuthenticationError():
            return CloseReason.BAD_CREDENTIALS
        case smtplib.SMTPServerDisconnected():
            return CloseReason.PEER_CLOSED
        case smtplib.SMTPConnectError():
            return CloseReason.CONNECT_FAILED
        case ssl.SSLCertVerificationError():
            return CloseReason.CERTIFICATE_INVALID
        case ssl.SSLError():
            return CloseReason.TLS_ERROR
        case TimeoutError():
            return CloseReason.CONNECT_TIMEOUT
        case ConnectionResetError() | BrokenPipeError():
            return CloseReason.PEER_RESET
        case smtplib.SMTPException() | ValueError():
            return CloseReason.PROTOCOL_ERROR
        case _:
            return CloseReason.CONNECT_FAILED


def _detail_of(error: BaseException) -> str:
    """For the log; never a user name or a password: what a server says may hold either."""
    code = getattr(error, "smtp_code", None)
    return f"reply {code}" if code is not None else type(error).__name__
