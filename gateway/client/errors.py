"""What can go wrong for a caller. Both are final: what is worth a retry has been tried until the deadline."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.wire.rpc.messages import Error


class CallFailed(GatewayError):
    """The gateway answered `error`. The caller is at fault for most codes; text, field and limit say what to mend."""

    def __init__(self, error: Error) -> None:
        self.error = error
        self.code = error.code
        super().__init__(f"{error.code}: {error.text}")


class GatewayUnreachable(GatewayError):
    """No connection, or none that lasted until the answer, before the deadline. Nobody's fault that we can name.

    was_sent: the request left and no answer came; where it changes something it may or may not have been done.
    """

    def __init__(self, text: str, *, was_sent: bool = False) -> None:
        self.was_sent = was_sent
        super().__init__(text)
