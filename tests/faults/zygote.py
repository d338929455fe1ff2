"""Processes by the hundred: one that has imported everything forks a child for each job, in milliseconds.

    python -m tests.faults.zygote        reads jobs as lines of JSON, writes how they ended

A job is a function of tests/faults/jobs.py with plain arguments. It runs in a session of its own, so that a signal can be
sent to it alone or to its whole group, data workers included; what it says goes to a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Job:
    """A forked process."""

    def __init__(self, pid: int, log: Path, ended: dict[int, int], news: threading.Condition):
        self.pid, self.log, self._ended, self._news = pid, log, ended, news

    @property
    def running(self) -> bool:
        return self.pid not in self._ended

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code, negative for a signal; TimeoutError after so many seconds, the job killed."""
        with self._news:
            if not self._news.wait_for(lambda: not self.running, seconds):
                self.send(signal.SIGKILL, group=True)
                raise TimeoutError(f"still running after {seconds:.0f} s; it said:\n{self.said()[-2000:]}")
        return self._ended[self.pid]

    def send(self, number: int, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Zygote:
    """`with Zygote(folder) as zygote: zygote.start("train", config).wait()`"""

    def __init__(self, folder: Path):
        self.folder, self._count = folder, 0
        self._ended: dict[int, int] = {}
        self._news = threading.Condition()
        self._born: list[int] = []

    def __enter__(self) -> Zygote:
        environment = {key: value for key, value in os.environ.items() if key != "LOCAL_RANK"}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
        # CPython takes a short write of a .pyc, as on a full disk, for a whole one.
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "tests.faults.zygote"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self.start("nothing").wait()  # the imports are done
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(30)

    def start(self, job: str, *arguments: Any, environment: dict[str, str] | None = None) -> Job:
        self._count += 1
        log = self.folder / f"job-{self._count}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        order = {"job": job, "arguments": arguments, "environment": environment or {}, "log": str(log)}
        with self._news:
            before = len(self._born)
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            if not self._news.wait_for(lambda: len(self._born) > before, 120):
                raise TimeoutError("the zygote does not answer")
            return Job(self._born[-1], log, self._ended, self._news)

    def _listen(self) -> None:
        for line in self._process.stdout:
            with self._news:
                pid, code = json.loads(line)
                if code is None:
                    self._born.append(pid)
                else:
                    self._ended[pid] = code
                self._news.notify_all()


def _live(order: dict[str, Any]) -> None:
    """What a child does; never returns."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environment"])
    code = 1
    try:
        from tests.faults import jobs

        code = getattr(jobs, order["job"])(*order["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _serve() -> None:
    from tests.faults import jobs  # noqa: F401  everything is imported before the first fork

    def tell(pid: int, code: int | None) -> None:
        print(json.dumps([pid, code]), flush=True)

    waiting, children = "", 0
    while True:
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            children -= 1
            tell(pid, os.waitstatus_to_exitcode(status))
        if not select.select([0], [], [], 0.01 if children else 0.2)[0]:
            continue
        read = os.read(0, 1 << 20).decode()
        if not read:
            return
        waiting += read
        while "\n" in waiting:
            line, _, waiting = waiting.partition("\n")
            pid = os.fork()
            if pid == 0:
                _live(json.loads(line))
            children += 1
            tell(pid, None)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _serve()
