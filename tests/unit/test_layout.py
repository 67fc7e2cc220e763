"""The layout, read from the source: what is pure, where a clock may stand, the wheel. Imports: import-linter."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "watchdogd"
MODULES = sorted(PACKAGE.rglob("*.py"))

# What decides knows neither clock nor machine. A list of what is allowed, for all else does I/O or might.
PURE = {"model", "codec", "core"}
PURE_STDLIB = {
    "__future__",
    "abc",
    "collections",
    "contextlib",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "json",  # text to values and back
    "math",
    "operator",
    "re",
    "pathlib",  # a path is a value: the name of a FIFO
    "types",
    "typing",
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "__import__"}

# Wall-clock time is for the border; inside, time is seconds of CLOCK_MONOTONIC.
MAY_KNOW_THE_DATE = {"observe", "report"}
WALL_CLOCK = {
    "time",
    "time_ns",
    "localtime",
    "gmtime",
    "strftime",
    "strptime",
    "ctime",
    "asctime",
    "mktime",
    "CLOCK_REALTIME",
}

# Who writes for people: report alone, which shows every text from outside. And the trace of a bug in a thread.
MAY_PRINT = {"report", "observe/mongod/resolve.py"}
PRINTING = {"print", "traceback.print_exc", "traceback.print_exception"}
PRINTING |= {f"sys.{stream}.{how}" for stream in ("stdout", "stderr") for how in ("write", "writelines")}

Rule = Callable[[str, Path], list[str]]

TESTS_THE_WHEEL = os.environ.get("MONGO_WATCHDOG_WHEEL") == "1"
wheel_only = pytest.mark.skipif(not TESTS_THE_WHEEL, reason="only make test installs the wheel")


def layer(path: Path) -> str:
    """The first name below watchdogd: `observe` for watchdogd/observe/uwsgi.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str, path: Path) -> Iterator[tuple[str, int]]:
    """Every imported name in full, with its line: `from a.b import c` is a.b.c, also when relative."""
    folder = ("watchdogd", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else ()
            origin = ".".join((*base, *filter(None, [node.module])))
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)


def impurities(source: str, path: Path) -> list[str]:
    """What stands under `if __name__ == "__main__"` may print: it is a command, never imported."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.dump(node.test))]
    found = [
        f"{path.name}:{line}: imports {name}; only {sorted(PURE_STDLIB)}"
        for name, line in imports(source, path)
        if name.split(".")[0] not in PURE_STDLIB | {"watchdogd"}
    ]
    found += [
        f"{path.name}:{node.lineno}: calls {node.func.id}()"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS
    ]
    return found


def wall_clocks(source: str, path: Path) -> list[str]:
    """A timedelta is no clock and may stand anywhere; `import datetime` as a whole may not."""
    found = [
        f"{path.name}:{line}: imports {name}"
        for name, line in imports(source, path)
        if (name.split(".")[0] == "datetime" and name != "datetime.timedelta")
        or name in {f"time.{one}" for one in WALL_CLOCK}
    ]
    found += [
        f"{path.name}:{node.lineno}: uses time.{node.attr}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "time"
        and node.attr in WALL_CLOCK
    ]
    return found


def tuples_of_generators(source: str, path: Path) -> list[str]:
    """Tuples whose length is not known when they are begun.

    CPython (to 3.13) begins with room for 10 and cuts that down, so each such tuple is taken from one free list and
    given back to another, which keeps up to 2 000: so the daemon grew by 1.5 MB.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    whole = [argument for call in calls if ast.unparse(call.func) == "tuple" for argument in call.args]
    spread = [argument.value for call in calls for argument in call.args if isinstance(argument, ast.Starred)]
    return [
        f"{path.name}:{node.lineno}: a tuple of a generator; make a list of it first: [{ast.unparse(node)[1:-1]}]"
        for node in (*whole, *spread)
        if isinstance(node, ast.GeneratorExp)
    ]


def prints(source: str, path: Path) -> list[str]:
    """Calls that write on standard output or error, but for what stands under `if __name__ == "__main__"`."""
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "__name__" in ast.dump(node.test))]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        f"{path.name}:{call.lineno}: {ast.unparse(call.func)}(); use report/say.py"
        for call in calls
        if ast.unparse(call.func) in PRINTING
    ]


