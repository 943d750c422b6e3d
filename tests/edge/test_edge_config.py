"""Settings and limits: every fault of both files at once, each with its file and its key."""

from pathlib import Path
from typing import get_args

import pytest

from drivers.settings import LineSettings
from edge.config import Settings, SettingsError, fleet_key, load
from edge.example import EXAMPLE
from protocols.model.policy import LampLimit

KEY = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
SOUND = f"""
[cabinet]
id = "dijon-0001"
limits = "limits.toml"
[backhaul]
url = "mqtts://centre.example"
[[trusted_key]]
id = "city"
public = "{KEY}"
[[line]]
id = "dali-1"
driver = "dali-luba"
port = "/dev/ttyUSB0"
[[device]]
id = "lamp-01"
kind = "lamp"
line = "dali-1"
address = 0
"""
LIMITS = '[[lamp]]\nline = "dali-1"\naddresses = "0-3"\nminimum_level = 30\n'


def write(folder: Path, text: str = SOUND, limits: str | None = LIMITS) -> Path:
    if limits is not None:
        (folder / "limits.toml").write_text(limits, encoding="utf-8")
    (folder / "cabinet.toml").write_text(text, encoding="utf-8")
    return folder / "cabinet.toml"


def faults(file: Path) -> list[tuple[str, str]]:
    with pytest.raises(SettingsError) as refusal:
        load(file)
    return [(one.file.name, one.fault.key) for one in refusal.value.faults]


def texts(file: Path) -> str:
    with pytest.raises(SettingsError) as refusal:
        load(file)
    return str(refusal.value)


def test_sound_settings_are_read_with_every_path_absolute(tmp_path: Path) -> None:
    settings: Settings = load(
        write(tmp_path, SOUND.replace('id = "dijon', 'directory = "state"\nid = "dijon'))
    )
    assert settings.directory == tmp_path / "state"
    assert settings.socket == tmp_path / "state" / "agent.sock"
    assert settings.limits.lamp == (LampLimit("dali-1", "0-3", 30),)
    assert [lamp.id for lamp in settings.lamps] == ["lamp-01"]
    assert len(settings.trusted[0].public) == 32


def test_the_example_is_sound(tmp_path: Path) -> None:
    assert load(write(tmp_path, EXAMPLE)).cabinet == "dijon-0001"


def test_the_example_is_sound_with_every_line_taken_in(tmp_path: Path) -> None:
    settled, others = EXAMPLE.split("# Other lines")
    taken_in = "\n".join(line.removeprefix("# ") for line in others.splitlines()[1:])
    settings = load(write(tmp_path, settled + taken_in))
    assert {type(line) for line in settings.document.line} == set(get_args(LineSettings))


def test_every_fault_of_both_files_is_named_at_once(tmp_path: Path) -> None:
    text = SOUND.replace('"dijon-0001"', '"Dijon 1"').replace("mqtts://centre", "mqtt://centre")
    text = text.replace(KEY, "AAAA").replace("address = 0", "address = 64\ncolour = 1")
    limits = LIMITS.replace("0-3", "0-") + '[[lamp]]\nline = "dali-9"\nminimum_level = 101\n'
    assert faults(write(tmp_path, text, limits)) == [
        ("cabinet.toml", "cabinet.id"),
        ("cabinet.toml", "device[0].colour"),
        ("cabinet.toml", "backhaul.url"),
        ("cabinet.toml", "trusted_key[0].public"),
        ("limits.toml", "lamp[1].minimum_level"),
    ]


def test_what_is_wrong_between_values_is_named_although_another_part_cannot_be_read(tmp_path: Path) -> None:
    text = SOUND.replace('id = "city"', 'id = "a b"').replace("address = 0", "address = 64")
    assert faults(write(tmp_path, text, LIMITS.replace("dali-1", "dali-9"))) == [
        ("cabinet.toml", "trusted_key[0].id"),
        ("cabinet.toml", "device[0].address"),
        ("limits.toml", "lamp[0].line"),
    ]


