"""Pace: how much work fits into one step of the loop (DESIGN.md section 4: slices sized by measured cost).

The cost is CPU time of the thread (`time.thread_time`), system calls included. By the clock on the wall a busy machine
would make slices small, small slices would cost more CPU per item, and the machine would be busier still.
"""

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

        took_s: CPU time. It counts at most double: one page fault or a cold cache is not the price of our work.
        """
        if items:
            sample_s = min(max(took_s / items, 1e-7), 2 * self._cost_s)
            self._cost_s += (sample_s - self._cost_s) * items / (items + 512)
