#!/usr/bin/env python3
"""Runs the comparisons with other people's programs: every check_*.py in this folder.

    run.py --gladius build/release/cli/gladius [--only NAME]... [--keep FOLDER]

Run it with the Python of scripts/setup --interop. Each check is a program of its own; common.py says what it is given. Its
exit status is 0 for passed, 77 for "could not run" and anything else for failed; the last line that it prints says what
was compared, or why it could not run. A check that fails does not stop the others. --keep leaves what the checks made in
FOLDER.
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

CANNOT_RUN = 77
TIME_LIMIT = 1200  # seconds for each check
HERE = pathlib.Path(__file__).resolve().parent


def run_check(check, gladius, folder):
    """Runs one check with its output passed on; returns its result and its last line."""
    environment = dict(os.environ, GLADIUS=str(gladius), GLADIUS_INTEROP_FOLDER=str(folder), PYTHONPATH=str(HERE),
                       HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    last = ""
    with subprocess.Popen([sys.executable, "-u", str(check)], env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                          start_new_session=True) as process:
        stop = threading.Timer(TIME_LIMIT, os.killpg, (process.pid, signal.SIGKILL))
        stop.start()
        for line in process.stdout:
            print("  " + line, end="", flush=True)
            last = line.strip() or last
        status = process.wait()
        stop.cancel()
    if status == -signal.SIGKILL:
        last = f"killed, after {TIME_LIMIT} s or from outside: {last}"
    return {0: "passed", CANNOT_RUN: "not run"}.get(status, "FAILED"), last


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gladius", required=True, type=pathlib.Path, help="the program under test")
    parser.add_argument("--only", action="append", metavar="NAME", help="only check_NAME.py")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FOLDER", help="work in FOLDER and leave it")
    arguments = parser.parse_args()

    checks = sorted(HERE.glob("check_*.py"))
    names = [check.stem.removeprefix("check_") for check in checks]
    if arguments.only:
        unknown = set(arguments.only) - set(names)
        if unknown:
            parser.error(f"no check is called {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
        checks = [check for check, name in zip(checks, names) if name in arguments.only]
    if not checks:
        print("there are no checks")
        return 1

    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.keep or pathlib.Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for check in checks:
            print(f"{check.stem} …", flush=True)
            start = time.monotonic()
            result, last = run_check(check, arguments.gladius.resolve(), folder)
            results.append(result)
            print(f"{check.stem}: {result} ({time.monotonic() - start:.0f} s) {last}", flush=True)
    counts = {result: results.count(result) for result in ("passed", "FAILED", "not run")}
    print(", ".join(f"{count} comparisons {result}" for result, count in counts.items() if count))
    if counts["FAILED"]:
        return 1
    return 0 if counts["passed"] else CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
