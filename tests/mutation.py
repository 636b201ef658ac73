#!/usr/bin/env python
"""Break each mechanism on purpose, one small change at a time, and report the changes that no test notices.

A change is a mutant: an axis swapped, a residual or a scale dropped, an activation exchanged, a default wrong, a
refusal forgotten. Each runs the tests that concern its mechanism (those that get it as a parameter or name it) in a
process of its own. A mutant that no test can notice, because it computes the same, is explained in mutants.toml.
"""

import argparse
import ast
import gc
import importlib.util
import inspect
import itertools
import os
import random
import re
import resource
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType

import pytest

TESTS = Path(__file__).parent
ATTENTION = TESTS.parent / "mmattn/attention"
EXPLAINED = TESTS / "mutants.toml"
SUITE = ("test_formula.py", "test_attention.py", "test_capture.py")  # after the paper's own file; quick ones first
LIMIT = 240  # seconds; a mutant that runs longer is noticed, and so is one that wants more memory
MEMORY = 16 << 30  # bytes of address space
NO_TESTS, FAULT = pytest.ExitCode.NO_TESTS_COLLECTED, 70  # exit statuses
EXAMPLES = """examples:
  python tests/mutation.py                         all mechanisms; half an hour
  python tests/mutation.py criss_cross             one file of mmattn/attention; minutes
  python tests/mutation.py --sample 60 --seed 7    some mutants of all
  python tests/mutation.py criss_cross --list      the mutants, without running anything"""

