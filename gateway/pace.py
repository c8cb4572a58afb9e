"""Pace: how much work fits into one step of the loop (DESIGN.md section 4: slices sized by measured cost)."""

from __future__ import annotations


class Pace:
    """How many items fit into one step, by the measured cost of the steps before."""

    def __init__(self, step_s_max: float, *, fewest: int = 16, most: int = 1_024) -> None:
        # Half of the budget: the cost of a system call doubles when the machine is busy.
        self._step_s = step_s_max / 2
        self._fewest = fewest
        self._most = most
        self._cost_s = step_s_max / 128

    def items(self) -> int:
        return max(self._fewest, min(self._most, int(self._step_s / self._cost_s)))

    def on_step(self, items: int, took_s: float) -> None:
        """A step moves the cost the more, the more items it had: a step of one shows little but its fixed cost.

        It counts at most double: the time in which the system ran somebody else is not the price of our work.
        """
        if items:
            sample_s = min(max(took_s / items, 1e-7), 2 * self._cost_s)
            self._cost_s += (sample_s - self._cost_s) * items / (items + 512)
