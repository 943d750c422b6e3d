"""What can become of a request and of a passage stands in tables; whatever does not stand there is an error."""

import pytest

from protocols.backhaul.messages import Source
from protocols.errors import LocalProtocolError
from protocols.model.priority import ENDED, NEXT, RequestState, VehicleType
from protocols.rules.priority.passage import STEPS, Passage, Stage, Step
from protocols.rules.priority.request import GRANTED, REACHABLE, REFUSED, TABLE, Phase, Word, after
from tests.protocols.rules.priority.junction_bench import RULE


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("word", Word)
def test_a_request_goes_where_its_table_says_and_nowhere_else(phase: Phase, word: Word) -> None:
    if word in TABLE[phase]:
        assert after(phase, word) is TABLE[phase][word]
    else:
        with pytest.raises(LocalProtocolError, match=f"that is {phase.value} cannot be {word.value}"):
            after(phase, word)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("step", Step)
def test_a_passage_goes_where_its_table_says_and_nowhere_else(stage: Stage, step: Step) -> None:
    passage = Passage("v-1", Source.POSITION, VehicleType.BUS, RULE, "r-1", stage)
    if step in STEPS[stage]:
        passage.go(step)
        assert passage.stage is STEPS[stage][step]
    else:
        with pytest.raises(LocalProtocolError, match=f"that is {stage.value} cannot be {step.value}"):
            passage.go(step)


def test_every_way_of_a_request_leads_to_its_end() -> None:
    for phase in set(Phase) - {Phase.ENDED}:
        reached = {phase}
        for _ in Phase:
            reached |= {following for one in reached for following in TABLE[one].values()}
        assert Phase.ENDED in reached
    assert TABLE[Phase.ENDED] == {}


def test_what_may_be_told_after_what_is_all_that_the_controller_s_own_table_leads_to() -> None:
    for state in RequestState:
        found = set(NEXT[state])
        for _ in RequestState:
            found |= {further for one in found for further in NEXT[one]}
        assert REACHABLE[state] == found


def test_an_end_is_a_grant_or_a_refusal() -> None:
    assert GRANTED - {RequestState.ACTIVATED} | REFUSED == ENDED
    assert not GRANTED & REFUSED
