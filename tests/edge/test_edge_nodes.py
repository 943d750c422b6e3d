"""A cabinet's own node maps, in its settings file."""

from pathlib import Path

import pytest

from edge.config import SettingsError, load

CABINET = """
[cabinet]
id = "cabinet-1"
directory = "state"

[backhaul]
url = "mqtt://127.0.0.1:1883"

[[line]]
id = "plant"
driver = "opcua"
url = "opc.tcp://10.0.0.7:4840"

[[device]]
id = "shaft-1"
kind = "sensor"
line = "plant"
address = "shaft-1"
map = "shaft"

[[nodes]]
name = "shaft"
namespace = "urn:example:plc"
[[nodes.entry]]
point = "level"
node = "Level"
type = "f32"
"""


def test_a_cabinets_own_node_map_is_read_and_judged(tmp_path: Path) -> None:
    file = tmp_path / "cabinet.toml"
    file.write_text(CABINET, encoding="utf-8")
    assert [one.name for one in load(file).document.nodes] == ["shaft"]
    file.write_text(CABINET.replace('node = "Level"', 'node = "i=x"'), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load(file)
    assert [fault.fault.key for fault in error.value.faults] == ["nodes[0].entry[0].node"]
