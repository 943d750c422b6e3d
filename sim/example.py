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
# unhurried = [[130000, 160000]]  # monotonic milliseconds within which the speed is 1

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

[[junction]]                    # a traffic light controller, an RSMP site; its default is a crossroads of
name = "junction-1"             # four vehicle groups and two for pedestrians, with three time plans
host = "127.0.0.1"              # of the supervisor, which listens
port = 12111
prefix = "LU+DJ0001=001"        # of its component ids: …TC000 controller, …SG001 groups, …DL001 detectors
site_id = "LU+DJ0001=001TC000"  # leave out for the controller's component id
sxl = "1.2.1"                   # or 1.2.0, 1.1.0
versions = ["3.2.2", "3.1.5"]   # of the RSMP core; leave out for all
reconnect_s = 10.0              # between two attempts to reach the supervisor
ack_timeout_s = 30.0
watchdog_s = 60.0
security_codes = ["1111", "2222"]   # of level 1 and level 2

[junction.design]               # leave out what the default has: groups, stages, intergreens, plans, detectors
start_flash_s = 4
start_red_s = 4
# groups = [{ kind = "vehicle", min_green_s = 6, max_green_s = 60, yellow_s = 3, red_yellow_s = 1 }, …]
# stages = [[1, 3, 6], [2, 5], [4, 5]]        # groups, by number, that are green in stage 1, 2, 3
# intergreens = [[0, 5, …], …]                # seconds from the row's end of green to the column's green; 0: none

[[junction.design.plans]]       # the first plan is in force; all begin with the same stage
number = 1
order = [1, 2, 3]
durations_s = [45, 22, 23]
offset_s = 0

[[junction.design.plans]]
number = 2
order = [1, 2, 3]
durations_s = [33, 18, 19]

[junction.design.limits]        # what priority is given at most
max_extension_s = 15            # a stage ends at most so much after its planned end
max_red_s = 120                 # nobody waits longer
queue_s = 60                    # then a queued request times out
lifetime_s = 120                # then an active request is stale
cooldown_s = 30                 # between two for the same group
lowest_level = 1                # level 0 is rejected

[[bus]]                         # drives through the junction and times itself
name = "bus-1"
junction = "junction-1"
approach = "east"               # north, east, south, west: says route, signal group and detectors
line = "L3"
direction = 1
at_s = 20.0                     # real seconds after the start
every_s = 120.0                 # leave out for one ride
rides = 30
stop_line_m = 400.0             # along the way
check_in_m = 200.0              # its detector, before the stop line
exit_m = 20.0                   # the other one, behind it
stop_m = -60.0                  # the passengers' stop, before (below 0) or behind the stop line
dwell_s = 12.0
waits = false                   # true: drives off only when told: luciole-sim set bus-1 drive=on
broker = ""                     # host:port of the MQTT broker by which it tells its position
datagram_to = ""                # host:port of a cabinet that it tells by itself, with the key that both know
fleet_key = ""                  # 64 hexadecimal digits
# route = [[47.32, 5.04], [47.321, 5.043]]    # instead of a straight line through the location
# group = 2; check_in = "check-in-2"; exit = "exit-2"

[bus.ride]
cruise_m_s = 12.0
accelerate_m_s2 = 1.0
brake_m_s2 = 1.2
hard_m_s2 = 2.5
length_m = 12.0

[[pumping_station]]             # an OPC UA server; its certificate is made in pumps-pki
name = "pumps"
host = "127.0.0.1"
port = 0
stations = 2                    # objects pumps-1 and pumps-2
security = "Basic256Sha256"     # or Aes128Sha256RsaOaep, Aes256Sha256RsaPss; none on loopback
# user = "cabinet"              # who has to log in, and with which password
# password = "of this bench"
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
at_s = 300.0
target = "junction-1/3"
fault = "lamp_failure"
for_s = 30.0

[[event]]
at_s = 45.0
target = "cabinet"
set = { door_open = true }
"""
