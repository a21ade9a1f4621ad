from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from made_runs import make_run

from hf_difflm.runs import Journal, load_run, write_report
from hf_difflm.runs.comparing.seeds import seed_groups
from hf_difflm.runs.journal.schema import SampleRecord
from hf_difflm.runs.plots import kinds
from hf_difflm.runs.plots.gallery import draw_gallery
from hf_difflm.runs.plots.series import Drawing
from hf_difflm.runs.plots.style import save


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


FOREIGN_LOGS = Path(__file__).parents[2] / "fixtures" / "foreign_logs"


def test_what_another_trainer_logs_has_a_gallery_with_the_numbers_of_the_log(tmp_path, monkeypatch):
    run = load_run(FOREIGN_LOGS / "trl_sft_trainer_state.json")
    figures = []
    monkeypatch.setattr(kinds, "save", lambda figure, path: [figures.append(figure), save(figure, path)][1])
    page, _, others = write_report([run], tmp_path / "page.md")
    assert others.exists()
    assert f"## Other scalars\n\n![scalars by their names in the log]({others.name})" in page.read_text()
    panels = {axes.get_title(loc="left"): axes for axes in figures[-1].axes if axes.axison}
    assert panels.keys() == {"entropy", "mean_token_accuracy", "num_tokens"}
    training, evaluated = panels["entropy"].lines
    assert training.get_ydata().tolist() == run.column("entropy").tolist()
    assert evaluated.get_ydata().tolist() == [record.metrics["eval_entropy"] for record in run.evaluations]
    figures[-1].canvas.draw()
    assert all(axes.has_data() for axes in figures[-1].axes if axes.axison)


def test_what_has_no_room_in_the_gallery_is_named(tmp_path):
    names = [f"rewards/r{place:02d}" for place in range(14)]
    rows = [",".join(["step", "loss", *names]), *(",".join([str(step)] * 16) for step in (1, 2))]
    (tmp_path / "grpo.csv").write_text("\n".join(rows) + "\n")
    page, _, _ = write_report([load_run(tmp_path / "grpo.csv")], tmp_path / "page.md")
    assert "Also in the logs: rewards/r12, rewards/r13 (`hf-difflm plot RUN --metric NAME`)." in page.read_text()


def test_a_page_without_other_scalars_has_one_picture(write_run, tmp_path):
    assert len(write_report(_pair(write_run), tmp_path / "page.md")) == 2


def test_the_legend_of_a_gallery_covers_nothing(tmp_path):
    runs = [make_run(name, 20, objective=None, bound=None, columns={"kl": np.arange(20.0)}) for name in ("a", "b")]
    figure = draw_gallery(Drawing(runs, ["a", "b"], seed_groups(runs, ["a", "b"]), "", "step"), ["kl"])
    figure.canvas.draw()
    (box,) = [legend.get_window_extent() for legend in figure.legends]
    assert not any(box.overlaps(axes.xaxis.label.get_window_extent()) for axes in figure.axes)
