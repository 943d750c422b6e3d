"""Dialogues, held with the bench's gear and with gear that says nothing or the wrong thing."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from protocols.dali import dialogue
from protocols.dali.dialogue import Answer, Dialogue, GearStatus, Missing, ReadBack, Transmit
from protocols.errors import LocalProtocolError
from sim.banks import Identity
from sim.faults import FaultSettings, LampFault
from sim.gear import ControlGear, GearDesign
from sim.gear_dialogue import GearDialogue

T = TypeVar("T")
FRAME_S = 0.05


class BenchGear:
    """A simulated gear, spoken to frame by frame; time passes as on a line.

    Attributes:
        heard: every frame that was transmitted, twice where it was sent twice.
    """

    def __init__(self, level: int = 254) -> None:
        self.now_s = 0.0
        identity = Identity(0, 0)
        self.gear = ControlGear(
            3, design=GearDesign(), identity=identity, level=level, civil_s=float, at_s=0.0
        )
        self.ears = GearDialogue(self.gear)
        self.heard: list[str] = []

    def __call__(self, transmit: Transmit) -> Answer:
        answer = None
        for _ in range(2 if transmit.twice else 1):
            self.now_s += FRAME_S
            self.heard.append(transmit.frame.hex().upper())
            answer = self.ears.hear(int.from_bytes(transmit.frame, "big"), self.now_s)
        return Missing.SILENCE if answer is None or not transmit.answered else answer.value


def hold(talk: Dialogue[T], gear: Callable[[Transmit], Answer]) -> T:
    transmit = next(talk)
    while True:
        try:
            transmit = talk.send(gear(transmit))
        except StopIteration as end:
            result: T = end.value
            return result


def saying(*answers: Answer) -> Callable[[Transmit], Answer]:
    """Gear that answers queries with these, in turn."""
    waiting = list(answers)
    return lambda transmit: waiting.pop(0) if transmit.answered else Missing.SILENCE


@pytest.mark.parametrize(
    ("talk", "frame", "twice", "answered"),
    [
        (dialogue.read_level(3), "07A0", False, True),
        (dialogue.read_status(63), "7F90", False, True),
        (dialogue.set_level(3, 200, 0, 0), "06C8", False, False),
    ],
)
def test_frames_are_those_of_the_standard(
    talk: Dialogue[object], frame: str, twice: bool, answered: bool
) -> None:
    transmit = next(talk)
    assert (transmit.frame.hex().upper(), transmit.twice, transmit.answered) == (frame, twice, answered)


def test_level_and_status_are_the_gears() -> None:
    gear = BenchGear(level=170)
    assert hold(dialogue.read_level(3), gear) == 170
    assert hold(dialogue.read_status(3), gear) == GearStatus.LAMP_ON | GearStatus.RESET_STATE
    gear.gear.set_fault(LampFault.LAMP_FAILURE, FaultSettings(), gear.now_s)
    status = hold(dialogue.read_status(3), gear)
    assert isinstance(status, GearStatus)
    assert GearStatus.LAMP_FAILURE in status


@pytest.mark.parametrize("missing", list(Missing))
def test_a_missing_answer_is_passed_on(missing: Missing) -> None:
    assert hold(dialogue.read_level(3), saying(missing)) is missing
    assert hold(dialogue.read_status(3), saying(missing)) is missing


def test_fade_time_is_written_once_and_the_gear_fades() -> None:
    gear = BenchGear(level=254)
    assert hold(dialogue.set_level(3, 85, 4, None), gear) == 4
    assert gear.heard == ["07A5", "A304", "072E", "072E", "07A5", "06" + "55"]
    gear.now_s += 1.0
    assert 85 < gear.gear.level(gear.now_s) < 254
    gear.now_s += 1.5
    assert gear.gear.level(gear.now_s) == 85
    gear.heard.clear()
    assert hold(dialogue.set_level(3, 254, 4, 4), gear) == 4
    assert gear.heard == ["06FE"]


def test_a_fade_time_that_the_gear_has_is_not_written_again() -> None:
    gear = BenchGear()
    assert hold(dialogue.set_level(3, 85, 0, None), gear) == 0
    assert gear.heard == ["07A5", "0655"]


def test_level_is_sent_even_if_the_gear_is_silent() -> None:
    frames: list[bytes] = []

    def silent(transmit: Transmit) -> Answer:
        frames.append(transmit.frame)
        return Missing.SILENCE

    assert hold(dialogue.set_level(3, 0, 7, 4), silent) is None
    assert frames == [bytes.fromhex("07A5"), bytes.fromhex("0600")]


def test_a_fade_time_that_did_not_take_is_not_remembered() -> None:
    assert hold(dialogue.set_level(3, 85, 4, None), saying(0x07, 0x07)) is None


def test_frames_after_dtr0_let_nobody_in_between() -> None:
    talk = dialogue.set_level(3, 85, 4, None, priority=dialogue.USER)
    seen = [next(talk)]
    seen += [talk.send(answer) for answer in (0x07, Missing.SILENCE, Missing.SILENCE, 0x47)]
    assert [t.priority for t in seen] == [2, 2, 1, 1, 2]
    assert [t.twice for t in seen] == [False, False, True, False, False]


def test_read_back_at_the_level_asks_nothing_more() -> None:
    gear = BenchGear(level=85)
    assert hold(dialogue.read_back(3, 85), gear) == ReadBack(85)
    assert gear.heard == ["07A0"]


def test_read_back_elsewhere_tells_the_status() -> None:
    gear = BenchGear(level=254)
    hold(dialogue.set_level(3, 1, 0, 0), gear)
    back = hold(dialogue.read_back(3, 1), gear)
    assert back.level == 85
    assert back.status is not None
    assert GearStatus.LIMIT_ERROR in back.status


@pytest.mark.parametrize(
    ("answers", "back"),
    [
        ((Missing.SILENCE, 85), ReadBack(85)),
        ((Missing.SILENCE, Missing.COLLISION), ReadBack(Missing.COLLISION)),
        ((200, Missing.SILENCE), ReadBack(200)),
        ((200, 0x04), ReadBack(200, GearStatus.LAMP_ON)),
    ],
)
def test_read_back_forgives_one_lost_frame(answers: tuple[Answer, ...], back: ReadBack) -> None:
    assert hold(dialogue.read_back(3, 85), saying(*answers)) == back


@pytest.mark.parametrize(
    "talk",
    [
        dialogue.read_level(64),
        dialogue.read_status(-1),
        dialogue.set_level(3, 255, 0, 0),
        dialogue.set_level(3, 0, 16, 0),
    ],
)
def test_what_dali_cannot_say_is_our_fault(talk: Dialogue[object]) -> None:
    with pytest.raises(LocalProtocolError):
        next(talk)
