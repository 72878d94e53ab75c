"""Relates a plan's items to its requests: when memory is first needed, when an item is complete.

An *allocation* is memory that is allocated and freed as one: an allocation of the plan, or the
destination of an item in a staged plan, which has no allocations. Requests begin in ascending
order, so all points in time here are numbers of requests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from libtz._native import lib

__all__ = ["Layout", "Schedule"]

Integers = NDArray[np.int64]


class Layout(NamedTuple):
    """When items arrive, and where. Every field has one element per item."""

    begin: Integers  # the first request with bytes of the item
    end: Integers  # the item is complete when all requests before this one are done
    allocation: Integers  # -1 if the item is empty
    position: NDArray[np.uint64]  # in the allocation
    size: NDArray[np.uint64]

    def part(self, items: slice) -> Layout:
        return Layout(
            self.begin[items],
            self.end[items],
            self.allocation[items],
            self.position[items],
            self.size[items],
        )


class Schedule:
    """A plan is made for items and, behind them, their companions.

    - `items`, `companions`: the layouts of both, and `all` of them as the plan has them;
    - `allocations`: all of them, by first use; `allocation_count_at[r]`: how many of them the
      requests up to and including r need; `bytes_at[r]`: their total size;
    - `allocation_sizes[a]`.
    """

    def __init__(self, plan: lib.Plan, begins: Integers, ends: Integers, item_count: int) -> None:
        """[begins[i], ends[i]) holds the stored bytes of item or companion i. The first
        `item_count` are items."""
        self.plan = plan
        self.request_count = plan.info.request_count
        request_begins = plan.requests["offset"].astype(np.int64)
        request_ends = request_begins + plan.requests["size"].astype(np.int64)
        first = np.searchsorted(request_ends, begins, side="right").astype(np.int64)
        position, sizes = plan.placements["position"], plan.placements["size"]
        is_empty = sizes == 0
        last = np.searchsorted(request_begins, ends, side="left")
        end: Integers = np.where(is_empty, 0, last).astype(np.int64)
        if plan.info.allocation_count:
            self.allocation_sizes: Integers = plan.allocations.astype(np.int64)
            allocations = plan.placements["allocation"].astype(np.int64)
        else:
            self.allocation_sizes = sizes.astype(np.int64)
            allocations = np.arange(len(begins), dtype=np.int64)
        allocation: Integers = np.where(is_empty, -1, allocations)
        self.all = Layout(first, end, allocation, position, sizes)
        self.items = self.all.part(slice(item_count))
        self.companions = self.all.part(slice(item_count, None))
        self._order_allocations(first[~is_empty], allocations[~is_empty])

    def _order_allocations(self, first: Any, allocations: Integers) -> None:
        first_request = np.full(len(self.allocation_sizes), self.request_count, np.int64)
        np.minimum.at(first_request, allocations, first)
        order = np.argsort(first_request, kind="stable")
        used = first_request[order] < self.request_count
        self.allocations: Integers = order[used]
        requests = np.arange(self.request_count)
        self.allocation_count_at: Integers = np.searchsorted(
            first_request[self.allocations], requests, side="right"
        )
        sums = np.concatenate([[0], np.cumsum(self.allocation_sizes[self.allocations])])
        self.bytes_at: Integers = sums[self.allocation_count_at]

    @property
    def bytes_total(self) -> int:
        return int(self.allocation_sizes[self.allocations].sum())
