"""What the command line shows, on a terminal of 100 columns and in a pipe."""

import json
import tomllib
from collections.abc import Iterator

import msgspec
import pytest

from drivers.base import Admission, Found, LineHealth, LineState
from edge import show, show_priority
from edge.answers import DeviceAnswer, JoinAnswer, LatestValue, PriorityAnswer, StatusAnswer
from edge.searching import Searched
from protocols.backhaul.messages import ClockEvent, PriorityEvent, Source
from protocols.clock import ClockQuality, Instant
from protocols.model.device import Device, Kind
from protocols.model.ids import DeviceId, LineId, PointName
from protocols.model.priority import RequestState
from protocols.model.reading import Quality, Reason, Value
from protocols.rules.priority.counts import Counts
from tests.edge.whole import Whole

MOVE = (
    "mv /var/lib/luciole/opcua/rejected/7394858a6317a28785b28290a3f015ce.der /var/lib/luciole/opcua/trusted/"
)
HOLDOVER = ClockQuality.HOLDOVER
ESCAPE = "\x1b[2J"
PUMPS = DeviceId("quai-nicolas-rolin-pumps")


@pytest.fixture
def terminal() -> Iterator[None]:
    """Show as on a terminal of 100 columns."""
    before, show.out.width = show.out.width, 100
    yield
    show.out.width = before


def latest(point: str, value: Value, unit: str = "", reason: Reason | None = None) -> LatestValue:
    quality = Quality.GOOD if reason is None else Quality.BAD
    return LatestValue(PointName(point), value, unit, quality, reason, 1.0)


def device(*values: LatestValue) -> DeviceAnswer:
    return DeviceAnswer(Device(PUMPS, Kind.PUMPING_STATION, LineId("plc-1"), "pumps-1"), values, None, "")


def event(**parts: object) -> PriorityEvent:
    one = PriorityEvent(
        request="lu-713b2ad0-792b2a-1",
        junction=DeviceId("foch-junction"),
        rule="line-l3",
        approach="from-west",
        signal_group="LU+DJ0001=001SG004",
        vehicle="",
        source=Source.TECHNICIAN,
        level=7,
        state=RequestState.COMPLETED,
        reason="it has passed",
        at_ms=1_795_521_600_000,
        extension_s=6,
    )
    return msgspec.structs.replace(one, **parts)


@pytest.mark.usefixtures("terminal")
class TestOnATerminal:
    def test_a_command_that_a_reason_names_is_printed_whole(
        self, running: Whole, capsys: pytest.CaptureFixture[str]
    ) -> None:
        reason = f"the server's certificate is not trusted. If it is the right one: {MOVE}"
        line = LineHealth(LineId("plc-1"), LineState.DOWN, reason, 0)
        show.status(msgspec.structs.replace(running.status(), lines=(line,)), as_json=False)
        assert MOVE in capsys.readouterr().out

    def test_nothing_is_cut_out_of_a_table(self, capsys: pytest.CaptureFixture[str]) -> None:
        points = [f"cumulative_active_energy_of_pump_{n}" for n in range(9)]
        show.devices([device(*(latest(point, 1.5, "kW.h") for point in points))], as_json=False)
        shown = capsys.readouterr().out
        assert "…" not in shown
        assert all(len(line) <= 100 for line in shown.splitlines())

    def test_requests_can_be_told_apart(self, capsys: pytest.CaptureFixture[str]) -> None:
        answer = PriorityAnswer(
            running=True,
            lapsed=False,
            lease_until_ms=1_795_521_600_000,
            approaches=(),
            requests=(),
            last=(event(), event(request="lu-713b2ad0-792b2a-2", state=None)),
            counts=Counts(),
            failing={},
            local=None,
        )
        show_priority.everything(answer, as_json=False)
        shown = capsys.readouterr().out
        assert ("lu-713b2ad0-792b2a-1" in shown, "lu-713b2ad0-792b2a-2" in shown) == (True, True)
        assert "6 s more green" in " ".join(shown.split())


class TestNamed:
    FORGED = LineHealth(
        LineId("air-1"), LineState.UP, "", 0, failures=15, named={"wrong_mic": 12, "replay": 3}
    )

    def test_what_went_wrong_on_a_line_is_shown_by_name(
        self, running: Whole, capsys: pytest.CaptureFixture[str]
    ) -> None:
        quiet = LineHealth(LineId("dali-1"), LineState.UP, "", 0)
        answer = msgspec.structs.replace(running.status(), lines=(self.FORGED, quiet))
        show.status(answer, as_json=False)
        shown = capsys.readouterr().out
        assert "air-1: counted since the start: wrong_mic 12, replay 3" in shown
        assert "dali-1: " not in shown
        show.status(answer, as_json=True)
        lines = json.loads(capsys.readouterr().out)["lines"]
        assert [line["named"] for line in lines] == [{"wrong_mic": 12, "replay": 3}, {}]

    def test_an_agent_that_does_not_name_them_yet_is_understood(self, running: Whole) -> None:
        said = json.loads(msgspec.json.encode(running.status()))
        del said["local"]
        for line in said["lines"]:
            del line["named"]
        assert msgspec.convert(said, StatusAnswer).lines[0].named == {}


