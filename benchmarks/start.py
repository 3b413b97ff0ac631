"""
Measure what `%load_ext urisk_nb` costs: python benchmarks/start.py [--rounds 9]

Each round starts a new Python with an IPython shell, which loads the extension, and another one
that imports pandas, as a notebook with prices does anyway. Prints both times, and which heavy
packages the extension has imported; there should be none.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Sequence

from records import Figure, Measured, compare, summarize, take_turns

HEAVY = ("pandas", "numpy", "httpx", "pydantic", "scipy", "plotly", "ipywidgets", "jsonschema")
PROGRAM = """
import json, sys, time
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
before = set(sys.modules)
began_s = time.perf_counter()
{work}
seconds = time.perf_counter() - began_s
new = sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})
print(json.dumps([seconds, new]))
"""
LOAD = "shell.run_line_magic('load_ext', 'urisk_nb')"
PANDAS = "import pandas"


def run(work: str) -> tuple[float, list[str]]:
    """Return the seconds of a line in a fresh shell, and the packages that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(work=work)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    seconds, new = json.loads(done.stdout.splitlines()[-1])
    return seconds, new


def find_heavy(new: Sequence[str]) -> list[str]:
    """Return the packages that the extension may not import."""
    return [name for name in new if name in HEAVY]


def measure_start(*, quick: bool) -> Measured:
    """The group `start` of benchmarks/performance.py."""
    run(LOAD)  # compiles what is not compiled yet
    heavy = find_heavy(run(LOAD)[1])
    found = take_turns(
        {"load": lambda: run(LOAD)[0], "pandas": lambda: run(PANDAS)[0]}, 3 if quick else 11
    )
    conditions = "a fresh IPython"
    return Measured(
        figures={
            "load_ext": summarize([1e3 * one for one in found["load"]], "ms", conditions),
            "load_ext heavy": Figure(
                value=len(heavy),
                unit="packages",
                conditions=", ".join(heavy) or f"none of {', '.join(HEAVY)}",
            ),
            "load_ext pandas": compare(found["load"], found["pandas"], conditions),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    load = functools.partial(run, LOAD)
    found = take_turns(
        {"%load_ext": lambda: load()[0], "import pandas": lambda: run(PANDAS)[0]}, args.rounds
    )
    for name, seconds in found.items():
        print(f"{name:<14}{1e3 * summarize(seconds, 's', '').value:8.1f} ms")
    print(f"heavy packages imported: {', '.join(find_heavy(load()[1])) or 'none'}")


if __name__ == "__main__":
    main()
