"""The run itself: start everything, kill and cut by the plan, stop polling, drain, count.

The product as it ships, in processes of its own; mosquitto; a simulated street whose registers count. The bench knows
of the product's inside nothing but the agent's status, by which it sees when it need not wait any longer.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from edge.answers import Status, StatusAnswer
from edge.asking import NoAgentError, ask
from sim.counter import Given, read_journal
from tests.bench.processes import BIN, ask_street, listens
from tests.bench.processes import Process as Steady
from tests.chaos import centre, files
from tests.chaos.count import ANSWER_MS, MARGIN_MS, Evidence, Register, Verdict, descents, judge
from tests.chaos.plan import AGENTS, CABINETS, Cut, Kill, Victim, make_plan
from tests.chaos.report import Report, say
from tests.chaos.victims import Process, steady_port, utc_ms
from tests.faults.proxy import FaultyProxy

START_S, DRAIN_S = 30.0, 120.0
LOOK_S = 0.05
READ_SHARE = 0.8
"""How much of what is asked for has to be read: less, and the machine was too busy to show anything."""
CLOCK_SLACK_MS = 200
SHOWN = 5
"""Of each kind of fault so many are told one by one."""


class BrokerMissingError(Exception):
    """mosquitto is not installed."""


def find_mosquitto() -> str:
    """Return where mosquitto is.

    Raises:
        BrokerMissingError: it is not there; `make tools` installs it.
    """
    found = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BrokerMissingError("mosquitto is missing; `make tools` installs it")
    return found


class Chaos:
    """One run.

    Attributes:
        problems: whatever is not as it should be, for people.
    """

    def __init__(self, folder: Path, seed: int, seconds: float, broken: str = "") -> None:
        self.problems: list[str] = []
        self._folder = folder
        self._seed = seed
        self._seconds = seconds
        self._journal = folder / files.JOURNAL
        self._plan = make_plan(seed, seconds)
        self._broken = broken
        self._mosquitto = find_mosquitto()
        self._api_port = steady_port()
        self._began_s = time.monotonic()
        self._processes: dict[Victim, Process] = {}
        self._proxies: dict[str, FaultyProxy] = {}
        self._cuts = 0
        self._clock_ms = utc_ms() - time.monotonic_ns() // 1_000_000

    async def run(self) -> Report:
        """Do all of it."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            await self._wreak()
            drain_s = await self._drain()
            counters = await asyncio.to_thread(self._counters)
            found = await asyncio.to_thread(self._read_centre)
            self._look_at_clock()
        given = read_journal(self._journal)
        return self._report(given, counters, found, drain_s)

    # --- starting ---

    async def _start(self, stack: AsyncExitStack) -> None:
        broker_port = steady_port()
        street = self._start_street(stack)
        for cabinet in CABINETS:
            self._proxies[cabinet] = await stack.enter_async_context(FaultyProxy(broker_port))
        self._prepare(broker_port, await asyncio.to_thread(street))
        for process in self._processes.values():
            stack.callback(process.end)
        for victim in (Victim.BROKER, Victim.CENTRE):
            self._processes[victim].start()
        await self._until("the broker listens", lambda: listens(broker_port), START_S)
        await self._until("the centre listens", lambda: listens(self._api_port), START_S)
        for victim in AGENTS.values():
            self._processes[victim].start()
        await self._until("both agents read", self._all_read, START_S)
        self._began_s = time.monotonic()
        say(f"seed {self._seed}: {len(self._plan.kills)} kills and {len(self._plan.cuts)} cuts")

    def _start_street(self, stack: AsyncExitStack) -> Callable[[], Mapping[str, int]]:
        file = self._folder / "street.toml"
        file.write_text(files.scenario(), encoding="utf-8")
        street = Steady([str(BIN / "luciole-sim"), "run", str(file)], self._folder / "sim.log")
        stack.callback(street.stop)
        return self._ports

    def _ports(self) -> Mapping[str, int]:
        """Wait for the street, and return where its devices are: all of them, the socket answers before they do."""
        end_s = time.monotonic() + START_S
        while True:
            try:
                tcp = ask_street(self._folder / files.CONTROL, {"do": "ports"})["tcp"]
            except OSError:
                if time.monotonic() > end_s:
                    raise
            else:
                if all(where[1] for where in tcp.values()):
                    return {name: int(where[1]) for name, where in tcp.items()}
            time.sleep(LOOK_S)

    def _prepare(self, broker_port: int, ports: Mapping[str, int]) -> None:
        """Write every file and every command line; nothing is started."""
        conf = self._folder / "mosquitto.conf"
        conf.write_text(f"listener {broker_port} 127.0.0.1\nallow_anonymous true\n", encoding="utf-8")
        db, url = self._folder / "central.db", f"mqtt://127.0.0.1:{broker_port}"
        serve = ["serve", "--db", str(db), "--listen", f"127.0.0.1:{self._api_port}", "--broker", url]
        self._add(Victim.BROKER, [self._mosquitto, "-c", str(conf)])
        self._add(Victim.CENTRE, [*self._product("central"), *serve])
        for cabinet, victim in AGENTS.items():
            file = self._folder / f"{cabinet}.toml"
            text = files.settings(cabinet, self._folder, ports, self._proxies[cabinet].port)
            file.write_text(text, encoding="utf-8")
            self._add(victim, [*self._product("edge"), "run", "--config", str(file)])

    def _product(self, which: str) -> list[str]:
        if self._broken:
            return [sys.executable, "-m", "tests.chaos.broken", self._broken, which]
        return [str(BIN / f"luciole-{which}")]

    def _add(self, victim: Victim, command: list[str]) -> None:
        self._processes[victim] = Process(victim.value, command, self._folder / f"{victim.value}.log")

    # --- chaos ---

    async def _wreak(self) -> None:
        """Do what the plan says, and look after what ends by itself."""
        async with asyncio.TaskGroup() as group:
            for victim in Victim:
                group.create_task(self._kill_all([one for one in self._plan.kills if one.victim is victim]))
            group.create_task(self._cut_all())
            group.create_task(self._at(self._seconds))
        await self._until(
            "both agents read again", self._all_read, START_S, look_s=0.5
        )  # their downtime ends

    async def _kill_all(self, kills: list[Kill]) -> None:
        for kill in kills:
            await self._at(kill.at_s)
            process = self._processes[kill.victim]
            process.kill()
            self._say(f"kill -9 {kill.victim.value:8} down for {kill.down_s:.1f} s")
            await self._at(kill.back_s)
            process.start()

    async def _cut_all(self) -> None:
        for cut in self._plan.cuts:
            await self._at(cut.at_s)
            self._say(f"backhaul of {' and '.join(cut.cabinets)}: {_describe(cut)}, for {cut.for_s:.1f} s")
            for cabinet in cut.cabinets:
                await self._proxies[cabinet].begin(
                    cut.fault, delay_s=cut.delay_s, after_bytes=cut.after_bytes
                )
            await self._at(cut.at_s + cut.for_s)
            for cabinet in cut.cabinets:
                await self._proxies[cabinet].end()
            self._cuts += 1
            self._say(f"backhaul of {' and '.join(cut.cabinets)}: whole again")

    async def _at(self, when_s: float) -> None:
        """Wait for a moment of the plan."""
        await asyncio.sleep(max(0.0, self._began_s + when_s - time.monotonic()))

    def _all_read(self) -> bool:
        """Tell whether each agent has read something since its last start."""
        last = {files.OWNERS[one.device].cabinet: one.at_ms for one in read_journal(self._journal)}
        return all(
            last.get(cabinet, 0) > max((kill.back_ms for kill in self._processes[victim].kills), default=0)
            for cabinet, victim in AGENTS.items()
        )

    # --- the end ---

    async def _drain(self) -> float:
        """Let every device fall silent, and wait until both outboxes are empty; return the seconds that it took."""
        for device in files.OWNERS:
            silence = {"do": "fault", "target": device, "name": "silent"}
            await asyncio.to_thread(ask_street, self._folder / files.CONTROL, silence)
        self._say("every register falls silent; the outboxes drain")
        began_s = time.monotonic()
        try:
            await self._until("both outboxes are empty", self._outboxes_empty, DRAIN_S)
        except TimeoutError as late:
            self.problems.append(str(late))
        return time.monotonic() - began_s

    def _outboxes_empty(self) -> bool:
        return all(self._outbox_empty(cabinet) for cabinet in CABINETS)

    def _outbox_empty(self, cabinet: str) -> bool:
        try:
            outbox = ask(self._folder / cabinet / "agent.sock", Status(), StatusAnswer).outbox
        except (NoAgentError, OSError):
            return False
        return outbox.batches == 0 and outbox.unsealed == 0

    def _counters(self) -> dict[Register, int]:
        """Return each register's own count."""
        counted = ask_street(self._folder / files.CONTROL, {"do": "counters"})["modbus"]
        return {
            Register(device, f"r{int(address):02d}"): count
            for device in files.OWNERS
            for address, count in counted[device]["holding_registers"].items()
        }

    def _read_centre(self) -> tuple[centre.Seen, centre.Held]:
        seen = centre.ask_api(f"http://127.0.0.1:{self._api_port}", files.REGISTERS)
        return seen, centre.look_into(self._folder / "central.db")

    # --- the verdict ---

    def _report(
        self,
        journal: list[Given],
        counters: dict[Register, int],
        found: tuple[centre.Seen, centre.Held],
        drain_s: float,
    ) -> Report:
        seen, held = found
        given = _moments(journal)
        if {register: len(moments) for register, moments in given.items()} != counters:
            self.problems.append("the registers' counts and their journal differ")
        streams = {device: owner.stream for device, owner in files.OWNERS.items()}
        self.problems += centre.disagreements(seen, held, streams)
        kills = {cabinet: self._processes[victim].kills for cabinet, victim in AGENTS.items()}
        seal_ms = round(files.SEAL_S * 1000)
        verdict = judge(Evidence(given, held.counts, files.OWNERS, kills, held.gaps, seal_ms))
        shown = sum(descents(counts) for counts in seen.counts.values())
        read_per_s = self._read_per_s(given)
        self._find_fault(verdict, shown)
        say(
            f"answers were on their way for up to {verdict.answer_max_ms} ms when a gap began; allowed: {ANSWER_MS}"
        )
        done = sum(len(process.kills) for process in self._processes.values())
        if (done, self._cuts) != (len(self._plan.kills), len(self._plan.cuts)):
            self.problems.append(f"only {done} kills and {self._cuts} cuts came about")
        return Report(
            seed=self._seed,
            broker=_version(self._mosquitto),
            asked_per_s=files.ASKED_PER_S,
            read_per_s=round(read_per_s, 1),
            kills=done,
            cuts=self._cuts,
            taken=verdict.taken,
            committed=verdict.committed,
            lost=len(verdict.lost),
            duplicated=verdict.duplicated,
            out_of_order=max(verdict.out_of_order, shown),
            unsealed_at_kill=len(verdict.unsealed),
            crash_gap_max_s=round(verdict.crash_gap_max_ms / 1000, 3),
            drain_s=round(drain_s, 2),
            ok=not self.problems and self._fast_enough(read_per_s),
        )

    def _find_fault(self, verdict: Verdict, shown: int) -> None:
        """Say whatever is not as promised."""
        self.problems += [
            f"lost: {one.register.device} {one.register.point} count {one.count}, given at {one.given_ms}"
            for one in verdict.lost[:SHOWN]
        ]
        self.problems += [f"no kill explains {gap}" for gap in verdict.unexplained[:SHOWN]]
        wrong = {
            "counts are lost": len(verdict.lost),
            "counts are duplicated": verdict.duplicated,
            "counts are out of order in the database": verdict.out_of_order,
            "counts are out of order in the API": shown,
            "values were never given by any register": verdict.invented,
            "crash gaps are longer than a sealing interval, or belong to no kill": len(verdict.unexplained),
        }
        self.problems += [f"{count} {what}" for what, count in wrong.items() if count]
        if verdict.crash_gap_max_ms > files.SEAL_S * 1000 + MARGIN_MS:
            self.problems.append("a crash gap is longer than a sealing interval and its margin")
        self.problems += [
            f"{process.name} ended by itself {process.died_by_itself} times; see its log"
            for process in self._processes.values()
            if process.died_by_itself
        ]

    def _fast_enough(self, read_per_s: float) -> bool:
        if enough := read_per_s >= READ_SHARE * files.ASKED_PER_S:
            return enough
        say(
            f"only {read_per_s:.0f} of {files.ASKED_PER_S:.0f} readings a second: too little to show anything"
        )
        return False

    def _read_per_s(self, given: Mapping[Register, list[int]]) -> float:
        """Return what was read, by the time in which agents were up: from the first answer to a kill."""
        total = 0.0
        for cabinet, victim in AGENTS.items():
            moments = sorted(
                at_ms
                for register, each in given.items()
                if files.OWNERS[register.device].cabinet == cabinet
                for at_ms in each
            )
            if not moments:
                continue
            up_ms, begins_ms = 0, moments[0]
            for kill in self._processes[victim].kills:
                up_ms += max(0, kill.at_ms - begins_ms)
                begins_ms = next((at_ms for at_ms in moments if at_ms >= kill.back_ms), moments[-1])
            up_ms += moments[-1] - begins_ms
            total += len(moments) / max(up_ms, 1) * 1000
        return total

    def _look_at_clock(self) -> None:
        """See that nobody has stepped the machine's clock: kills and gaps are compared by it."""
        stepped_ms = utc_ms() - time.monotonic_ns() // 1_000_000 - self._clock_ms
        if abs(stepped_ms) > CLOCK_SLACK_MS:
            self.problems.append(f"the machine's clock was stepped by {stepped_ms} ms; run it again")

    # --- waiting ---

    async def _until(
        self, what: str, is_so: Callable[[], bool], timeout_s: float, look_s: float = LOOK_S
    ) -> None:
        """Wait until something is so, looking after the processes meanwhile.

        Raises:
            TimeoutError: naming what never came to be.
        """
        end_s = time.monotonic() + timeout_s
        while not await asyncio.to_thread(is_so):
            for process in self._processes.values():
                if not process.look():
                    self._say(f"{process.name} has ended by itself and is started again")
            if time.monotonic() > end_s:
                raise TimeoutError(f"within {timeout_s:.0f} s it did not come to be that {what}")
            await asyncio.sleep(look_s)

    def _say(self, what: str) -> None:
        say(f"{time.monotonic() - self._began_s:7.1f} s  {what}")


