"""What the priority rules mean: who is asked for, when, for how long, and when it is taken back. Pure.

`generator` is what NTCIP 1211 calls a priority request generator. The controller's own server of requests
decides; we only ask, and believe nothing but what it says.
"""
