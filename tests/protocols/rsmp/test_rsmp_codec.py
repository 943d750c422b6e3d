"""Messages and their bytes, against the standard's own examples, the published schemas, and noise."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocols.errors import LocalProtocolError
from protocols.rsmp import messages as m
from protocols.rsmp.codec import FEATURES, decode, encode
from protocols.rsmp.messages import Core, Fault, MessageError
from tests.rsmp_schemas import violations

ID = "be12ab9a-800c-4c19-8c50-adf832f22420"
AT = "2015-06-08T12:01:39.654Z"
MAIN = "O+14439=481WA001"

ids = st.uuids(version=4).map(str)
words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
stamps = st.integers(0, m.MAX_UTC_MS).map(m.stamp)
base = {"m_id": ids, "component": words, "nts_object": words, "external": words}
versions = st.lists(st.sampled_from(list(Core)), min_size=1, unique=True).map(
    lambda cores: tuple(m.RsmpVersion(core.value) for core in cores)
)
sites = st.lists(words.filter(bool), min_size=1, max_size=3, unique=True).map(
    lambda names: tuple(m.SiteId(name) for name in names)
)
STATUS = st.sampled_from([("S0001", "stage"), ("S0014", "status"), ("S0096", "hour")])
good_status = st.builds(
    lambda key, value, q: m.StatusValue(key[0], key[1], str(value), q),
    STATUS,
    st.integers(1, 12),
    st.sampled_from([m.Quality.RECENT, m.Quality.OLD]),
)
lost_status = st.builds(
    lambda key, q: m.StatusValue(key[0], key[1], None, q),
    STATUS,
    st.sampled_from([m.Quality.UNDEFINED, m.Quality.UNKNOWN]),
)
arrays = st.just(m.StatusValue("S0033", "status", [{"r": "1", "t": AT, "s": "queued"}], m.Quality.RECENT))
wanted = st.lists(STATUS.map(lambda key: m.StatusName(*key)), min_size=1, max_size=4).map(tuple)
rates = st.one_of(
    st.builds(lambda key, r: m.Subscription(key[0], key[1], str(r), False), STATUS, st.integers(1, 3600)),
    st.builds(lambda key: m.Subscription(key[0], key[1], "0", True), STATUS),
)
told = {
    "ack": st.sampled_from(m.Acknowledgement),
    "activity": st.sampled_from(m.Activity),
    "suspension": st.sampled_from(m.Suspension),
    "at": stamps,
    "category": st.just("D"),
    "priority": st.sampled_from(["1", "2", "3"]),
    "values": st.lists(st.builds(m.ReturnValue, st.just("timeplan"), st.just("3")), max_size=2).map(tuple),
}
alarm = {**base, "code": st.just("A0008"), "external_code": words, "nts_code": words}
orders = [m.AlarmEvent.SUSPEND, m.AlarmEvent.RESUME]
plans = st.just(
    tuple(
        m.CommandArgument("M0002", name, "setPlan", value)
        for name, value in {"status": "True", "securityCode": "x", "timeplan": "3"}.items()
    )
)
answers = st.one_of(
    st.just(m.CommandValue("M0002", "timeplan", "3", m.Quality.RECENT)),
    st.just(m.CommandValue("M0002", "timeplan", None, m.Quality.UNKNOWN)),
)

anywhere = st.one_of(
    st.builds(m.Version, m_id=ids, versions=versions, sites=sites, sxl=st.just("1.2.1")),
    st.builds(m.MessageAck, of=ids),
    st.builds(m.MessageNotAck, of=ids, reason=words),
    st.builds(m.Watchdog, m_id=ids, at=stamps),
    st.builds(
        m.AggregatedStatus,
        **base,
        at=stamps,
        position=st.none() | words,
        state=st.none() | words,
        elements=st.tuples(*[st.booleans()] * 8),
    ),
    st.builds(
        m.Alarm,
        **alarm,
        **told,
        event=st.sampled_from([m.AlarmEvent.ISSUE, m.AlarmEvent.SUSPEND, m.AlarmEvent.ACKNOWLEDGE]),
    ),
    st.builds(m.Alarm, **alarm, event=st.sampled_from(orders)),
    st.builds(m.Alarm, **alarm, event=st.just(m.AlarmEvent.ACKNOWLEDGE), at=stamps),
    st.builds(m.StatusRequest, **base, wanted=wanted),
    st.builds(m.StatusUnsubscribe, **base, wanted=wanted),
    st.builds(m.StatusSubscribe, **base, wanted=st.lists(rates, min_size=1, max_size=4).map(tuple)),
    st.builds(
        m.StatusUpdate, **base, at=stamps, values=st.lists(good_status, min_size=1, max_size=4).map(tuple)
    ),
    st.builds(
        m.StatusResponse, **base, at=stamps, values=st.lists(good_status, min_size=1, max_size=4).map(tuple)
    ),
    st.builds(m.CommandRequest, **base, arguments=plans),
    st.builds(
        m.CommandResponse, **base, at=stamps, values=st.lists(answers, min_size=1, max_size=4).map(tuple)
    ),
)
newest = st.one_of(
    anywhere,
    st.builds(m.AggregatedStatusRequest, **base),
    st.builds(m.Alarm, **alarm, event=st.just(m.AlarmEvent.REQUEST)),
    st.builds(
        m.StatusResponse,
        **base,
        at=stamps,
        values=st.lists(lost_status | arrays, min_size=1, max_size=4).map(tuple),
    ),
    st.builds(m.StatusSubscribe, **base, wanted=st.just((m.Subscription("S0001", "stage", "60", True),))),
)


@given(anywhere, st.sampled_from(Core))
def test_what_every_version_knows_is_read_as_it_was_written(message: m.Message, core: Core) -> None:
    packet = encode(message, core)
    assert decode(packet, core) == message
    assert violations(packet, core.value) == []


@given(newest)
def test_what_the_newest_version_knows_is_read_as_it_was_written(message: m.Message) -> None:
    packet = encode(message)
    assert decode(packet) == message
    assert violations(packet) == []


EXAMPLES: list[str] = [
    # rsmp_core, Basic structure, "JSon code" 3, 4, 5, 6, 8, 10, 11, 12 (without its trailing comma), 14, 15, 17, 19,
    # 20 and 21, 22, 23, 24, 25; shortened where an array repeats itself.
    (
        '{"mType":"rSMsg","type":"Alarm","mId":"E68A0010-C336-41ac-BD58-5C80A72C7092","ntsOId":"F+40100=416CG100",'
        '"xNId":"23055","cId":"AB+84001=860SG001","aCId":"A0001","xACId":"Serious lamp error","xNACId":"3143",'
        '"aSp":"Issue","ack":"notAcknowledged","aS":"Active","sS":"notSuspended","aTs":"2009-10-01T11:59:31.571Z",'
        '"cat":"D","pri":"2","rvs":[{"n":"color","v":"red"}]}'
    ),
    (
        '{"mType":"rSMsg","type":"Alarm","mId":"3d2a0097-f91c-4249-956b-dac702545b8f","ntsOId":"","xNId":"",'
        '"cId":"AB+84001=860VA001","aCId":"A0004","xACId":"","xNACId":"","aSp":"Request"}'
    ),
    (
        '{"mType":"rSMsg","type":"Alarm","mId":"3d2a0097-f91c-4249-956b-dac702545b8f","ntsOId":"","xNId":"",'
        '"cId":"AB+84001=860VA001","aCId":"A0004","xACId":"","xNACId":"","aSp":"Acknowledge"}'
    ),
    (
        '{"mType":"rSMsg","type":"Alarm","mId":"f6843ac0-40a0-424e-8ddf-d109f4cfe487","ntsOId":"","xNId":"",'
        '"cId":"AB+84001=860VA001","aCId":"A0004","xACId":"","xNACId":"","aSp":"Acknowledge","ack":"Acknowledged",'
        '"aS":"Active","sS":"notSuspended","aTs":"2015-05-29T08:55:04.691Z","cat":"D","pri":"3",'
        '"rvs":[{"n":"Temp","v":"-18.5"}]}'
    ),
    (
        '{"mType":"rSMsg","type":"Alarm","mId":"2ea7edfc-8e3a-4765-85e7-db844c4702a0","ntsOId":"","xNId":"",'
        '"cId":"AB+84001=860VA001","aCId":"A0004","xACId":"","xNACId":"","aSp":"Suspend","ack":"Acknowledged",'
        '"aS":"Active","sS":"Suspended","aTs":"2015-05-29T08:56:25.390Z","cat":"D","pri":"3",'
        '"rvs":[{"n":"Temp","v":"-18.5"}]}'
    ),
    (
        '{"mType":"rSMsg","type":"AggregatedStatus","mId":"be12ab9a-800c-4c19-8c50-adf832f22420",'
        '"ntsOId":"O+14439=481WA001","xNId":"","cId":"O+14439=481WA001","aSTS":"2015-06-08T08:05:06.584Z","fP":null,'
        '"fS":null,"se":[true,false,false,false,false,false,false,false]}'
    ),
    (
        '{"mType":"rSMsg","type":"AggregatedStatusRequest","mId":"be12ab9a-800c-4c19-8c50-adf832f22425",'
        '"ntsOId":"O+14439=481WA001","xNId":"","cId":"O+14439=481WA001"}'
    ),
    (
        '{"mType":"rSMsg","type":"StatusResponse","mId":"0a95e463-192a-4dd7-8b57-d2c2da636584",'
        '"ntsOId":"O+14439=481WA001","xNId":"","cId":"O+14439=481WA001","sTs":"2015-06-08T09:15:18.266Z",'
        '"sS":[{"sCI":"S0003","n":"inputstatus","s":"100101","q":"recent"}]}'
    ),
    (
        '{"mType":"rSMsg","type":"StatusSubscribe","mId":"d6d97f8b-e9db-4572-8084-70b55e312584",'
        '"ntsOId":"O+14439=481WA001","xNId":"","cId":"O+14439=481WA001","sS":[{"sCI":"S0001",'
        '"n":"signalgroupstatus","uRt":"5","sOc":false}]}'
    ),
    (
        '{"mType":"rSMsg","type":"StatusUnsubscribe","mId":"5ff528c5-f2f0-4bc4-a335-280c52b6e6d8",'
        '"ntsOId":"O+14439=481WA001","xNId":"","cId":"O+14439=481WA001","sS":[{"sCI":"S0001","n":"stage"}]}'
    ),
    (
        '{"mType":"rSMsg","type":"CommandRequest","mId":"cf76365e-9c7b-44a4-86bd-d107cdfc3fcf",'
        '"ntsOId":"O+14439=481WA001","xNId":"","cId":"O+14439=481WA001","arg":[{"cCI":"M0001","n":"status",'
        '"cO":"setValue","v":"YellowFlash"}]}'
    ),
    (
        '{"mType":"rSMsg","type":"CommandResponse","mId":"0fd63726-be19-4c09-8553-48451735cb0b",'
        '"ntsOId":"O+14439=481WA001","xNId":"","cId":"O+14439=481WA001","cTS":"2015-06-08T11:49:03.293Z",'
        '"rvs":[{"cCI":"M0001","n":"status","v":"YellowFlash","age":"recent"}]}'
    ),
    '{"mType":"rSMsg","type":"MessageAck","oMId":"49c6c824-d593-4c16-b335-f04feda16986"}',
    (
        '{"mType":"rSMsg","type":"MessageNotAck","oMId":"49c6c824-d593-4c16-b335-f04feda16986",'
        '"rea":"Unknown packet type: Watchdddog"}'
    ),
    (
        '{"mType":"rSMsg","type":"Version","mId":"6f968141-4de5-42ff-8032-45f8093762c5","RSMP":[{"vers":"3.1.1"},'
        '{"vers":"3.1.2"}],"siteId":[{"sId":"O+14439=481WA001"}],"SXL":"1.0.13"}'
    ),
    (
        '{"mType":"rSMsg","type":"Watchdog","mId":"f48900bc-e6fb-431a-8ca4-05070016f64a",'
        '"wTs":"2015-06-08T12:01:39.654Z"}'
    ),
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_standards_own_examples_are_read_and_written_with_the_same_content(text: str) -> None:
    message = decode(text.encode())
    assert json.loads(encode(message)) == json.loads(text)


def test_a_version_may_have_elements_that_came_later() -> None:
    text = EXAMPLES[-2].replace('"SXL"', '"date":{"of":[1]},"SXL"')
    assert decode(text.encode()) == decode(EXAMPLES[-2].encode())


def packet(kind: str = "Watchdog", **elements: Any) -> bytes:  # noqa: ANN401  any JSON
    message = {"mType": "rSMsg", "type": kind, "mId": ID, **elements}
    return json.dumps({key: value for key, value in message.items() if value != "absent"}).encode()


def status(**elements: Any) -> bytes:  # noqa: ANN401  any JSON
    value = {"sCI": "S0001", "n": "stage", "s": "1", "q": "recent", **elements}
    return packet("StatusUpdate", cId=MAIN, sTs=AT, sS=[value])


def an_alarm(**elements: Any) -> bytes:  # noqa: ANN401  any JSON
    return packet("Alarm", **{**json.loads(EXAMPLES[0]), "mId": ID, **elements})


WRONG: list[tuple[bytes, Fault, str]] = [
    (b"\xff\xfe", Fault.NOT_UTF8, ""),
    (b"GET / HTTP/1.1", Fault.NOT_JSON, ""),
    (b"[]", Fault.NOT_JSON, ""),
    (b"null", Fault.NOT_JSON, ""),
    (b"[" * 100_000, Fault.NOT_JSON, ""),
    (b'{"a":' * 100_000, Fault.NOT_JSON, ""),
    (b'{"mType":"rSMsg","type":"\\ud800"}', Fault.NOT_JSON, ""),
    (packet(mType="RSMsg", wTs=AT), Fault.WRONG_M_TYPE, ID),
    (packet(mType=None, wTs=AT), Fault.WRONG_M_TYPE, ID),
    (packet("Watchdddog", wTs=AT), Fault.UNKNOWN_TYPE, ID),
    (packet("watchdog", wTs=AT), Fault.UNKNOWN_TYPE, ID),
    (packet("absent", wTs=AT), Fault.UNKNOWN_TYPE, ID),
    (packet(type=7, wTs=AT), Fault.UNKNOWN_TYPE, ID),
    (packet(mId="absent", wTs=AT), Fault.WRONG_ID, ""),
    (packet(mId=7, wTs=AT), Fault.MALFORMED, ""),
    (packet(mId="be12ab9a-800c-1c19-8c50-adf832f22420", wTs=AT), Fault.WRONG_ID, ""),
    (packet(mId=ID + "\n", wTs=AT), Fault.WRONG_ID, ""),
    (packet("MessageAck", oMId="1"), Fault.WRONG_ID, ""),
    (packet(), Fault.MALFORMED, ID),
    (packet(wTs=None), Fault.NULL, ID),
    (packet(wTs=1433764899), Fault.MALFORMED, ID),
    (packet(wTs="2015-06-08T12:01:39Z"), Fault.WRONG_TIME, ID),
    (packet(wTs="2015-06-08T12:01:39.65Z"), Fault.WRONG_TIME, ID),
    (packet(wTs="2015-06-08T12:01:39.654+00:00"), Fault.WRONG_TIME, ID),
    (packet(wTs="2015-13-08T12:01:39.654Z"), Fault.WRONG_TIME, ID),
    (packet(wTs="2015-02-29T12:01:39.654Z"), Fault.WRONG_TIME, ID),
    (status(s=None), Fault.NULL, ID),
    (status(q="unknown"), Fault.MALFORMED, ID),
    (status(q="undefined"), Fault.MALFORMED, ID),
    (status(q="Recent"), Fault.MALFORMED, ID),
    (status(s=1), Fault.MALFORMED, ID),
    (status(s=True), Fault.MALFORMED, ID),
    (status(s=[{"r": 1}]), Fault.MALFORMED, ID),
    (status(n=None), Fault.NULL, ID),
    (status(more="1"), Fault.MALFORMED, ID),
    (packet("StatusUpdate", cId=MAIN, sTs=AT, sS=[]), Fault.MALFORMED, ID),
    (packet("StatusRequest", cId=MAIN, sS=[{"sCI": "S", "n": "n"}] * 4097), Fault.MALFORMED, ID),
    (packet("StatusRequest", sS=[{"sCI": "S0001", "n": "stage"}]), Fault.MALFORMED, ID),
    (an_alarm(aSp="issue"), Fault.MALFORMED, ID),
    (an_alarm(aSp="Explode"), Fault.MALFORMED, ID),
    (an_alarm(aS="active"), Fault.MALFORMED, ID),
    (an_alarm(ack="acknowledged"), Fault.MALFORMED, ID),
    (an_alarm(sS="NotSuspended"), Fault.MALFORMED, ID),
    (an_alarm(cat="X"), Fault.MALFORMED, ID),
    (an_alarm(pri="4"), Fault.MALFORMED, ID),
    (an_alarm(pri=2), Fault.MALFORMED, ID),
    (an_alarm(aTs="absent"), Fault.MALFORMED, ID),
    (an_alarm(rvs=None), Fault.NULL, ID),
    (packet("AggregatedStatus", cId=MAIN, aSTS=AT, fP=None, fS=None, se=[True] * 7), Fault.MALFORMED, ID),
    (packet("AggregatedStatus", cId=MAIN, aSTS=AT, fP=None, fS=None, se=["true"] * 8), Fault.MALFORMED, ID),
]


@pytest.mark.parametrize(("wrong", "fault", "m_id"), WRONG)
def test_what_is_wrong_is_named_with_the_message_that_it_was_in(
    wrong: bytes, fault: Fault, m_id: str
) -> None:
    with pytest.raises(MessageError) as caught:
        decode(wrong)
    assert (caught.value.fault, caught.value.m_id) == (fault, m_id)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def subscribe(**elements: Any) -> bytes:  # noqa: ANN401  any JSON
    one = {"sCI": "S0001", "n": "stage", "uRt": "0", "sOc": True, **elements}
    return packet("StatusSubscribe", cId=MAIN, sS=[{k: v for k, v in one.items() if v != "absent"}])


@pytest.mark.parametrize(
    ("text", "ms"), [("0", 0), ("5", 5000), ("2.5", 2500), ("0.001", 1), ("999999999", 999_999_999_000)]
)
def test_a_rate_may_have_decimals(text: str, ms: int) -> None:
    message = decode(subscribe(uRt=text))
    assert isinstance(message, m.StatusSubscribe)
    assert m.rate_ms(message.wanted[0]) == ms


@pytest.mark.parametrize("text", ["-1", "1e3", "nan", "", "1.", ".5", "٣", " 1"])
def test_what_is_no_rate_is_malformed(text: str) -> None:
    with pytest.raises(MessageError) as caught:
        decode(subscribe(uRt=text))
    assert caught.value.fault is Fault.MALFORMED


def test_a_subscription_to_nothing_is_malformed() -> None:
    for rate in ("0", "0.0"):
        with pytest.raises(MessageError, match="asks for nothing"):
            decode(subscribe(uRt=rate, sOc=False))


# --- what the versions say otherwise ---


def test_before_3_1_3_elements_are_words_and_what_is_not_known_is_an_empty_string() -> None:
    aggregated = m.AggregatedStatus(m_id=ID, component=MAIN, at=AT, elements=(True, *(False,) * 7))
    said = json.loads(encode(aggregated, Core.V3_1_2))
    assert said["se"] == ["true", *["false"] * 7]
    heard_words = json.dumps({**said, "se": ["True", *["False"] * 7]}).encode()
    assert decode(heard_words, Core.V3_1_2) == aggregated
    for wrong in (["maybe"] * 8, [True] * 8):
        with pytest.raises(MessageError):
            decode(json.dumps({**said, "se": wrong}).encode(), Core.V3_1_2)
    lost = m.StatusValue("S0001", "stage", None, m.Quality.UNDEFINED)
    update = m.StatusUpdate(m_id=ID, component=MAIN, at=AT, values=(lost,))
    assert json.loads(encode(update, Core.V3_1_2))["sS"][0] | {"sCI": 0, "n": 0} == {
        "sCI": 0, "n": 0, "s": "", "q": "unknown",
    }  # fmt: skip
    heard = decode(encode(update, Core.V3_1_2), Core.V3_1_2)
    assert isinstance(heard, m.StatusUpdate)
    assert heard.values[0] == replace(lost, quality=m.Quality.UNKNOWN)
    with pytest.raises(MessageError) as caught:
        decode(encode(update), Core.V3_1_2)
    assert caught.value.fault is Fault.NOT_IN_VERSION


@pytest.mark.parametrize("core", [core for core in Core if not FEATURES[core].arrays])
def test_before_3_2_an_array_cannot_be_said_and_is_not_heard(core: Core) -> None:
    value = m.StatusValue("S0033", "status", [], m.Quality.RECENT)
    update = m.StatusUpdate(m_id=ID, component=MAIN, at=AT, values=(value,))
    said = encode(update, core)
    assert violations(said, core.value) == []
    assert json.loads(said)["sS"][0]["q"] == "unknown"
    with pytest.raises(MessageError) as caught:
        decode(encode(update), core)
    assert caught.value.fault is Fault.NOT_IN_VERSION


@pytest.mark.parametrize("core", [core for core in Core if not FEATURES[core].requests])
def test_before_3_1_5_alarms_and_aggregated_status_cannot_be_asked_for(core: Core) -> None:
    for asked in (
        m.AggregatedStatusRequest(m_id=ID, component=MAIN),
        m.Alarm(m_id=ID, component=MAIN, code="A0001", event=m.AlarmEvent.REQUEST),
    ):
        with pytest.raises(LocalProtocolError):
            encode(asked, core)
        with pytest.raises(MessageError) as caught:
            decode(encode(asked), core)
        assert caught.value.fault is Fault.NOT_IN_VERSION


@pytest.mark.parametrize("core", [core for core in Core if not FEATURES[core].on_change])
def test_before_3_1_5_a_rate_of_0_means_at_each_change(core: Core) -> None:
    heard = decode(subscribe(sOc="absent"), core)
    assert isinstance(heard, m.StatusSubscribe)
    assert heard.wanted[0].on_change is True
    slow = decode(subscribe(sOc="absent", uRt="5"), core)
    assert isinstance(slow, m.StatusSubscribe)
    assert slow.wanted[0].on_change is False
    for one in (m.Subscription("S0001", "stage", "5", False), m.Subscription("S0001", "stage", "0", True)):
        said = encode(m.StatusSubscribe(m_id=ID, component=MAIN, wanted=(one,)), core)
        assert b"sOc" not in said
        assert violations(said, core.value) == []
    both = m.StatusSubscribe(m_id=ID, component=MAIN, wanted=(m.Subscription("S0001", "stage", "5", True),))
    with pytest.raises(LocalProtocolError, match="not at both"):
        encode(both, core)


@pytest.mark.parametrize("core", [core for core in Core if not FEATURES[core].exact_case])
@pytest.mark.parametrize("aS", ["active", "Active", "inActive", "inactive", "InActive"])
def test_before_3_2_the_words_of_an_alarm_have_more_than_one_spelling(core: Core, aS: str) -> None:  # noqa: N803
    heard = decode(an_alarm(aSp="issue", ack="acknowledged", aS=aS, sS="NotSuspended"), core)
    assert isinstance(heard, m.Alarm)
    expected = m.Activity.ACTIVE if aS.lower() == "active" else m.Activity.INACTIVE
    assert (heard.event, heard.ack, heard.activity, heard.suspension) == (
        m.AlarmEvent.ISSUE, m.Acknowledgement.ACKNOWLEDGED, expected, m.Suspension.NOT_SUSPENDED,
    )  # fmt: skip


def test_a_suspended_alarm_is_spelt_as_the_schemas_want_it_in_each_message() -> None:
    heard = decode(an_alarm(sS="suspended"))
    assert isinstance(heard, m.Alarm)
    assert heard.suspension == m.Suspension.SUSPENDED
    assert json.loads(encode(heard))["sS"] == "suspended"
    assert json.loads(encode(replace(heard, event=m.AlarmEvent.SUSPEND)))["sS"] == "Suspended"


# --- what must not be said ---


@pytest.mark.parametrize(
    "message",
    [
        m.Watchdog(at=AT),
        m.Watchdog(m_id=ID, at="now"),
        m.StatusUpdate(
            m_id=ID, component=MAIN, at=AT, values=(m.StatusValue("S0001", "stage", None, m.Quality.RECENT),)
        ),
        m.CommandResponse(
            m_id=ID, component=MAIN, at=AT, values=(m.CommandValue("M0001", "n", "1", m.Quality.UNKNOWN),)
        ),
        m.CommandResponse(
            m_id=ID, component=MAIN, at=AT, values=(m.CommandValue("M0001", "n", None, m.Quality.RECENT),)
        ),
        m.Alarm(m_id=ID, component=MAIN, code="A0001", event=m.AlarmEvent.ISSUE),
        m.StatusSubscribe(m_id=ID, component=MAIN, wanted=(m.Subscription("S0001", "stage", "2.5"),)),
    ],
)
def test_what_breaks_the_rules_is_our_fault_and_is_not_said(message: m.Message) -> None:
    with pytest.raises(LocalProtocolError):
        encode(message)


@pytest.mark.parametrize("utc_ms", [-1, m.MAX_UTC_MS + 1])
def test_a_moment_that_has_no_four_digits_of_a_year_cannot_be_said(utc_ms: int) -> None:
    with pytest.raises(LocalProtocolError):
        m.stamp(utc_ms)


@given(st.integers(0, m.MAX_UTC_MS))
def test_a_stamp_is_exact_to_the_millisecond(utc_ms: int) -> None:
    assert m.milliseconds(m.stamp(utc_ms)) == utc_ms


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=60), st.sampled_from(Core))
def test_noise_is_never_a_message_and_never_more_than_a_message_error(noise: bytes, core: Core) -> None:
    with pytest.raises(MessageError):
        decode(noise, core)


@given(st.sampled_from(EXAMPLES), st.data(), st.sampled_from(Core))
def test_a_message_with_any_element_replaced_is_read_or_named(
    text: str, data: st.DataObject, core: Core
) -> None:
    message = json.loads(text)
    key = data.draw(st.sampled_from(sorted(message)))
    message[key] = data.draw(json_values)
    with contextlib.suppress(MessageError):
        assert isinstance(decode(json.dumps(message).encode(), core).m_type, str)
