"""Does an effect happen once when everything goes wrong, beside a client that simply retries.

Operations that are wanted once go to targets that keep books of their own, through the ledger and beside it through a
naive client, with the same faults by the same schedule: requests and answers get lost, land late or are spoilt, workers
are killed with -9 at every transition of the ledger, work is delivered three times, runs are reset and cancelled. Then
the books are counted. The exit code is 1 if the ledger did anything twice, lost anything, or has something open that
nobody is asked about.

    python -m bench.chaos [--operations 1000] [--seed 7] [--json] [--targets http-listed,smtp] [--faults "kill -9,reset"]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# As a script it is found by its path, and its neighbours are not.
for folder in (ROOT / "tests", ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def main() -> None:
    """Run the bench and print what came of it."""
    from bench.chaos_plan import FAULTS_OF

    options = _parser().parse_args()
    targets, faults = _chosen(options.targets), _chosen(options.faults)
    unknown = [target for target in targets if target not in FAULTS_OF]
    if unknown:
        _parser().error(f"no target {unknown[0]!r}; there are {', '.join(FAULTS_OF)}")
    logging.disable(logging.WARNING)  # what goes wrong here is meant to

    from bench.chaos_report import result, table
    from bench.chaos_stage import Settings, perform

    with tempfile.TemporaryDirectory(prefix="perdure-chaos-") as folder:
        settings = Settings(
            home=_made(options.keep) if options.keep else Path(folder),
            operations=options.operations,
            seed=options.seed,
            targets=targets,
            faults=faults,
            temporal=options.temporal,
            sabotage=options.sabotage,
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        performed = asyncio.run(perform(settings))
    print(json.dumps(result(performed)) if options.json else table(performed))
    sys.exit(0 if performed.perdure.holds else 1)


def _parser() -> argparse.ArgumentParser:
    from bench.chaos_plan import FAULTS, FAULTS_OF

    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos",
        description="Does an effect happen once when everything goes wrong, beside a client that simply retries?",
    )
    parser.add_argument("--operations", type=int, default=1000, help="how many things are wanted, once each (1000)")
    parser.add_argument("--seed", type=int, default=7, help="decides what goes wrong with which of them (7)")
    parser.add_argument("--targets", default=",".join(FAULTS_OF), help="of these targets only; all are the default")
    parser.add_argument("--faults", default=",".join(FAULTS), help="with these faults only; all are the default")
    parser.add_argument(
        "--temporal",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the operations that need no Temporal server, how many go through workflows all the same (0.1); "
        "resets and cancellations always do, unless it is 0",
    )
    parser.add_argument("--keep", type=Path, help="keep the books, the ledgers and the logs in this new folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--sabotage", choices=("", "new key"), default="", help="break the ledger, to see that it shows")
    return parser


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder.absolute()


def _chosen(given: str) -> list[str]:
    return [each.strip() for each in given.split(",") if each.strip()]


if __name__ == "__main__":
    main()
