"""A command is sent until it is answered or over, and its state is the cabinet's word."""

import msgspec
import pytest

from central import commands, overrides
from central.api.bodies import CommandRequest, OverrideRequest
from central.clock import moment
from central.errors import RequestError
from central.views import command_view
from protocols.backhaul.codec import decode_command
from protocols.backhaul.messages import CommandEvent
from protocols.backhaul.topics import Down
from protocols.model.command import Command, CommandState
from protocols.model.device import StreamClass
from protocols.model.ids import CommandId, DeviceId
from tests.central.cabinet_double import LEVEL, START_MS, CabinetDouble, lamp, meter
from tests.central.desk import Desk

LAMP = "cab-1-lamp-0"


@pytest.fixture
def street(desk: Desk, cabinet: CabinetDouble) -> Desk:
    cabinet.inventory += (meter("cab-1-meter"),)
    desk.deliver(cabinet.hello())
    return desk


LATER = moment(START_MS + 3_600_000)


def wish(desk: Desk, value: float | None = 40, **more: object) -> str:
    end = {} if value is None else {"until": LATER}
    wanted = msgspec.convert({"device": LAMP, "point": LEVEL, "value": value} | end | more, CommandRequest)
    found, _ = desk.do(lambda tx: commands.request(tx, wanted))
    return str(found["id"])


def sent(desk: Desk, *, connected: bool = True) -> list[Command]:
    """Send what is due; return what goes down."""
    desk.do(lambda tx: commands.send_due(tx, connected=connected))
    assert all(message.kind is Down.COMMAND for message in desk.effects.down)
    return [decode_command(message.payload).command for message in desk.effects.down]


def state(desk: Desk, command: str) -> tuple[str, bool]:
    view = desk.do(lambda tx: command_view(commands.get(tx, command)))
    return view.state.value, view.assumed


def answered(command: str, now: CommandState, reason: str = "", issuer: str = "operator") -> CommandEvent:
    return CommandEvent(CommandId(command), now, reason, START_MS, DeviceId(LAMP), LEVEL, 40, issuer)


def tell(desk: Desk, cabinet: CabinetDouble, event: CommandEvent) -> None:
    desk.deliver(cabinet.message(cabinet.seal_event(event), StreamClass.EVENTS))


def test_a_new_command_goes_out_at_once_and_is_sent(street: Desk) -> None:
    command = wish(street)
    assert street.effects.due
    (down,) = sent(street)
    assert (down.id, down.device, down.value, down.expires_ms) == (command, LAMP, 40, START_MS + 60_000)
    assert state(street, command) == ("sent", False)


def test_it_is_sent_again_ever_later_until_it_is_over(street: Desk) -> None:
    wish(street, expires_in_s=600)
    times = []
    for second in range(600):
        if sent(street):
            times.append(second)
        street.clock.pass_s(1)
    assert times == [0, 2, 6, 14, 30, 62, 122, 182, 242, 302, 362, 422, 482, 542]


def test_it_is_not_sent_again_once_the_cabinet_has_answered(street: Desk, cabinet: CabinetDouble) -> None:
    command = wish(street)
    sent(street)
    tell(street, cabinet, answered(command, CommandState.EXECUTING))
    street.clock.pass_s(30)
    assert sent(street) == []
    tell(street, cabinet, answered(command, CommandState.VERIFIED))
    assert state(street, command) == ("verified", False)


def test_a_receipt_that_changes_no_state_is_an_answer_too(street: Desk, cabinet: CabinetDouble) -> None:
    command = wish(street)
    sent(street)
    tell(street, cabinet, answered(command, CommandState.QUEUED))
    street.clock.pass_s(30)
    assert sent(street) == []
    assert state(street, command) == ("sent", False)


def test_a_state_never_goes_back(street: Desk, cabinet: CabinetDouble) -> None:
    command = wish(street)
    sent(street)
    tell(street, cabinet, answered(command, CommandState.FAILED, "no answer"))
    tell(street, cabinet, answered(command, CommandState.EXECUTING))
    assert state(street, command) == ("failed", False)


