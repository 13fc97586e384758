"""
Benchmarks
==========

Measures this package beside its peers and prints medians and ratios.

.. code-block:: console

    $ pip install -e '.[bench]'
    $ python benchmarks/run.py            # some minutes
    $ python benchmarks/run.py --quick    # under a minute, without the one through gunicorn

See :mod:`measure` for how, and every other module here for what. memcached must be installed.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import plots
import report
import results
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures this package beside its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no gunicorn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures there")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write README's pictures there")
    options = parser.parse_args()
    if shutil.which("memcached") is None:
        parser.error("there is no memcached on the PATH")

    found = measured(options.quick)
    terminal = Console()
    report.show(found, terminal if terminal.is_terminal else Console(width=120))
    if options.json:
        found.write(options.json)
    if options.plot:
        plots.write(found, options.plot)


def measured(quick: bool) -> results.Results:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=False,  # a thread that draws would be measured, too
    )

    def track(title: str, rounds: int) -> Iterator[int]:
        task = progress.add_task(title, total=rounds)
        for number in range(rounds):
            progress.refresh()
            yield number
            progress.advance(task)
        progress.refresh()

    with progress:
        return results.measure(quick, track)


if __name__ == "__main__":
    main()
