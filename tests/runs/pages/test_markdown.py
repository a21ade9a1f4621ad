from __future__ import annotations

import re
from pathlib import Path

from hf_difflm.runs import Journal, load_run, write_report
from hf_difflm.runs.journal.schema import SampleRecord


def _pair(write_run):
    command = "hf-difflm compare --recipe demo --output-dir /home/somebody/out --dataset=/data/my.txt"
    first = write_run("mine", objective="mdlm", bound="nelbo", config={"seed": 1}, metadata={"command": command})
    second = write_run("twin", objective="ar", bound="exact", config={"seed": 2}, metadata={"command": command})
    return [first, second]


def test_the_page_has_table_fairness_picture_history_samples_and_commands(write_run, tmp_path):
    runs = _pair(write_run)
    page, picture = write_report(runs, tmp_path / "docs" / "results.md")
    text = page.read_text()
    assert picture.exists()
    assert f"]({picture.name})" in text
    assert "seed: 1 / 2" in text
    assert "do not edit" in text
    assert "hf-difflm report" in text
    for record in runs[0].evaluations:
        assert f"{record.nll:.4f} ± 0.0100" in text
    assert "text at 20" in text
    assert "text at 10" not in text
    assert text.count("hf-difflm compare --recipe demo --output-dir out --dataset=my.txt") == 1


def test_no_absolute_path_gets_into_the_page(write_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = _pair(write_run)
    page, _ = write_report(runs, Path("results.md"))
    text = page.read_text()
    assert str(tmp_path) not in text
    assert "hf-difflm report mine twin --output results.md" in text
    assert not re.search(r"(^|[\s=\"'(])/\w", text, flags=re.MULTILINE)
    page, _ = write_report(runs, tmp_path / "again.md", command=f"python {tmp_path}/make.py '/etc/x y'")
    assert "python make.py" in page.read_text()
    assert "/etc" not in page.read_text()


def test_no_sample_breaks_out_of_its_block(write_run, tmp_path):
    run = write_run("a")
    journal = Journal(run.path)
    journal.append(SampleRecord(iter=20, prompt="", text="```\n# heading\n````\n\x1b[31mred\x00 " + "x" * 5000))
    journal.close()
    text = write_report([load_run(run.path)], tmp_path / "page.md")[0].read_text()
    fence = re.search(r"^(`{3,})text\n```\n# heading", text, flags=re.MULTILINE)
    assert fence is not None
    assert len(fence.group(1)) == 5
    assert "\x1b" not in text
    assert "\x00" not in text
    assert len(text) < 8000


def test_a_run_that_has_only_begun_has_a_page(write_run, tmp_path):
    page, _ = write_report([write_run("bare", steps=0, ending="")], tmp_path / "page.md")
    assert "No evaluation was logged." in page.read_text()
    assert "The logs do not say." in page.read_text()