@pytest.fixture(params=MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def module(request: pytest.FixtureRequest) -> Path:
    path = request.param
    assert isinstance(path, Path)
    return path


def test_what_decides_touches_nothing(module: Path) -> None:
    if layer(module) in PURE:
        assert impurities(module.read_text(), module) == []


def test_the_wall_clock_stands_at_the_border_only(module: Path) -> None:
    if layer(module) not in MAY_KNOW_THE_DATE:
        assert wall_clocks(module.read_text(), module) == []


def test_no_tuple_is_made_of_a_generator(module: Path) -> None:
    assert tuples_of_generators(module.read_text(), module) == []


def test_only_report_prints(module: Path) -> None:
    if not MAY_PRINT & {layer(module), str(module.relative_to(PACKAGE))}:
        assert prints(module.read_text(), module) == []


@pytest.mark.parametrize(
    ("place", "source", "rule"),
    [
        ("core/gates.py", "import time", impurities),
        ("core/gates.py", "from datetime import timedelta", impurities),
        ("model/base.py", "open('x')", impurities),
        ("service/store.py", "import datetime", wall_clocks),
        ("service/store.py", "from datetime import UTC, timedelta", wall_clocks),
        ("service/control.py", "import time\nx = time.time()", wall_clocks),
        ("service/daemon.py", "from time import time_ns", wall_clocks),
        ("cli/main.py", "print('x')", prints),
        ("service/start.py", "sys.stderr.write('x')", prints),
        ("core/gates.py", "tuple(x for x in y)", tuples_of_generators),
        ("core/gates.py", "f(1, *(x for x in y))", tuples_of_generators),
    ],
)
def test_the_rules_see_what_they_forbid(place: str, source: str, rule: Rule) -> None:
    assert len(rule(source, PACKAGE / place)) == 1


@pytest.mark.parametrize(
    ("place", "source", "rule"),
    [
        ("core/gates.py", "from collections.abc import Mapping\nfrom watchdogd.model.seen import Member", impurities),
        ("core/gates.py", "if __name__ == '__main__':\n    print(1)", impurities),
        ("core/gates.py", "if __name__ == '__main__':\n    print(1)", prints),
        ("cli/main.py", "say('x')\nsys.stdout.flush()", prints),
        ("config.py", "from datetime import timedelta", wall_clocks),
        ("service/daemon.py", "import time\ntime.monotonic()", wall_clocks),
        ("core/gates.py", "tuple([x for x in y])\nf(*[x for x in y])\nsum(x for x in y)", tuples_of_generators),
    ],
)
def test_the_rules_let_pass_what_they_allow(place: str, source: str, rule: Rule) -> None:
    assert rule(source, PACKAGE / place) == []


# Written so that this file does not hold what it looks for.
OF_SOME_MACHINE = re.compile(
    r"(?<![\w./})-])/(?:work|root)/"  # an absolute path of a developer's machine
    r"|files\.python(?:hosted)\.org|pypi\.org/(?:simple)"
    r"|(?<!no-emit-)(?:extra-)?index-(?:url)|--find-(?:links)"
)


def test_no_file_names_a_machine_or_a_registry() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in listing.stdout.split("\0")
        if name and (ROOT / name).is_file()
        for number, line in enumerate((ROOT / name).read_text(errors="replace").splitlines(), 1)
        if OF_SOME_MACHINE.search(line)
    ]
    assert found == []


def test_rig_and_tests_come_from_this_checkout() -> None:
    for name in ("rig", "tests"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert set(spec.submodule_search_locations or []) == {str(ROOT / name)}


@wheel_only
def test_the_wheel_is_what_is_tested_here_and_in_what_a_test_starts() -> None:
    command = [sys.executable, "-c", "import watchdogd; print(watchdogd.__file__)"]
    started = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    spec = importlib.util.find_spec("watchdogd")
    assert spec is not None
    assert spec.origin == started
    assert not Path(started).is_relative_to(PACKAGE)


@wheel_only
def test_the_wheel_holds_the_package_and_nothing_else() -> None:
    files = importlib.metadata.files("mongo-watchdog")
    assert files is not None
    installed = {str(file): file.locate() for file in files if file.suffix != ".pyc"}
    assert {PurePosixPath(name).parts[0] for name in installed} == {
        "watchdogd",
        f"mongo_watchdog-{importlib.metadata.version('mongo-watchdog')}.dist-info",
        "..",  # ../../../bin/mongo-watchdog
    }
    checkout = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for source, target in project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"].items():
        included = [path for path in [ROOT / source, *(ROOT / source).rglob("*")] if path.is_file()]
        checkout |= {f"{target}{str(path).removeprefix(str(ROOT / source))}": path.read_bytes() for path in included}
    assert "watchdogd/schemas/status.schema.json" in installed
    package = {name: Path(str(path)).read_bytes() for name, path in installed.items() if name.startswith("watchdogd/")}
    assert package == checkout
