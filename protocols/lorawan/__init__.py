"""LoRaWAN 1.0.x as a network server needs it: frames, keys, the region's rules, and the forwarders' datagrams."""
