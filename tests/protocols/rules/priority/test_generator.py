"""One bus and one junction: who is asked for, when, how long, and how it is taken back."""

from protocols.model.priority import RequestState
from tests.protocols.rules.priority.junction_bench import Junction

S = RequestState


def test_a_bus_gets_its_green_and_gives_it_back() -> None:
    one = Junction()
    one.bus(50)
    assert one.asks == []
    one.after(5)
    one.bus(100)
    (ask,) = one.asks
    assert (ask.request.signal_group, ask.request.level, ask.request.eta_s) == ("1", 7, 20)
    one.taken()
    one.tell(S.RECEIVED, S.ACTIVATED)
    one.green(True)
    one.drive(110, 310)
    assert one.cancels == []
    one.bus(325)
    assert [cancel.request for cancel in one.cancels] == [one.last]
    one.tell(S.COMPLETED, extension_s=0, reduction_s=12)
    assert one.generator.book.requests == {}
    last = one.reports[-1]
    assert last.ended
    assert (last.event.state, last.event.reduction_s, last.event.reason) == (S.COMPLETED, 12, "it has passed")
    assert [event.state for event in one.events] == [None, S.RECEIVED, S.ACTIVATED, S.ACTIVATED, S.COMPLETED]
