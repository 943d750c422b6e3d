"""Modbus without the wire: register maps, which blocks to read, registers to values and back."""
