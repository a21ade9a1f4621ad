"""Read back what trackers have written: the offline file of W&B, TensorBoard's events, Trackio's database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

STEP = "train/global_step"


def wandb_offline(monkeypatch: Any, folder: Path) -> Iterator[Path]:
    """Let W&B write offline into a folder, whatever the tests before this one have let it do."""
    pytest.importorskip("wandb")
    end_wandb()
    values = {"WANDB_MODE": "offline", "WANDB_DIR": str(folder), "WANDB_SILENT": "true", "WANDB_PROJECT": "tried"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_ENTITY", "WANDB_NAME", "WANDB_SERVICE"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    end_wandb()


def end_wandb() -> None:
    """Finish the run, if one is open, and W&B's process: it has read the environment once and for all."""
    import wandb

    if wandb.run is not None:
        wandb.finish()
    wandb.teardown()


@dataclass
class WandbRun:
    """One run as W&B will upload it."""

    history: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    header: Any = None
    alerts: list[tuple[str, str]] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    files: Path = Path()

    def curve(self, name: str) -> list[tuple[int, Any]]:
        """Values of a metric with the optimiser step they are drawn at."""
        return [(row[STEP], row[name]) for row in self.history if name in row]

    def table(self, row: dict[str, Any], name: str) -> dict[str, Any]:
        return json.loads((self.files / row[f"{name}.path"]).read_text())


def read_wandb(folder: Path) -> WandbRun:
    """The one run below ``folder/wandb``; ends whatever W&B is doing."""
    from wandb.proto.wandb_internal_pb2 import Record

    end_wandb()  # the process writes the end of the file after ``finish`` has returned
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    run = WandbRun(files=path.parent / "files")
    for content in _leveldb_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(content)
        kind = record.WhichOneof("record_type")
        items = {_key(item): json.loads(item.value_json) for item in record.history.item}
        if items:
            run.history.append(items)
        if kind == "run":
            run.header = record.run
        if kind == "alert":
            run.alerts.append((record.alert.title, record.alert.text))
        if kind == "artifact" or (kind == "request" and record.request.HasField("log_artifact")):
            run.artifacts.append(record.artifact if kind == "artifact" else record.request.log_artifact.artifact)
        if kind == "metric":
            run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        for update in (record.run.config.update, record.config.update):
            run.config.update({_key(item): json.loads(item.value_json) for item in update})
        run.summary.update({_key(item): json.loads(item.value_json) for item in record.summary.update})
    return run


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, each piece after a CRC, its length and its kind."""
    place, parts = 7, []  # after the header of wandb
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield b"".join(parts)
            parts = []


def read_tensorboard(folder: Path) -> Any:
    """All events of one folder, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0})
    return events.Reload()


def texts(events: Any, tag: str) -> list[tuple[int, str]]:
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(f"{tag}/text_summary")]


def scalars(events: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def read_trackio(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The logged rows and the settings of the one project in Trackio's folder."""
    (path,) = folder.glob("*.db")
    with sqlite3.connect(path) as database:
        rows = [json.loads(row[0]) for row in database.execute("select metrics from metrics order by id")]
        configs = [json.loads(row[0]) for row in database.execute("select config from configs")]
    return rows, configs[0] if configs else {}
