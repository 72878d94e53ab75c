"""Do the vectors find every mistake? Break the reference reader in each small way, and run them.

    python mutants.py            # prints what survives; exit 1 if anything does that is not listed

A mutant is the reader, or the decoder of codec 1, with one change: a check is left out, a
comparison is moved by one, two neighbouring checks change places. A vector kills it by another
answer, or by making it crash or hang. `mutants.txt` lists those that no vector can kill, and why.
"""

from __future__ import annotations

import ast
import copy
import functools
import multiprocessing
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import tz_describe
import tz_hash
import tz_reference
import tz_tiered
import tz_vectors

FOLDER = Path(__file__).resolve().parent
MEMORY_MAX = 4 << 30
VECTOR_SECONDS = 10

MOVED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


class Mutant(NamedTuple):
    name: str  # the module, the kind of the change, and the changed code
    module: str
    rules: frozenset[str]  # that the changed code names
    tree: ast.Module


def is_check(node: ast.AST) -> bool:
    """Whether it is a statement `require(...)`."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "require"
    )


def rule_of(check: ast.stmt) -> list[str]:
    """What the check reports: class and rule, or the rule of the codec."""
    assert isinstance(check, ast.Expr)
    assert isinstance(check.value, ast.Call)
    constants = [each for each in check.value.args[1:3] if isinstance(each, ast.Constant)]
    return [ast.unparse(each) for each in constants]


def rules_of(node: ast.AST, module: str) -> frozenset[str]:
    prefix = "TZ1-" if module == "tz_reference" else "TZ1T-"
    numbers = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    return frozenset(f"{prefix}{n}" for n in numbers if type(n) is int)


def bodies(tree: ast.Module) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        for name in ("body", "orelse"):
            body = getattr(node, name, None)
            if isinstance(body, list):
                yield body


def mutations(module: str) -> Iterator[Mutant]:
    """Every mutant of a module. Names are unique: a number tells those of equal code apart."""
    original = ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))
    names: dict[str, int] = {}

    def made(kind: str, tree: ast.Module, code: str, rules: frozenset[str]) -> Mutant:
        name = f"{module}: {kind}: {code}"
        names[name] = names.get(name, 0) + 1
        count = names[name]
        return Mutant(name if count == 1 else f"{name} ({count})", module, rules, tree)

    for number, body in enumerate(bodies(original)):
        for i, statement in enumerate(body):
            if not is_check(statement):
                continue
            code, rules = ast.unparse(statement), rules_of(statement, module)
            tree = copy.deepcopy(original)
            list(bodies(tree))[number][i] = ast.Pass()
            yield made("without", tree, code, rules)
            yield from moved(original, number, i, made, module)
            after = body[i + 1] if i + 1 < len(body) else None
            # Two comparisons of the same requirement are one check.
            if after is not None and is_check(after) and rule_of(statement) != rule_of(after):
                tree = copy.deepcopy(original)
                changed = list(bodies(tree))[number]
                changed[i], changed[i + 1] = changed[i + 1], changed[i]
                both = f"{code} | {ast.unparse(after)}"
                yield made("swapped", tree, both, rules | rules_of(after, module))


def moved(original: ast.Module, number: int, i: int, made: Any, module: str) -> Iterator[Mutant]:
    """The check `i` of a body with each of its comparisons moved by one."""
    statement = list(bodies(original))[number][i]
    comparisons = [node for node in ast.walk(statement) if isinstance(node, ast.Compare)]
    for which, comparison in enumerate(comparisons):
        for place, operator in enumerate(comparison.ops):
            if type(operator) not in MOVED:
                continue
            tree = copy.deepcopy(original)
            changed = list(bodies(tree))[number][i]
            node = [each for each in ast.walk(changed) if isinstance(each, ast.Compare)][which]
            node.ops[place] = MOVED[type(operator)]()
            yield made("moved", tree, ast.unparse(changed), rules_of(changed, module))


# Running them -------------------------------------------------------------------------------------

VECTORS = [vector for vector in tz_vectors.load_all() if not vector.unknown_keys]


class KeptBlake3:
    """Blake3 of few bytes, by a function that remembers."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def update(self, data: bytes) -> None:
        self._parts.append(bytes(data))

    def digest(self) -> bytes:
        return tz_hash.blake3(b"".join(self._parts))


def remember_digests() -> None:
    """Nearly all of the reader's time goes into digests, which are the same in every mutant."""
    for name in ("blake3", "crc32c"):
        setattr(tz_hash, name, functools.cache(getattr(tz_hash, name)))
        setattr(tz_reference, name, getattr(tz_hash, name))
    vars(tz_reference)["Blake3"] = KeptBlake3
    for vector in VECTORS:
        if not passes(vector):
            raise RuntimeError(f"{vector.name} fails without a change")


def load_mutant(mutant: Mutant) -> ModuleType:
    """The reader with the change, as a module."""
    source = compile(ast.fix_missing_locations(mutant.tree), mutant.module, "exec")
    made = ModuleType(mutant.module)
    sys.modules[f"mutant of {mutant.module}"] = made
    made.__name__ = f"mutant of {mutant.module}"
    exec(source, made.__dict__)
    if mutant.module == "tz_reference":
        made.__dict__["Blake3"] = KeptBlake3
        return made
    vars(tz_reference)["tz_tiered"] = made
    return tz_reference


def killer_of(mutant: Mutant) -> str | None:
    """The vector that kills it."""
    try:
        vars(tz_describe)["tz"] = load_mutant(mutant)
        # Those about the changed rules first: nearly always one of them does.
        ordered = sorted(VECTORS, key=lambda v: not mutant.rules & set(v.rules))
        return next((vector.name for vector in ordered if not passes(vector)), None)
    finally:
        vars(tz_describe)["tz"] = tz_reference
        vars(tz_reference)["tz_tiered"] = tz_tiered


def passes(vector: tz_vectors.Vector) -> bool:
    signal.alarm(VECTOR_SECONDS)
    try:
        described = tz_describe.describe(vector.data, pin=vector.pin, operation=vector.operation)
    except Exception:
        return False
    finally:
        signal.alarm(0)
    return not tz_vectors.mismatches(vector, described)


def begin() -> None:
    """In each process: a mutant may run or grow without end."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))


def listed() -> set[str]:
    lines = (FOLDER / "mutants.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if re.match(r"tz_\w+: ", line)}


def main() -> int:
    began = time.monotonic()
    mutants = [each for module in ("tz_reference", "tz_tiered") for each in mutations(module)]
    remember_digests()
    survivors = set()
    with multiprocessing.get_context("fork").Pool(initializer=begin) as pool:
        killers = pool.imap(killer_of, mutants, chunksize=1)
        for mutant, killer in zip(mutants, killers, strict=True):
            if killer is None:
                survivors.add(mutant.name)
                print(mutant.name, flush=True)
    for name in sorted(survivors - listed()):
        print(f"not listed: {name}")
    for name in sorted(listed() - survivors):
        print(f"listed, but does not survive: {name}")
    print(
        f"{len(mutants)} mutants, {len(survivors)} survive, {len(survivors & listed())} of them as"
        f" listed; {time.monotonic() - began:.0f} s"
    )
    return 1 if survivors ^ listed() else 0


if __name__ == "__main__":
    sys.exit(main())
