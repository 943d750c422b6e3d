"""LoRaWAN between a packet forwarder and the cabinet, and what sensors say on it."""
