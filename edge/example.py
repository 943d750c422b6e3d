"""A settings file to begin with."""

EXAMPLE = """\
# A cabinet of Luciole. Check it with: luciole-edge config check cabinet.toml

[cabinet]
id = "dijon-0001"                 # unique within the city
commune = "21231"                 # INSEE code
directory = "/var/lib/luciole"    # outbox.db and state.db; relative to this file
# socket = "agent.sock"           # where luciole-edge reaches the agent; by default in the directory
# limits = "limits.toml"          # bounds that nobody afar can change

[backhaul]
url = "mqtts://centre.example:8883"
# ca = "ca.pem"                   # who may vouch for the broker
# certificate = "cabinet.pem"     # this cabinet's certificate and key
# key = "cabinet.key"

[outbox]
seal_readings = 100               # so many readings make a batch,
seal_s = 5                        # or so many seconds
max_mb = 512                      # what may wait for the centre
max_age_days = 90

# As `luciole-central key init` prints it.
# [[trusted_key]]
# id = "city-2026"
# public = "…"
# kinds = ["lighting", "priority"]

# [local_positions]               # vehicles that reach the cabinet itself, without the backhaul
# host = "192.0.2.1"
# port = 12733
# key_file = "fleet.key"          # openssl rand -base64 32 > fleet.key; chmod 600 fleet.key

[[line]]
id = "dali-1"
driver = "dali-luba"
port = "/dev/serial/by-id/usb-Lunatone_LUBA"

[[line]]
id = "meter-line"
driver = "modbus-tcp"
host = "192.0.2.10"

[[line]]
id = "rs485-1"
driver = "modbus-rtu"
port = "/dev/ttyUSB0"
baudrate = 19200
parity = "E"

[[device]]
id = "lamp-01"
kind = "lamp"
line = "dali-1"
address = 0                       # DALI short address
groups = ["street"]

[[device]]
id = "meter-1"
kind = "meter"
line = "meter-line"
address = 1
map = "sdm630"

[[device]]
id = "cabinet-io"
kind = "cabinet_io"
line = "rs485-1"
address = 1
map = "cabinet_io"
stream = "critical"

# Other lines, to be taken in by removing the marks. `luciole-edge discover` tells what is there.

# [[line]]
# id = "tlc-1"
# driver = "rsmp"                   # a signal controller, which connects to us
# site = "KK+AG0503=001TC000"

# [[device]]
# id = "junction-foch"
# kind = "junction"
# line = "tlc-1"
# address = "KK+AG0503=001TC000"
# stream = "critical"

# [[line]]
# id = "plc-1"
# driver = "opcua"                  # luciole-edge opcua-certificate makes our certificate
# url = "opc.tcp://192.0.2.20:4840"

# [[device]]
# id = "pumps-ouche"
# kind = "pumping_station"
# line = "plc-1"
# address = "station-1"
# map = "pumping_station"

# [[line]]
# id = "air-1"
# driver = "lorawan-udp"            # a packet forwarder on this machine, or behind a tunnel

# [[device]]
# id = "bin-17"                     # luciole-edge join bin-17 takes its key
# kind = "bin"
# line = "air-1"
# address = "24e124136b502301"
# map = "milesight-em400-mud"

# [[line]]
# id = "ble-1"
# driver = "ble"
# adapter = "hci0"

# [[device]]
# id = "cabinet-climate"
# kind = "sensor"
# line = "ble-1"
# address = "a4:c1:38:8d:18:b2"
# map = "bthome-thermometer"
"""
