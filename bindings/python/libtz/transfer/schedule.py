"""Relates a plan's wants to its requests: when memory is first needed, when a tensor is complete.

A *unit* is memory that is allocated and freed as one: an allocation of the plan, or the destination
of a want in a staged plan, which has no allocations. Requests begin in ascending order, so all
points in time here are numbers of requests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib

__all__ = ["Schedule"]

Integers = NDArray[np.int64]


class Schedule:
    """`wants` below are those of the plan, in its order.

    - `want_begin[w]`: the first request with bytes of want w; `want_end[w]`: the want is complete
      when all requests before this one are done;
    - `unit_of_want[w]`: -1 if the want is empty;
    - `units`: all units, by first use; `unit_count_at[r]`: how many of them the requests up to and
      including r need; `bytes_at[r]`: their total size;
    - `unit_sizes[u]`.
    """

    def __init__(self, plan: lib.Plan, begins: Integers, ends: Integers) -> None:
        """[begins[w], ends[w]) holds the stored bytes of want w's tensor."""
        self.plan = plan
        self.request_count = plan.info.request_count
        request_begins = plan.requests["offset"].astype(np.int64)
        request_ends = request_begins + plan.requests["size"].astype(np.int64)
        first = np.searchsorted(request_ends, begins, side="right")
        self.want_begin: Integers = first.astype(np.int64)
        is_empty = plan.placements["size"] == 0
        last = np.searchsorted(request_begins, ends, side="left")
        self.want_end: Integers = np.where(is_empty, 0, last).astype(np.int64)
        if plan.info.allocation_count:
            self.unit_sizes: Integers = plan.allocations.astype(np.int64)
            units = plan.placements["allocation"].astype(np.int64)
        else:
            self.unit_sizes = plan.placements["size"].astype(np.int64)
            units = np.arange(len(begins), dtype=np.int64)
        self.unit_of_want: Integers = np.where(is_empty, -1, units)
        self._order_units(first[~is_empty], units[~is_empty])

    def _order_units(self, first: Any, units: Integers) -> None:
        first_request = np.full(len(self.unit_sizes), self.request_count, np.int64)
        np.minimum.at(first_request, units, first)
        order = np.argsort(first_request, kind="stable")
        used = first_request[order] < self.request_count
        self.units: Integers = order[used]
        requests = np.arange(self.request_count)
        self.unit_count_at: Integers = np.searchsorted(
            first_request[self.units], requests, side="right"
        )
        sums = np.concatenate([[0], np.cumsum(self.unit_sizes[self.units])])
        self.bytes_at: Integers = sums[self.unit_count_at]

    @property
    def bytes_total(self) -> int:
        return int(self.unit_sizes[self.units].sum())
