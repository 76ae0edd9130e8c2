"""``benchmarks/run``: measure, print the tables, and write them into the documentation."""

from __future__ import annotations

import argparse
import sys

from benchmarks import peers
from benchmarks.command import count, end_well, say
from benchmarks.load import CONNECTIONS, find_wrk
from benchmarks.memory import can_measure, measure_memory
from benchmarks.others import Others
from benchmarks.report import render, write_docs
from benchmarks.results import Results
from benchmarks.servers import STARTS, THROUGHPUT
from benchmarks.startup import measure_starts
from benchmarks.throughput import measure_throughput

_START, _MEMORY = "start", "memory"


def main() -> int:
    """Run; returns the exit status, see `benchmarks.command.end_well`."""
    arguments = _arguments()

    def measure() -> None:
        find_wrk()
        _measure(arguments)

    return end_well(measure)


def _measure(arguments: argparse.Namespace) -> None:
    only = arguments.only
    subjects = [each for each in THROUGHPUT if not only or each.name in only]
    starts = not only or _START in only
    if starts or any(each.is_peer for each in subjects):
        peers.set_up()
    results = Results()
    others = Others()
    if subjects:
        results.throughput = measure_throughput(
            subjects,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            warm_up=arguments.warm_up,
            say=say,
        )
    if starts:
        results.starts = measure_starts(times=arguments.starts, say=say)
    if not only or _MEMORY in only:
        if can_measure():
            results.memory = measure_memory(soak=arguments.soak, say=say)
        else:
            say("memory is not measured: this system does not tell a process's PSS")
    results.others = others.share()
    text = render(results, _how(arguments))
    print(text)
    if arguments.write_docs:
        write_docs(text)


def _how(arguments: argparse.Namespace) -> str:
    return (
        f"Load: wrk, 1 thread, {CONNECTIONS} connections; {arguments.rounds} rounds in turn, "
        f"{arguments.seconds} s each after {arguments.warm_up} s of warm-up, "
        f"and {arguments.starts} starts."
    )


def _arguments() -> argparse.Namespace:
    names = [*(each.name for each in THROUGHPUT), _START, _MEMORY]
    parser = argparse.ArgumentParser(
        prog="benchmarks/run",
        description="Measures fnship against its limit and its peers. It takes a quarter of an "
        "hour, and wants the machine for itself.",
    )
    parser.add_argument("--rounds", type=count, metavar="N", help="of the load (5)")
    parser.add_argument("--seconds", type=count, metavar="N", help="of load for a point (5)")
    parser.add_argument("--starts", type=count, metavar="N", help=f"of {len(STARTS)} servers (9)")
    parser.add_argument(
        "--soak",
        action=argparse.BooleanOptionalAction,
        help="measure the growth of memory over a million requests (yes)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"some of {', '.join(names)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help="to try it: 1 round of 2 s, 3 starts, no soak"
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="put the tables into docs/benchmarks.md"
    )
    arguments = parser.parse_args()
    usual = (1, 2, 3, False) if arguments.quick else (5, 5, 9, True)
    for name, value in zip(("rounds", "seconds", "starts", "soak"), usual, strict=True):
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    arguments.warm_up = 1
    if arguments.write_docs and (arguments.only or arguments.quick or not arguments.soak):
        parser.error("the documentation shows whole runs: --write-docs goes with neither --only, "
                     "--quick nor --no-soak")  # fmt: skip
    return arguments


if __name__ == "__main__":
    sys.exit(main())
