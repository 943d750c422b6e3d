"""`make demo`: a city of two cabinets on this machine, each part a process of its own, and an evening in it."""