def test_without_a_broker_it_waits_and_is_expired_when_it_never_left(street: Desk) -> None:
    command = wish(street)
    assert sent(street, connected=False) == []
    assert state(street, command) == ("queued", False)
    street.clock.pass_s(61)
    sent(street, connected=False)
    assert state(street, command) == ("expired", True)


def test_to_a_cabinet_that_is_away_nothing_is_sent_before_it_says_hello(
    street: Desk, cabinet: CabinetDouble
) -> None:
    street.deliver(cabinet.presence(online=False))
    wish(street)
    assert sent(street) == []
    street.deliver(cabinet.hello())
    assert len(sent(street)) == 1


def test_a_hello_makes_open_commands_due_at_once(street: Desk, cabinet: CabinetDouble) -> None:
    wish(street)
    sent(street)
    street.deliver(cabinet.hello())
    assert len(sent(street)) == 1


def test_sent_and_never_answered_is_unknown_only_after_the_grace(street: Desk) -> None:
    command = wish(street)
    sent(street)
    street.clock.pass_s(80)
    assert sent(street) == []
    assert state(street, command) == ("sent", False)
    street.clock.pass_s(20)
    sent(street)
    assert state(street, command) == ("outcome_unknown", True)


def test_the_cabinets_late_word_replaces_the_centres_assumption(street: Desk, cabinet: CabinetDouble) -> None:
    command = wish(street)
    sent(street)
    for _ in range(2):
        street.clock.pass_s(91)
        sent(street)
    assert state(street, command) == ("outcome_unknown", True)
    tell(street, cabinet, answered(command, CommandState.VERIFIED))
    assert state(street, command) == ("verified", False)


def test_a_newer_wish_for_the_same_point_stops_the_older_one(street: Desk) -> None:
    older = wish(street, 10)
    sent(street)
    newer = wish(street, 90)
    assert [command.id for command in sent(street)] == [newer]
    street.clock.pass_s(30)
    assert [command.id for command in sent(street)] == [newer]
    assert state(street, older) == ("outcome_unknown", True)


def test_the_same_id_with_the_same_body_is_one_command(street: Desk) -> None:
    assert wish(street, id="mine") == wish(street, id="mine") == "mine"
    assert len(sent(street)) == 1


