"""`cut.py FAILURE COUNT_FILE COMMAND...`: run a command and carry its stdin and stdout, up to a number of bytes."""

import os
import subprocess
import sys
import threading

failure, counted, *command = sys.argv[1:]
direction, _, limit = failure.partition(":")
left = {"in": 1 << 60, "out": 1 << 60}
if failure:
    left[direction] = int(limit)
inner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
carried = [0]


def end() -> None:
    """End as a client does whose connection breaks: what runs there sees its streams close."""
    inner.stdin.close()
    inner.stdout.close()
    os._exit(255)


def carry(source, sink, name: str) -> None:
    while content := source.read1(1 << 16):
        cut = len(content) >= left[name]
        content = content[: left[name]]
        left[name] -= len(content)
        if name == "in":
            carried[0] += len(content)
        try:
            sink.write(content)
            sink.flush()
        except BrokenPipeError:
            return
        if cut:
            end()
    if name == "in":
        sink.close()


thread = threading.Thread(target=carry, args=(sys.stdin.buffer, inner.stdin, "in"), daemon=True)
thread.start()
carry(inner.stdout, sys.stdout.buffer, "out")
status = inner.wait()
if counted:
    with open(counted, "a") as file:  # noqa: PTH123
        file.write(f"{carried[0]}\n")
os._exit(status)  # the other thread may still read
