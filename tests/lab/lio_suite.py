"""Runs on a lab host: libiscsi's suite against the LUN that its kernel serves.

Prints a line a test as it ends: verdict, test, and why it isn't a pass, with tabs between. Ends
when the time given is over, with what it has.
"""

from __future__ import annotations

import sys
import time

from tests.conformance.libiscsi_suite import all_tests, run_test

TEST_WITHIN_S = 150.0
"""Some send thousands of commands, and a host without a processor of its own is slow."""


def main(url: str, within_s: str) -> None:
    deadline_s = time.monotonic() + float(within_s)
    for test in all_tests():
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        # Two initiators: the tool has a second name for the second one.
        outcome = run_test(test, [url, url], min(TEST_WITHIN_S, left_s))
        print(outcome.verdict.value, test, outcome.detail, sep="\t", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
