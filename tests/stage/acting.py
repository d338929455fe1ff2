"""What ranks do in the tests of the agent that starts them; imports little, for each rank is a process that begins anew."""

import os
import signal
import time
from pathlib import Path

from ldm.run.signals import PREEMPTED, StopFlag


def act(folder: str) -> int:
    """Does what `folder`/`rank` says: ends with a number, raises, is killed, stays or waits for a signal."""
    rank = os.environ["RANK"]
    Path(folder, f"begun-{rank}").write_text(" ".join(os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK")))
    task = Path(folder, rank).read_text()
    if task == "raise":
        raise ValueError("a cosmic ray")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "stay":
        while True:  # until the agent ends it
            time.sleep(1)
    if task == "wait":
        stop = StopFlag()
        stop.install()
        Path(folder, f"listens-{rank}").touch()
        while not stop.raised:  # the agent ends it where the test has gone
            time.sleep(0.01)
        return PREEMPTED
    return int(task)