def _moments(journal: list[Given]) -> dict[Register, list[int]]:
    """Return for each register the moment of each of its counts.

    Raises:
        ValueError: if a register skips a count or gives one twice.
    """
    found: dict[Register, list[int]] = defaultdict(list)
    for one in journal:
        for address, count in enumerate(one.counts, start=one.first):
            moments = found[Register(one.device, f"r{address:02d}")]
            moments.append(one.at_ms)
            if len(moments) != count:
                raise ValueError(f"{one.device} register {address} gave {count} after {len(moments) - 1}")
    return dict(found)


def _describe(cut: Cut) -> str:
    match cut.fault:
        case cut.fault.DELAY:
            return f"{cut.fault.value} of {cut.delay_s:.1f} s"
        case cut.fault.CUT:
            return f"{cut.fault.value} after {cut.after_bytes} bytes"
        case _:
            return cut.fault.value


def _version(mosquitto: str) -> str:
    said = subprocess.run([mosquitto, "-h"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"mosquitto version (\S+)", said)
    return f"mosquitto {version[1] if version else 'unknown'}"


async def chaos(seed: int, seconds: float, broken: str = "") -> tuple[Report, list[str]]:
    """Run it in a folder of its own, which stays and is named if anything is not as promised.

    Returns:
        The report, and whatever was not as promised; that the machine was too slow is not among it.
    """
    folder = Path(tempfile.mkdtemp(prefix="luciole-chaos-"))
    one = Chaos(folder, seed, seconds, broken)
    try:
        report = await one.run()
    except BaseException:
        say(f"what the processes said is in {folder}")
        raise
    for problem in one.problems:
        say(f"NOT AS PROMISED: {problem}")
    if report.ok:
        shutil.rmtree(folder)
    else:
        say(f"seed {seed} fails; logs, outboxes and the centre's database are in {folder}")
    return report, one.problems
