"""DALI without the wire: levels, the LUBA link of a serial interface, and dialogues with control gear."""
