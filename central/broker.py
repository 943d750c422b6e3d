"""The embedded broker: a process of its own on loopback, for a demonstration or a desk.

It outlives the aggregator, so that restarting one does not cut off the cabinets from the other. It speaks
MQTT 3.1.1, forgets what it held when it ends, and takes no cabinet from the network.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from central.config import Address
from central.errors import StartError

START_WITHIN_S = 15.0
_CONNECT = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"
"""CONNECT of a nameless client with a clean session. Source: MQTT 3.1.1, 3.1."""
_CONNACK = b"\x20\x02\x00"
_DISCONNECT = b"\xe0\x00"


async def serve(address: Address) -> None:
    """Be the broker until SIGTERM or SIGINT.

    Raises:
        StartError: if the address cannot be listened on.
    """
    # Imported here: whoever uses a real broker never needs it.
    from amqtt.broker import Broker  # noqa: PLC0415
    from amqtt.errors import BrokerError  # noqa: PLC0415

    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": str(address)}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await broker.start()
    except (BrokerError, OSError) as error:
        raise StartError(f"--listen {address}: {error.__cause__ or error}") from error
    print(f"broker on mqtt://{address}, pid {os.getpid()}", flush=True)  # noqa: T201  the readiness line
    await stop.wait()
    await broker.shutdown()


def answers(address: Address, timeout_s: float = 1.0) -> bool:
    """Tell whether an MQTT broker answers there.

    Raises:
        StartError: if something answers that is none.
    """
    try:
        with socket.create_connection((address.host, address.port), timeout_s) as link:
            link.settimeout(timeout_s)
            link.sendall(_CONNECT)
            answer = link.recv(4)
            if answer.startswith(_CONNACK):
                with suppress(OSError):
                    link.sendall(_DISCONNECT)
                return True
    except ConnectionRefusedError:
        return False
    except OSError as error:
        raise StartError(
            f"{address}: something is there that does not answer as a broker: {error}"
        ) from error
    raise StartError(f"{address}: something else listens there; free the port, or give a --broker")


def start_detached(address: Address, log_file: Path) -> int:
    """Start the broker as a process of its own, which outlives this one; return its process id."""
    log_file.touch(mode=0o600)
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "central.cli", "broker", "--listen", str(address)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid


async def ensure(address: Address, log_file: Path) -> None:
    """Return once a broker answers at `address`: the one that is there, or a new one.

    Raises:
        StartError: if none comes up, or something else is there.
    """
    if await asyncio.to_thread(answers, address):
        return
    pid = start_detached(address, log_file)
    try:
        async with asyncio.timeout(START_WITHIN_S):
            while not await asyncio.to_thread(answers, address):  # noqa: ASYNC110  another process comes up
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise StartError(
            f"the embedded broker (pid {pid}) did not answer at {address} within {START_WITHIN_S:.0f} s; "
            f"see {log_file}"
        ) from None
