"""The scenario that `luciole-sim scenario example` prints: every setting with a likely value."""

EXAMPLE = """\
# A street on a bench. Run it:  luciole-sim run street.toml
# Paths are relative to this file's folder (or to --folder).

control = "run/sim.sock"        # live commands; leave out for the default, luciole-sim.sock
seed = 1                        # of everything random

[bench]                         # leave the table out for the wall clock
start = 2026-11-24T16:30:00+01:00   # civil time at the start, with its offset
speed = 60.0                    # civil seconds for each real second; bit times and fades stay real
# origin_monotonic_ms = 123456  # share one origin between the processes of a bench

[location]                      # where the sun is looked up
latitude = 47.32
longitude = 5.04

[[dali]]                        # a DALI line behind a LUBA serial interface, 38400 baud
name = "dali-1"
port = "run/dali-1"             # symlink of the pty
gear = 24                       # control gear with short addresses 0 … 23; up to 64
rated_w = 50.0
standby_w = 0.5
physical_minimum = 85           # lowest arc power level: 85 is 1 % of light
device_types = [6, 51]          # LED, energy reporting
level = 0                       # arc power level of all at the start
groups = { 0 = [0, 2, 4], 1 = [1, 3, 5] }
supply = "integrated"           # or "external": the interface cannot switch the bus off
queue = 16                      # forward frames that the interface holds
jitter = false                  # draw settling and reply times from their whole range

[[rtu]]                         # a Modbus RTU line
name = "rtu-1"
port = "run/rtu-1"
baud = 19200
parity = "even"

[rtu.cabinet]                   # inputs 0 door open, 1 breaker tripped, 2 mains, 3 contactor feedback;
unit = 1                        # coil 0 contactor, which feeds the lamps

[rtu.lux]                       # input registers 0-1: uint32, 0.1 lx
unit = 2

[meter]                         # SDM630 map on Modbus TCP; adds up what the lamps draw
port = 0                        # 0 takes any free port and reports it
unit = 1
base_load_w = 15.0
start_kwh = 1234.5

[[counter]]                     # for load benches: every register counts its own reads
count = 2                       # devices on consecutive ports
registers = 20
port = 0
spread = false                  # true: each register begins its count at a number of its own

[[radio]]                       # a LoRaWAN gateway with a packet forwarder, and the sensors that it hears
name = "radio-1"
gateway_eui = "0016c001f1500001"
host = "127.0.0.1"              # of the network server: the cabinet
port = 1700                     # UDP
region = "eu868"
spread_s = 10.0                 # real seconds over which the sensors wake up
collisions = false              # true: frames that meet on the air are lost

[[radio.sensors]]
name = "bin-1"
device = "milesight-em400-mud"  # its make; a wrong one is answered with all that there are
dev_eui = "24e124136b502301"
app_key = "0102030405060708090a0b0c0d0e0f10"
join_eui = "24e124c0002a0001"
every_s = 60.0                  # real seconds from report to report
confirmed = false               # true: each report wants to be acknowledged

[[radio.sensors]]
name = "parking-1"
device = "bosch-tps110"
dev_eui = "647fda0000000001"
app_key = "1102030405060708090a0b0c0d0e0f10"
every_s = 60.0

[[event]]                       # what happens by itself
at_s = 30.0                     # real seconds after the start, or civil = 2026-11-24T22:05:00+01:00
target = "dali-1/3"
fault = "lamp_failure"
for_s = 60.0                    # then it ends by itself

[[event]]
civil = 2026-11-24T18:00:00+01:00
target = "meter"
fault = "slow"
settings = { delay_s = 1.5 }

[[event]]
civil = 2026-11-24T18:30:00+01:00
target = "meter"
clear = "*"

[[event]]
at_s = 40.0
target = "radio-1/bin-1"
fault = "forged"
settings = { every_s = 5.0 }
for_s = 60.0

[[event]]
at_s = 45.0
target = "cabinet"
set = { door_open = true }
"""