Put = Callable[[ast.AST], None]


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        path: The file.
        line: Where the change is.
        change: What it is, ``CrissCross.forward: q @ k.mT -> q @ k``; unique in the file.
        code: The whole file with the change.
    """

    path: Path
    line: int
    change: str
    code: CodeType

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}  {self.change}"


# -- what is changed -----------------------------------------------------------------------------------------------

OTHER = {  # functions and classes
    "sigmoid": "tanh",
    "Sigmoid": "Tanh",
    "amax": "amin",
    "argmax": "argmin",
    "max": "min",
    "mean": "sum",
    "cos": "sin",
    "ceil": "floor",
    "max_pool2d": "avg_pool2d",
    "MaxPool2d": "AvgPool2d",
    "adaptive_max_pool2d": "adaptive_avg_pool2d",
    "AdaptiveMaxPool2d": "AdaptiveAvgPool2d",
    "zeros_": "ones_",
}
OTHER |= {other: one for one, other in OTHER.items()}
OTHER |= {"ReLU": "Identity"}
DROPPED = {"relu", "softmax", "log_softmax", "softplus", "exp", "log", "sqrt", "rsqrt", "square", "abs", "clamp", "to"}
DROPPED |= {"detach", "float", "flip", "normalize", "sigmoid", "interpolate", "ceil", "floor", "round"}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult}
COMPARED = {ast.Lt: ast.LtE, ast.Gt: ast.GtE, ast.Eq: ast.NotEq, ast.In: ast.NotIn, ast.Is: ast.IsNot}
COMPARED |= {other: one for one, other in COMPARED.items()}
COMMUTE = {"max", "min", "maximum", "minimum", "promote_types", "isinstance"}
WORDS = {"fan_in": "fan_out", "fan_out": "fan_in", "channel": "spatial", "spatial": "channel", "bilinear": "nearest"}


def changes(node: ast.AST, parent: ast.AST, names: dict[str, list[str]]) -> Iterator[ast.AST]:
    """What could stand in the place of ``node``."""
    match node:
        case ast.BinOp(left, op, right):
            if type(op) in OPERATORS:
                yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if type(op) in (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Pow):
                yield left
            if type(op) in (ast.Add, ast.Mult):
                yield right
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield ast.AugAssign(target, OPERATORS[type(op)](), value)
            yield ast.Assign([target], value)
            yield ast.Pass()
        case ast.UnaryOp(ast.USub() | ast.Not(), operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Compare(left, [op], right) if type(op) in COMPARED:
            yield ast.Compare(left, [COMPARED[type(op)]()], right)
        case ast.BoolOp(values=values):
            yield from values
        case ast.If(test, body, orelse) if negates(test):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test, body, orelse) if negates(test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Attribute(value, "mT" | "T" | "mH", _):
            yield value
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(1 if value == 2 else value + 1)
        case ast.Constant(float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.Constant(str(value)) if value in WORDS:
            yield ast.Constant(WORDS[value])
        case ast.Tuple(elements, ast.Load()) | ast.List(elements, ast.Load()):
            loop = isinstance(parent, ast.For | ast.comprehension)
            if len(elements) > 1 and not loop and not all(isinstance(e, ast.Constant) for e in elements):
                yield type(node)([elements[1], elements[0], *elements[2:]], ast.Load())
        case ast.Raise():
            yield ast.Pass()
        case ast.Expr(ast.Call(function)) if ast.unparse(function) != "super().__init__":
            yield ast.Pass()
        case ast.Call(function, arguments, keywords):
            yield from calls(function, arguments, keywords, names)


def calls(
    function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword], names: dict[str, list[str]]
) -> Iterator[ast.expr]:
    """What could stand in the place of a call."""
    if len(arguments) > 1 and ast.unparse(function).rpartition(".")[2] not in COMMUTE:
        yield ast.Call(function, [arguments[1], arguments[0], *arguments[2:]], keywords)
    for i, keyword in enumerate(keywords):
        if isinstance(keyword.value, ast.Constant) and keyword.value.value is None:
            yield ast.Call(function, arguments, keywords[:i] + keywords[i + 1 :])
    if isinstance(function, ast.Name) and function.id in ("max", "min"):
        yield ast.Call(ast.Name(OTHER[function.id], ast.Load()), arguments, keywords)
    if not isinstance(function, ast.Attribute):
        return
    owner, name = function.value, function.attr
    if name in OTHER:
        yield ast.Call(ast.Attribute(owner, OTHER[name], ast.Load()), arguments, keywords)
    library = isinstance(owner, ast.Name) and owner.id in ("torch", "F", "math")
    if name in DROPPED and (arguments or not library):
        yield arguments[0] if library else owner
    if isinstance(owner, ast.Name) and owner.id == "self":
        if name.startswith("tap") and arguments:
            yield arguments[0]
        others = names[name.lstrip("_") != name]
        if name in others and len(others) > 1:
            other = others[(others.index(name) + 1) % len(others)]
            yield ast.Call(ast.Attribute(owner, other, ast.Load()), arguments, keywords)


def negates(test: ast.expr) -> bool:
    """Whether no other change turns this condition round."""
    return not isinstance(test, ast.Compare) or isinstance(test.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE)


def called(function: ast.AST) -> dict[bool, list[str]]:
    """Attributes of ``self`` that a function calls, its own methods apart."""
    found: dict[bool, list[str]] = {False: [], True: []}
    for node in ast.walk(function):
        match node:
            case ast.Call(ast.Attribute(ast.Name("self"), name), [_, *_]):
                if name not in found[name.startswith("_")] and not name.startswith("tap"):
                    found[name.startswith("_")].append(name)
    return found


# -- where it is changed -------------------------------------------------------------------------------------------


def spots(node: ast.AST, chain: tuple[ast.AST, ...]) -> Iterator[tuple[ast.AST, Put, tuple[ast.AST, ...]]]:
    """Every place below ``node`` that is code: the node there, how to put another one, and its ancestors."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "targets", "target", "bases"):
            continue
        for i, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or is_words(child):
                continue
            put = partial(setattr, node, field) if i is None else partial(value.__setitem__, i)
            yield child, put, (*chain, node)
            if not isinstance(child, ast.Raise):
                yield from spots(child, (*chain, node))


def is_words(node: ast.AST) -> bool:
    """Messages, docstrings, imports and types."""
    match node:
        case ast.Import() | ast.ImportFrom() | ast.JoinedStr() | ast.Expr(ast.Constant()):
            return True
        case ast.Subscript(ast.Name("Literal" | "Callable" | "Sequence" | "Mapping")):
            return True
        case ast.keyword("inplace" | "strict"):
            return True
    return False