@pytest.mark.parametrize(
    ("before", "after", "key", "why"),
    [
        ("mqtts://centre.example", "http://centre", "backhaul.url", "expected mqtt(s)://host:port"),
        ("mqtts://centre.example", "mqtts://", "backhaul.url", "expected mqtt(s)://host:port"),
        ("mqtts://centre.example", "mqtts://a:b", "backhaul.url", "Port"),
        ("mqtts://centre.example", "mqtt://192.0.2.1", "backhaul.url", "plain MQTT leaves this machine"),
        ('centre.example"', 'centre.example"\nca = "no.pem"', "backhaul.ca", "there is no file"),
        (
            'centre.example"',
            'centre.example"\nkey = "cabinet.toml"',
            "backhaul.certificate",
            "both or neither",
        ),
        ('centre.example"', 'centre.example"\nsilence_s = nan', "backhaul.silence_s", "expected"),
        ('centre.example"', 'centre.example"\nkeepalive_s = 1', "backhaul.keepalive_s", "expected"),
        (KEY, "é", "trusted_key[0].public", "32 bytes in base64"),
        (
            'id = "dijon-0001"',
            f'id = "dijon-0001"\nsocket = "{"x" * 120}"',
            "cabinet.socket",
            "Linux allows 107",
        ),
        ("[backhaul]", "[outbox]\nmax_mb = 0\n[backhaul]", "outbox.max_mb", "expected"),
        (
            "[[trusted_key]]",
            f'[[trusted_key]]\nid = "city"\npublic = "{KEY}"\n[[trusted_key]]',
            "trusted_key[1].id",
            "is that of trusted_key[0]",
        ),
        (
            'driver = "dali-luba"',
            'driver = "knx"',
            "line[0].driver",
            '"dali-luba", "modbus-tcp", "modbus-rtu"',
        ),
        ("[backhaul]", "[bench_clock]\nspeed = 0\n[backhaul]", "bench_clock.speed", "expected"),
    ],
)
def test_a_fault_is_named_with_its_key_and_what_was_expected(
    tmp_path: Path, before: str, after: str, key: str, why: str
) -> None:
    file = write(tmp_path, SOUND.replace(before, after))
    assert key in [found for _, found in faults(file)]
    assert why in texts(file)


LONG = "x" * 400
RTU = '[[line]]\nid = "rs485"\ndriver = "modbus-rtu"\nport = "/dev/ttyS1"\n'
RSMP = '[[line]]\nid = "tlc"\ndriver = "rsmp"\nsite = "KK"\n'
OPCUA = '[[line]]\nid = "opc"\ndriver = "opcua"\nurl = "opc.tcp://192.0.2.1:4840"\n'
REGISTERS = '[[map]]\nname = "m"\n[[map.entry]]\npoint = "p"\naddress = 0\n'


@pytest.mark.parametrize(
    ("before", "after", "key", "choices"),
    [
        ('centre.example"', f'centre.example"\nmqtt = "{LONG}"', "backhaul.mqtt", '"5", "3.1.1"'),
        (
            'id = "city"',
            f'id = "city"\nkinds = ["{LONG}"]',
            "trusted_key[0].kinds[0]",
            '"lighting", "priority"',
        ),
        ('driver = "dali-luba"', f'driver = "{LONG}"', "line[0].driver", '"lorawan-udp", "ble"'),
        ("[[device]]", f'{RTU}parity = "{LONG}"\n[[device]]', "line[1].parity", '"N", "E", "O"'),
        ("[[device]]", f"{RTU}stopbits = {'1' * 18}\n[[device]]", "line[1].stopbits", "1, 2"),
        ("[[device]]", f'{RSMP}versions = ["{LONG}"]\n[[device]]', "line[1].versions[0]", '"3.2.1", "3.2.2"'),
        ("[[device]]", f'{RSMP}sxl = "{LONG}"\n[[device]]', "line[1].sxl", '"1.1.0", "1.2.0", "1.2.1"'),
        (
            "[[device]]",
            f'{OPCUA}security = "{LONG}"\n[[device]]',
            "line[1].security",
            '"Aes256Sha256RsaPss", "none"',
        ),
        ('kind = "lamp"', f'kind = "{LONG}"', "device[0].kind", '"weather_station", "vehicle"'),
        ("address = 0", f'address = 0\nreport = "{LONG}"', "device[0].report", '"change", "each"'),
        ("address = 0", f'address = 0\nstream = "{LONG}"', "device[0].stream", '"ordinary", "bulk"'),
        (
            "[[device]]",
            f'{REGISTERS}table = "{LONG}"\n[[device]]',
            "map[0].entry[0].table",
            '"holding", "input"',
        ),
    ],
)
def test_of_a_value_out_of_a_list_the_list_is_told_however_long_the_value_is(
    tmp_path: Path, before: str, after: str, key: str, choices: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load(write(tmp_path, SOUND.replace(before, after)))
    (line,) = [str(one) for one in refusal.value.faults]
    file, named, expected = line.split(": ", 2)
    assert (Path(file).name, named) == ("cabinet.toml", key)
    assert expected.startswith("expected one of ")
    assert f"{choices} (" in expected


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ("[[lamp]]\n", "lamp[0].line"),
        ('[[lamp]]\nline = "dali-1"\nminimum_level = 60\nmaximum_level = 50\n', "lamp[0].minimum_level"),
        ('[[lamp]]\nline = "dali-1"\naddresses = "all"\n', "lamp[0].addresses"),
        ("[lamps]\n", "lamps"),
        ("[[lamp]\n", ""),
        (None, ""),
    ],
)
def test_a_fault_of_the_limits_file_is_named_with_that_file(
    tmp_path: Path, limits: str | None, key: str
) -> None:
    assert faults(write(tmp_path, limits=limits)) == [("limits.toml", key)]


