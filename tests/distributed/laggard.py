"""A program that a test puts in the place of a worker process: does what its environment says."""

from __future__ import annotations

import os
import signal
import sys
import time

plan = os.environ["LAGGARD"].split()
print(f"worker: hello of {plan[0]}", file=sys.stderr, flush=True)
if plan[0] == "fails":
    print("zeroloop: the reason, in one sentence.", file=sys.stderr, flush=True)
    sys.exit(1)
elif plan[0] == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
elif plan[0] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
elif plan[0] == "deaf":
    while True:
        time.sleep(1)
elif plan[0] == "chatty":
    print("x" * 100_000, file=sys.stderr, flush=True)
sys.stdin.read()
if plan[0] == "slow":
    time.sleep(float(plan[1]))
