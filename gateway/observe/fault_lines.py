"""Lines about what fails and is tried again: one when it begins to fail, one when it works again, and one a minute in
between with the number of failures since the last. Who counts each of them is the metric.

A disk that is full fails once a second in every store, for hours: a line each would bury what else is in the log.
"""

from __future__ import annotations

import math

import trio

from gateway.observe.log import Log

#: Between two lines about one fault.
AGAIN_S = 60.0
#: What fails anew so soon after it failed was not mended by what worked between: reads that fail, beside writes.
CALM_S = 10.0


class FaultLines:
    """event, end: constants of the code, of the first line and of the last. Called in the loop."""

    def __init__(self, log: Log, event: str, end: str) -> None:
        self._log = log
        self._event, self._end = event, end
        self._said_at = self._failed_at = -math.inf
        #: Kinds of errors that were said of this fault.
        self._kinds: set[type[BaseException]] = set()
        self._failures = self._unsaid = 0
        self._is_open = False

    def failed(self, error: BaseException, **fields: object) -> None:
        """One more try has failed."""
        now = trio.current_time()
        if not self._is_open and now >= self._failed_at + CALM_S:
            self._kinds.clear()
            self._failures = self._unsaid = 0
        self._failed_at = now
        self._failures += 1
        self._unsaid += 1
        if type(error) in self._kinds and now < self._said_at + AGAIN_S:
            return
        self._kinds.add(type(error))
        self._log.error(self._event, error=str(error), failures=self._unsaid, **fields)
        self._said_at, self._unsaid, self._is_open = now, 0, True

    def works(self) -> None:
        """What failed, if anything did, has worked. Again changes nothing."""
        if self._is_open:
            self._is_open = False
            self._log.info(self._end, failures=self._failures)
