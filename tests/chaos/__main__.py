"""`make chaos`: kill and cut at random for about two minutes, then count what has become of each reading."""

import asyncio
import os
import secrets
import sys

import msgspec

from tests.chaos.broken import KINDS
from tests.chaos.plan import FULL_S
from tests.chaos.report import say
from tests.chaos.run import BrokerMissingError, chaos


def main() -> int:
    """Run by the environment's CHAOS_SECONDS, CHAOS_SEED and CHAOS_BROKEN; 0 if all is as promised."""
    seconds = float(os.environ.get("CHAOS_SECONDS") or FULL_S)
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))
    broken = os.environ.get("CHAOS_BROKEN", "")
    if seconds < 20:
        say("CHAOS_SECONDS: expected 20 or more")
        return 2
    if broken and broken not in KINDS:
        say(f"CHAOS_BROKEN: expected one of {', '.join(KINDS)}")
        return 2
    try:
        report, _ = asyncio.run(chaos(seed, seconds, broken))
    except BrokerMissingError as missing:
        say(str(missing))
        return 1
    print(msgspec.json.encode(report).decode(), flush=True)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