def test_the_same_id_with_another_body_is_refused(street: Desk) -> None:
    wish(street, id="mine")
    with pytest.raises(RequestError) as refused:
        wish(street, 41, id="mine")
    assert refused.value.status == 409


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"device": "nobody"}, "device"),
        ({"point": "no_such_point"}, "point"),
        ({"point": "lamp_failure"}, "point"),
        ({"device": "cab-1-meter", "point": "active_power"}, "point"),
        ({"value": 101}, "value"),
        ({"value": -1}, "value"),
        ({"until": None}, "until"),
        ({"expires_at": moment(START_MS)}, "expires_at"),
        ({"expires_at": moment(START_MS + 5_000), "expires_in_s": 5}, "expires_at"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(
    street: Desk, wrong: dict[str, object], where: str
) -> None:
    with pytest.raises(RequestError) as refused:
        wish(street, **wrong)  # type: ignore[arg-type]  # wrong on purpose
    assert (refused.value.status, [fault.where for fault in refused.value.faults]) == (422, [where])
    assert street.ask("SELECT count(*) FROM command") == [(0,)]


def test_a_technicians_command_is_kept_for_the_audit(street: Desk, cabinet: CabinetDouble) -> None:
    for now in (CommandState.EXECUTING, CommandState.VERIFIED):
        tell(street, cabinet, answered("t-1", now, issuer="technician:root"))
    assert street.ask("SELECT ours, state, issuer FROM command") == [(0, "verified", "technician:root")]


def test_another_cabinet_cannot_answer(street: Desk) -> None:
    command = wish(street)
    sent(street)
    other = CabinetDouble("cab-2")
    tell(street, other, answered(command, CommandState.VERIFIED))
    assert state(street, command) == ("sent", False)
    assert street.ingest.counts.refused() == {"foreign_command": 1}
    assert street.mark(other, StreamClass.EVENTS) == 1


class TestOverrides:
    """One override is one command for each lamp."""

    def _wish(self, desk: Desk, **wanted: object) -> str:
        body = msgspec.convert({"level": 80, "duration_s": 3_600} | wanted, OverrideRequest)
        return desk.do(lambda tx: overrides.request(tx, body)).id

    @pytest.mark.parametrize(
        ("which", "lamps"),
        [
            ({"cabinet": "cab-1"}, 3),
            ({"group": "street"}, 5),
            ({"group": "street", "cabinet": "cab-2"}, 2),
            ({"devices": [LAMP, "cab-2-lamp-1", LAMP]}, 2),
        ],
    )
    def test_lamps_are_named_by_id_or_by_group_and_cabinet(
        self, street: Desk, which: dict[str, object], lamps: int
    ) -> None:
        street.deliver(CabinetDouble("cab-2", lamps=2).hello())
        override = self._wish(street, **which)
        down = sent(street)
        assert len(down) == lamps
        assert {(c.value, c.until_ms, c.point) for c in down} == {(80, START_MS + 3_600_000, LEVEL)}
        assert street.do(lambda tx: overrides.view(tx, override)).states == {"sent": lamps}

    @pytest.mark.parametrize(
        "wrong",
        [
            {},
            {"devices": [LAMP], "cabinet": "cab-1"},
            {"devices": [LAMP, "cab-1-meter"]},
            {"group": "no-such"},
            {"cabinet": "cab-1", "until": moment(START_MS + 1)},
            {"cabinet": "cab-1", "until": moment(START_MS - 1), "duration_s": None},
            {"cabinet": "cab-1", "until": moment(START_MS + 367 * 86_400_000), "duration_s": None},
            {"cabinet": "cab-1", "duration_s": None},
        ],
    )
    def test_an_override_that_means_nothing_is_refused_whole(
        self, street: Desk, wrong: dict[str, object]
    ) -> None:
        with pytest.raises(RequestError) as refused:
            self._wish(street, **wrong)
        assert refused.value.status == 422
        assert street.ask("SELECT count(*) FROM override") == [(0,)]

    def test_releasing_it_gives_each_lamp_back_to_its_program(
        self, street: Desk, cabinet: CabinetDouble
    ) -> None:
        override = self._wish(street, cabinet="cab-1")
        for command in sent(street):
            event = CommandEvent(
                command.id, CommandState.VERIFIED, "", START_MS, command.device, LEVEL, 80, "operator"
            )
            tell(street, cabinet, event)
        street.clock.pass_s(10)
        street.do(lambda tx: overrides.release(tx, override, "anna"))
        assert [(c.value, c.issuer, c.until_ms) for c in sent(street)] == [(None, "anna", None)] * 3
        view = street.do(lambda tx: overrides.view(tx, override))
        assert (view.lamps, view.states, view.released) == (3, {"verified": 3}, moment(START_MS + 10_000))

    def test_releasing_it_twice_is_releasing_it_once(self, street: Desk) -> None:
        override = self._wish(street, cabinet="cab-1")
        for _ in range(2):
            street.clock.pass_s(1)
            street.do(lambda tx: overrides.release(tx, override, "anna"))
        assert street.ask("SELECT count(*) FROM command WHERE release = 1") == [(3,)]

    def test_releasing_it_leaves_alone_what_a_newer_wish_has_taken_over(self, street: Desk) -> None:
        override = self._wish(street, cabinet="cab-1")
        street.clock.pass_s(1)
        wish(street, 5)
        street.clock.pass_s(1)
        street.do(lambda tx: overrides.release(tx, override, "anna"))
        assert street.ask("SELECT count(*) FROM command WHERE release = 1") == [(2,)]

    def test_releasing_what_never_was_is_not_found(self, street: Desk) -> None:
        with pytest.raises(RequestError) as refused:
            street.do(lambda tx: overrides.release(tx, "o-none", "anna"))
        assert refused.value.status == 404

    def test_a_lamp_without_a_level_is_none(self, street: Desk, cabinet: CabinetDouble) -> None:
        bare = msgspec.structs.replace(lamp("cab-1-bare"), points=())
        cabinet.inventory += (bare,)
        street.deliver(cabinet.hello())
        self._wish(street, cabinet="cab-1")
        assert len(sent(street)) == 3
