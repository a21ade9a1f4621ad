"""The process that draws: what it draws when, that it is light, and that it never outlives the one that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_runs import make_run, write_run

from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.dashboard.drawer import Drawer
from hf_difflm.runs.dashboard.figure import draw_dashboard, up_to
from hf_difflm.runs.dashboard.files import pictures
from hf_difflm.runs.journal.schema import EventRecord, StepRecord

ROOT = Path(__file__).parents[3]
PATIENCE = 300.0  # seconds; the machine may be busy


def wait_until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not {what} within {PATIENCE:.0f} s")
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(journal, folder)`` starts the process as a child of this one."""
    started = []

    def call(*arguments: str | Path, parent: int | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hf_difflm.runs.dashboard.process", *map(str, arguments)]
        # Not niced: beside other tests it would wait for minutes.
        command += ["--parent", str(os.getpid() if parent is None else parent), "--nice", "0"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def test_it_draws_what_it_is_asked_for_and_accounts_for_it(tmp_path, start):
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    process = start(journal, tmp_path / "out")
    process.stdin.write("10\n")
    process.stdin.flush()
    wait_until(lambda: (tmp_path / "out" / "text_samples.json").exists(), "drawn")
    out, err = process.communicate("end\n", timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    account = json.loads(out)
    assert (account["pictures"], account["problem"]) == (2, None)
    assert 0.1 < account["cpu_seconds"] < PATIENCE
    assert list(pictures(tmp_path / "out")) in ([10, 20], [20, 10])
    expected = draw_dashboard(up_to(load_run(journal), 10), tmp_path / "expected.png").read_bytes()
    assert (tmp_path / "out" / "training_step_000010.png").read_bytes() == expected
    assert len(json.loads((tmp_path / "out" / "metrics_history.json").read_text())) == 20


def test_of_several_requests_the_newest_is_drawn_first_and_the_others_at_the_end(tmp_path, start):
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    out, _ = start(journal, tmp_path / "out").communicate("5\n10\n15\nend\n", timeout=PATIENCE)
    assert json.loads(out)["pictures"] == 4
    drawn = pictures(tmp_path / "out")
    assert sorted(drawn) == [5, 10, 15, 20]
    latest = (tmp_path / "out" / "training_latest.png").read_bytes()
    assert latest == drawn[20].read_bytes()
    assert len({path.read_bytes() for path in drawn.values()}) == 4
    expected = draw_dashboard(up_to(load_run(journal), 10), tmp_path / "expected.png").read_bytes()
    assert drawn[10].read_bytes() == expected


def test_of_more_than_200_pictures_late_ones_are_not_drawn(tmp_path, start):
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    asked = "".join(f"{step}\n" for step in range(1, 203))
    out, _ = start(journal, tmp_path / "out").communicate(f"{asked}end\n", timeout=PATIENCE)
    assert json.loads(out)["pictures"] == 1
    assert list(pictures(tmp_path / "out")) == [20]


def test_what_was_drawn_late_says_what_was_known_then(tmp_path):
    run = up_to(load_run(write_run(tmp_path / "run")), 10)
    assert (run.status, run.death, run.last_step) == ("running", None, 10)


def test_it_waits_for_the_end_of_the_journal_where_it_is_told_to(tmp_path, start):
    journal = write_run(tmp_path / "run", ending="") / "journal.jsonl"
    process = start(journal, tmp_path / "out")
    process.stdin.write("end wait\n")
    process.stdin.flush()
    writer = Journal(journal)
    writer.append(StepRecord(iter=21, loss=1.0))
    writer.append(EventRecord(event="completed", iter=21))
    writer.close()
    assert process.wait(PATIENCE) == 0
    drawn = (tmp_path / "out" / "training_latest.png").read_bytes()
    assert drawn == draw_dashboard(load_run(journal), tmp_path / "expected.png").read_bytes()


def test_it_imports_no_torch_and_lets_others_go_first(tmp_path):
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    code = f"""
        import io, os, sys
        from hf_difflm.runs.dashboard import process as dashboard_process
        asked = []
        def requests(parent, passed):
            asked.append(os.getpriority(os.PRIO_PROCESS, 0))
            yield "5"
        dashboard_process.requests = requests
        dashboard_process.main([{str(journal)!r}, {str(tmp_path / "out")!r}, "--parent", str(os.getppid())])
        heavy = {{"torch", "transformers", "datasets", "pandas", "pyarrow", "matplotlib.pyplot"}}
        print(asked, sorted(heavy & set(sys.modules)))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    out = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert out.stdout.splitlines()[-1] == "[19] []", out.stderr


def test_it_ends_at_once_where_its_parent_is_gone_already(tmp_path, start):
    process = start(tmp_path / "journal.jsonl", tmp_path / "out", parent=1)
    assert process.wait(PATIENCE) == 0
    assert not (tmp_path / "out").exists()


def test_it_ends_when_nobody_can_ask_any_more(tmp_path, start):
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    process = start(journal, tmp_path / "out")
    process.stdin.close()
    assert process.wait(PATIENCE) == 0
    process.stdin = None
    assert not (tmp_path / "out").exists()


# A training that starts the process and a worker, which inherits the pipe as a forked data loader worker does.
PARENT = """
import os, sys, time
from pathlib import Path
from hf_difflm.callbacks.recording.drawing_process import DrawingProcess
process = DrawingProcess(Path(sys.argv[1]), Path(sys.argv[2]), 0, 5)
worker = os.fork()
if worker == 0:
    time.sleep(600)
    os._exit(0)
print(process._process.pid, worker, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_a_killed_training_leaves_no_drawing_process_though_a_worker_holds_the_pipe(tmp_path):
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    command = [sys.executable, "-c", PARENT, str(journal), str(tmp_path / "out")]
    parent = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    drawing, worker = map(int, parent.stdout.readline().split())
    try:
        assert alive(drawing)
        assert alive(worker)
        parent.kill()
        parent.wait()
        wait_until(lambda: not alive(drawing), "ended")
        assert alive(worker)  # it held the pipe open all the time
    finally:
        os.kill(worker, signal.SIGKILL)
        parent.stdout.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_it_looks_for_its_parent_where_no_signal_tells_of_its_death(tmp_path):
    """The same without the signal: a worker holds the pipe, and only the parent's number tells."""
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    pid_file = tmp_path / "pid"
    code = textwrap.dedent(
        f"""
        import os, subprocess, sys, time
        child = "from hf_difflm.runs.derived import beside; from hf_difflm.runs.dashboard import process as p; "
        child += "beside.end_with = lambda *_: None; p.main(sys.argv[1:])"
        arguments = [{str(journal)!r}, {str(tmp_path / "out")!r}, "--parent", str(os.getpid()), "--nice", "0"]
        command = [sys.executable, "-c", "import sys; " + child, *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        open({str(pid_file)!r}, "w").write(str(process.pid) + "\\n")
        time.sleep(600)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), "started")
        drawing = int(pid_file.read_text())
        assert alive(drawing)
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        wait_until(lambda: not alive(drawing), "ended")
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # the worker


def test_a_problem_is_kept_and_the_next_drawing_tries_again(tmp_path):
    drawer = Drawer(tmp_path / "run" / "journal.jsonl", tmp_path / "out", 0)
    assert drawer.draw(5) is None
    problem = json.loads(drawer.account())["problem"]
    assert "cannot be read" in problem
    write_run(tmp_path / "run")
    assert drawer.draw(5) == tmp_path / "out" / "training_latest.png"


def test_a_new_training_removes_the_pictures_of_the_one_before_and_a_resumed_one_those_beyond(tmp_path):
    journal = write_run(tmp_path / "run") / "journal.jsonl"
    for step in (5, 10, 15, 20):
        draw_dashboard(make_run("old", step), tmp_path / "out" / f"training_step_{step:06d}.png")
    Drawer(journal, tmp_path / "out", 10).draw(12)
    assert sorted(pictures(tmp_path / "out")) == [5, 10, 12]
    Drawer(journal, tmp_path / "out").draw(8)
    assert sorted(pictures(tmp_path / "out")) == [5, 8, 10, 12]


def test_each_drawing_has_what_came_since_the_last(tmp_path):
    journal = write_run(tmp_path / "run", ending="") / "journal.jsonl"
    drawer = Drawer(journal, tmp_path / "out", 0)
    drawer.draw(20)
    writer = Journal(journal)
    for step in range(21, 41):
        writer.append(StepRecord(iter=step, loss=1.0))
    writer.close()
    drawer.draw()
    assert sorted(pictures(tmp_path / "out")) == [20, 40]
    drawn = (tmp_path / "out" / "training_latest.png").read_bytes()
    assert drawn == draw_dashboard(load_run(journal), tmp_path / "expected.png").read_bytes()


def test_only_a_process_in_a_session_of_its_own_makes_its_session_nice():
    group = Path("/proc/self/autogroup")
    if not group.exists():
        pytest.skip("this system weighs no sessions")
    before = group.read_text()
    child = (
        "from hf_difflm.runs.derived.beside import step_back; step_back(7); print(open('/proc/self/autogroup').read())"
    )
    for own in (False, True):
        said = subprocess.run(
            [sys.executable, "-c", child], capture_output=True, text=True, check=True, start_new_session=own
        )
        assert said.stdout.strip().endswith("nice 7") == own
    assert group.read_text() == before
