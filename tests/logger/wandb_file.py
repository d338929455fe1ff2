"""What W&B wrote offline, read back. A file is a header of 7 bytes and LevelDB's log format (github.com/google/leveldb,
doc/log_format.md), each record a message of W&B's own protocol."""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

_HEADER, _BLOCK, _FULL, _LAST = 7, 32768, 1, 4


def _messages(data: bytes) -> Iterator[bytes]:
    at, whole = _HEADER, b""
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part = data[at + 7 : at + 7 + length]
        assert checksum == zlib.crc32(part, zlib.crc32(bytes([kind]))), "a damaged record"
        at, whole = at + 7 + length, whole + part
        if kind in (_FULL, _LAST):
            yield whole
            whole = b""


class Written:
    """What the offline runs below a folder say, in the order of their beginnings; W&B's service, which writes behind, is ended.

    Attributes:
        runs: the messages that began them.
        history: a row a call of `log`, without W&B's own fields.
        summary, config: the last values; nested keys of a config as mappings.
        axes: of which key each pattern of keys is drawn against.
        codes: with which each ended.
        preempted: how many said that they were.
    """

    def __init__(self, folder: Path):
        wandb.teardown()
        self.runs, self.history, self.codes = [], [], []
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.axes: dict[str, str] = {}
        self.preempted = 0
        for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
            for message in _messages(file.read_bytes()):
                record = Record.FromString(message)
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    self.runs.append(record.run)
                    self.config |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
                elif kind == "config":
                    self.config |= {each.key: json.loads(each.value_json) for each in record.config.update}
                elif kind == "history":
                    self.history.append(_row(record.history.item))
                elif kind == "summary":
                    self.summary |= _row(record.summary.update)
                elif kind == "metric" and record.metric.glob_name:
                    self.axes[record.metric.glob_name] = record.metric.step_metric
                elif kind == "exit":
                    self.codes.append(record.exit.exit_code)
                elif kind == "preempting":
                    self.preempted += 1


def _row(items: Any) -> dict[str, Any]:
    found = {".".join(each.nested_key) or each.key: json.loads(each.value_json) for each in items}
    return {key: value for key, value in found.items() if not key.startswith("_")}
