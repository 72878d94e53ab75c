"""The scenarios that the vectors are made from: one small function each.

A function's name is the vector's, its docstring the vector's comment, its result the file.
"""

from scenarios import (
    chunks,
    directory,
    loading,
    names,
    neighbours,
    order,
    places,
    preamble,
    sections,
    tensors,
    tiered_invalid,
    tiered_valid,
    valid,
    valid_sections,
)
from scenarios.base import SCENARIOS, Scenario

__all__ = [
    "SCENARIOS",
    "Scenario",
    "chunks",
    "directory",
    "loading",
    "names",
    "neighbours",
    "order",
    "places",
    "preamble",
    "sections",
    "tensors",
    "tiered_invalid",
    "tiered_valid",
    "valid",
    "valid_sections",
]