@pytest.mark.parametrize("content", [b"[cabinet", b"\xff\xfe", b""])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cabinet.toml").write_bytes(content)
    assert faults(tmp_path / "cabinet.toml")[0][0] == "cabinet.toml"
    assert "cannot be read" in texts(tmp_path / "nowhere.toml")


def test_a_file_in_the_sockets_place_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    file = write(
        tmp_path, SOUND.replace('limits = "limits.toml"', 'limits = "limits.toml"\nsocket = "notes.txt"')
    )
    assert faults(file) == [("cabinet.toml", "cabinet.socket")]
    assert (tmp_path / "notes.txt").read_text() == "keep me"


LOCAL = SOUND.replace("[[trusted_key]]", '[local_positions]\nkey_file = "fleet.key"\n[[trusted_key]]')


def fleet_key_file(folder: Path, text: str = KEY, mode: int = 0o600) -> Path:
    file = folder / "fleet.key"
    file.write_text(text, encoding="ascii")
    file.chmod(mode)
    return file


def test_the_fleet_s_key_is_read_from_its_owner_s_file(tmp_path: Path) -> None:
    file = fleet_key_file(tmp_path, KEY + "\n")
    settings = load(write(tmp_path, LOCAL))
    assert settings.document.local_positions is not None
    assert settings.document.local_positions.port == 12733
    assert len(fleet_key(file)) == 32
    assert KEY not in repr(settings.document.local_positions)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_key_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    fleet_key_file(tmp_path, mode=mode)
    assert "local_positions.key_file" in texts(write(tmp_path, LOCAL))
    assert "chmod 600" in texts(write(tmp_path, LOCAL))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "a key of 0 bytes"),
        ("no base64!", "is no base64"),
        ("AAAA", "a key of 3 bytes"),
        ("A" * 2000, "1024"),
    ],
)
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, text: str, named: str) -> None:
    fleet_key_file(tmp_path, text)
    if named == "1024":  # no more is read
        named = "a key of 768 bytes"
    assert named in texts(write(tmp_path, LOCAL))


def test_a_key_file_that_is_missing_is_named(tmp_path: Path) -> None:
    assert "fleet.key cannot be read: No such file" in texts(write(tmp_path, LOCAL))


def test_a_local_port_without_a_key_is_refused(tmp_path: Path) -> None:
    text = SOUND.replace("[[trusted_key]]", "[local_positions]\nport = 0\n[[trusted_key]]")
    assert faults(write(tmp_path, text)) == [
        ("cabinet.toml", "local_positions.key_file"),
        ("cabinet.toml", "local_positions.port"),
    ]


def test_a_limit_of_a_signal_group_on_a_line_that_is_not_there_is_named(tmp_path: Path) -> None:
    limits = '[[signal]]\nline = "tlc-9"\nmax_level = 3\n'
    assert faults(write(tmp_path, SOUND, limits)) == [("limits.toml", "signal[0].line")]
    assert faults(write(tmp_path, SOUND, limits.replace("3", "15"))) == [
        ("limits.toml", "signal[0].max_level")
    ]