def mutants(path: Path) -> list[Mutant]:
    """Every change of a file that compiles and is one, in the order of its lines."""
    tree = ast.parse(path.read_text())
    found: dict[str, Mutant] = {}
    for node, put, chain in list(spots(tree, ())):
        scopes = [a for a in (*chain, node) if isinstance(a, ast.ClassDef | ast.FunctionDef)]
        names = called(scopes[-1]) if scopes else {False: [], True: []}
        inner = [a for a in chain[1:] if isinstance(a, ast.expr | ast.keyword | ast.Assign | ast.Return)]
        shown = next((a for a in reversed([*inner, node]) if len(ast.unparse(a)) > 14), inner[0] if inner else node)
        before = ast.unparse(shown)
        for new in changes(node, chain[-1], names):
            put(ast.copy_location(new, node))
            after = ast.unparse(new if shown is node else shown)
            change = f"{'.'.join(s.name for s in scopes)}: {first_line(before)} -> {first_line(after)}"
            if after != before:
                with suppress(SyntaxError):
                    code = compile(ast.fix_missing_locations(tree), str(path), "exec")
                    same = sum(key.partition(" #")[0] == change for key in found)
                    change += f" #{same + 1}" if same else ""
                    found[change] = Mutant(path, node.lineno, change, code)
            put(node)
    return sorted(found.values(), key=lambda m: m.line)


def first_line(text: str) -> str:
    line, _, more = text.partition("\n")
    return line if len(line) < 120 and not more else f"{line[:118]} ..."


# -- who notices ---------------------------------------------------------------------------------------------------


class Changed(SourceFileLoader):
    """Finds and loads one module with other code."""

    def __init__(self, path: Path, code: CodeType) -> None:
        super().__init__(f"mmattn.attention.{path.stem}", str(path))
        self.code = code

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def get_code(self, name: str) -> CodeType:
        return self.code