class TestBackhaul:
    @pytest.mark.parametrize(
        ("connected", "welcomed", "expected"),
        [
            (True, True, "connected since"),
            (True, False, "connected, and the centre has not answered yet, since"),
            (False, False, "gone: refused since"),
        ],
    )
    def test_a_broker_without_a_centre_behind_it_is_told_apart(
        self,
        running: Whole,
        capsys: pytest.CaptureFixture[str],
        connected: bool,
        welcomed: bool,
        expected: str,
    ) -> None:
        answer = running.status()
        way = msgspec.structs.replace(
            answer.backhaul, connected=connected, welcomed=welcomed, reason="" if connected else "refused"
        )
        show.status(msgspec.structs.replace(answer, backhaul=way), as_json=False)
        assert f"backhaul  {expected}" in capsys.readouterr().out

    def test_an_agent_that_does_not_count_snapshots_yet_is_understood(self, running: Whole) -> None:
        said = json.loads(msgspec.json.encode(running.status()))
        del said["backhaul"]["snapshots"], said["backhaul"]["snapshots_dropped"]
        assert msgspec.convert(said, StatusAnswer).backhaul.snapshots == 0


class TestValues:
    def test_what_is_wrong_with_all_values_of_a_device_is_said_once(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lost = [latest(point, None, "", Reason.LINE_DOWN) for point in ("level", "inflow", "outflow")]
        show.devices([device(*lost)], as_json=False)
        assert capsys.readouterr().out.count("line_down") == 1

    def test_what_is_counted_is_no_unit(self, capsys: pytest.CaptureFixture[str]) -> None:
        show.values(
            "junction-1", [latest("time_plan", 1, "{code}"), latest("fault_codes", "")], as_json=False
        )
        assert "{code}" not in capsys.readouterr().out

    @pytest.mark.parametrize("said", ["[/]", "[red]fine", ESCAPE, "[/x] a\nb"])
    def test_what_a_peer_says_neither_breaks_nor_colours_nor_moves_the_terminal(
        self, said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show.values("plc-1", [latest("name", said)], as_json=False)
        show.joined(JoinAnswer(PUMPS, Admission.AWAITED, said), as_json=False)
        show.found([Searched(LineId("plc-1"), (Found(said, None, said),), said)], as_json=False)
        show_priority.outcome(event(reason=said), as_json=False)
        shown = capsys.readouterr().out
        assert "\x1b" not in shown
        assert shown.count(said.replace("\x1b", "?").replace("\n", "?")) >= 5


class TestFound:
    GATEWAY = Found("0016c001f1500001", None, "a gateway", declarable=False)
    STRANGER = Found("70b3d5e75e000001", None, f"asks to{ESCAPE}join\nnow")

    def test_only_what_can_be_a_device_is_offered_as_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        searched = [Searched(LineId("air-1"), (self.GATEWAY, self.STRANGER))]
        show.found(searched, as_json=False)
        assert "1 address nobody has declared" in capsys.readouterr().out
        show.device_tables(searched)
        (table,) = tomllib.loads(capsys.readouterr().out)["device"]
        assert table["address"] == self.STRANGER.address

    def test_where_nothing_is_printed_as_settings_it_is_said_why(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        show.device_tables([Searched(LineId("air-1"), (self.GATEWAY,))])
        assert capsys.readouterr() == ("", "Everything that was found is declared.\n")
        show.device_tables([Searched(LineId("air-1"), (), "air-1 is down: nobody speaks")])
        assert capsys.readouterr() == ("", "air-1: air-1 is down: nobody speaks\n")


class TestTheClock:
    """A technician sees what the cabinet knows of the time, and when that changed."""

    NOW_MS = 1_795_521_600_000

    def shown(self, running: Whole, capsys: pytest.CaptureFixture[str], **parts: object) -> str:
        answer = msgspec.structs.replace(running.status(), **parts)
        show.status(answer, as_json=False)
        return capsys.readouterr().out

    def test_a_clock_that_was_never_set_is_said_to_be_none(
        self, running: Whole, capsys: pytest.CaptureFixture[str]
    ) -> None:
        unset = Instant(1, self.NOW_MS, ClockQuality.UNSYNCHRONISED)
        assert "was never set: this is the last known good time" in self.shown(running, capsys, now=unset)

    def test_a_step_is_shown_with_its_size(self, running: Whole, capsys: pytest.CaptureFixture[str]) -> None:
        set_now = ClockEvent(
            "b", 1_000, self.NOW_MS, self.NOW_MS + 90_000 - 1_000, HOLDOVER, ClockQuality.SYNCHRONISED, True
        )
        now = Instant(1, self.NOW_MS)
        said = self.shown(running, capsys, now=now, known_ms=self.NOW_MS, clock_steps=2, clock_moved=set_now)
        assert "moved 2 times, last by -90.0 s" in said
        assert "from holdover to synchronised" in said
        assert "behind" not in said

    def test_a_clock_behind_what_was_known_says_by_what_expiries_go(
        self, running: Whole, capsys: pytest.CaptureFixture[str]
    ) -> None:
        now = Instant(1, self.NOW_MS)
        assert "expiries go by" in self.shown(running, capsys, now=now, known_ms=self.NOW_MS + 1)