class Concerned:
    """Pytest plugin: of all tests only those that concern the mechanisms of one file, until the first that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        from mmattn.attention import entries

        own = [entry for entry in entries() if entry.cls.__module__.endswith(f".{self.path.stem}")]
        words = re.compile(rf"\b({'|'.join([e.cls.__name__ for e in own] + [e.name for e in own])})\b")
        own_classes, classes = {entry.cls for entry in own}, {entry.cls for entry in entries()}

        @cache
        def named(function: Callable) -> bool:
            return bool(words.search(inspect.getsource(function)))

        def concerns(item: pytest.Item) -> bool:
            if item.path.stem == f"test_{self.path.stem}":
                return True
            values = item.callspec.params.values() if hasattr(item, "callspec") else ()
            given = {getattr(v, "cls", v) for v in values if isinstance(v, type) or hasattr(v, "cls")} & classes
            return bool(given & own_classes) if given else named(item.function)

        slow = re.compile("compile|export|gradcheck")
        items[:] = sorted(filter(concerns, items), key=lambda item: bool(slow.search(item.name)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os._exit(1)


def start(path: Path, code: CodeType) -> int:
    """Run the concerned tests on a changed file in a new process; its id."""
    sys.stdout.flush()
    if process := os.fork():
        return process
    status = FAULT
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        sys.meta_path.insert(0, Changed(path, code))
        own = TESTS / f"papers/test_{path.stem}.py"
        files = [str(file) for file in (own, *(TESTS / name for name in SUITE)) if file.exists()]
        options = ["-x", "-q", "--noconftest", "--assert=plain", "-p", "no:cacheprovider"]
        options += ["-o", "addopts=-m 'not slow' --strict-markers"]
        status = int(pytest.main([*options, *files], plugins=[Concerned(path)]))
    finally:
        os._exit(status)


def finish(running: dict[int, tuple[Mutant, float]]) -> tuple[Mutant, bool]:
    """Wait for one of the running mutants; it, and whether a test noticed it."""
    while True:
        for process, (mutant, began) in running.items():
            late = time.monotonic() - began > LIMIT
            if late:
                os.kill(process, signal.SIGKILL)
            ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
            if ended:
                del running[process]
                check_status(status)
                return mutant, status != 0
        time.sleep(0.02)


def check_status(status: int) -> None:
    """Pytest ran tests; a process that was killed, or broke inside pytest, was broken by the mutant."""
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (pytest.ExitCode.USAGE_ERROR, NO_TESTS, FAULT):
        sys.exit(f"pytest ran no tests: exit status {os.WEXITSTATUS(status)}")


def warm_up() -> None:
    """Import what every process needs, once; the mechanisms themselves not."""
    import torch

    import mmattn.capture
    import mmattn.layers
    import mmattn.ops  # noqa: F401

    torch.set_num_threads(1)
    module, x = torch.nn.Conv2d(1, 1, kernel_size=1), torch.rand(2, 1, 4, 4)
    torch.compile(module, fullgraph=True, backend="eager")(x)
    torch.export.export(module, (x,), dynamic_shapes=[{2: torch.export.Dim.AUTO}])
    torch._dynamo.reset()
    assert "mmattn.attention" not in sys.modules
    gc.freeze()  # its collections neither look at what is there already nor copy it into every process


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="FILE", help="files of mmattn/attention; all when left out")
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants; all tests must have passed before")
    parser.add_argument("--seed", default="0", help="of the sample")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes at a time")
    parser.add_argument("--verbose", action="store_true", help="print the noticed ones too")
    parser.add_argument("--list", action="store_true", help="list the mutants and run nothing")
    args = parser.parse_args(argv)
    known = {path.stem: path for path in sorted(ATTENTION.glob("[!_]*.py"))}
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no file {unknown[0]}.py in mmattn/attention; there are {', '.join(known)}")
    paths = [known[name] for name in args.names] or list(known.values())
    found = [mutant for path in paths for mutant in mutants(path)]
    reasons = tomllib.loads(EXPLAINED.read_text())
    explained = {(path.stem, change) for path in paths for change in reasons.get(path.stem, ())}
    todo = [mutant for mutant in found if (mutant.path.stem, mutant.change) not in explained]
    stale = explained - {(mutant.path.stem, mutant.change) for mutant in found}
    if args.sample is not None and args.sample < len(todo):
        chosen = set(random.Random(args.seed).sample(range(len(todo)), args.sample))
        todo = [mutant for i, mutant in enumerate(todo) if i in chosen]
    if args.list:
        print(*todo, f"{len(todo)} mutants, {len(explained)} explained", sep="\n")
        return 0
    warm_up()
    for path in paths if args.sample is None else ():
        check_unchanged(path)
    survivors = run(todo, args.jobs, args.verbose)
    for file, change in sorted(stale):
        print(f"{EXPLAINED.name} explains a mutant of {file}.py that there is not: {change}")
    print(f"{len(todo)} mutants, {len(survivors)} survived, {len(explained)} explained")
    return int(bool(survivors or stale))


def run(todo: list[Mutant], jobs: int, verbose: bool = False) -> list[Mutant]:
    """The mutants that no test notices; they are printed as they are found."""
    running: dict[int, tuple[Mutant, float]] = {}
    survivors: list[Mutant] = []
    began, done, waiting = time.monotonic(), 0, iter(todo)
    while done < len(todo):
        for mutant in itertools.islice(waiting, jobs - len(running)):
            running[start(mutant.path, mutant.code)] = mutant, time.monotonic()
        mutant, noticed = finish(running)
        done += 1
        if not noticed:
            survivors.append(mutant)
        if verbose or not noticed:
            print(f"{'noticed' if noticed else 'survived':8}  {mutant}", flush=True)
        left = (time.monotonic() - began) / done * (len(todo) - done)
        if sys.stderr.isatty() or done % 20 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"{done} of {len(todo)}, {mutant.path.stem}, {left / 60:.1f} min left ", end=end, file=sys.stderr)
    return survivors


def check_unchanged(path: Path) -> None:
    """The tests must pass on the file as it is."""
    code = compile(path.read_text(), str(path), "exec")
    status = os.waitpid(start(path, code), 0)[1]
    check_status(status)
    if status:
        sys.exit(f"{path.name}: its tests fail without any change")


if __name__ == "__main__":
    sys.path[:0] = [str(TESTS.parent), str(TESTS)]
    sys.exit(main())
