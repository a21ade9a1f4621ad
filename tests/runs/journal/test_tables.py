from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_difflm.runs.journal.tables import duration, line_table, markdown_table, printable, shortened, text_table


@given(st.text())
def test_printable_text_holds_no_control_character_and_fits_into_utf8(text):
    shown = printable(text)
    assert all(char in "\n\t" or char.isprintable() for char in shown)
    assert shown.encode("utf-8").decode("utf-8") == shown


def test_an_escape_sequence_and_a_lone_surrogate_are_shown_and_not_sent():
    assert printable("\x1b[31mred\ud800") == "\\x1b[31mred\\ud800"


@given(
    st.lists(st.text("abc-", min_size=1, max_size=30), min_size=1, max_size=14, unique=True),
    st.integers(80, 200),
)
def test_a_table_of_any_number_of_runs_stays_inside_the_terminal(names, width):
    rows = [[name, "mdlm", "12,345", "1.2345 ± 0.0123", "nelbo"] for name in names]
    text = text_table(["run", "objective", "tokens seen", "nats/token ± se", "bound"], rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("1.2345 ± 0.0123") == len(names)


def test_long_paths_give_way_to_whole_numbers_in_an_80_column_list():
    rows = [["runs/" + "a" * 90, "interrupted", "1,234,567", "12.3456", "12.3456", "2026-11-21 09:34"]]
    text = line_table(["run", "status", "steps", "loss", "best nll", "started"], rows, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "1,234,567" in text
    assert "2026-11-21 09:34" in text
    assert "".join(text.split()).count("a") >= 90


def test_markup_is_no_markup_and_table_signs_are_escaped():
    assert "[red]x" in line_table(["run"], [["[red]x"]], 80)
    assert markdown_table(["a", "b"], [["x|y", "<b>\nz"]]).splitlines()[-1] == "| x\\|y | &lt;b> z |"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.25, "250 ms"),
        (12.34, "12.3 s"),
        (245, "4 min 05 s"),
        (11_220, "3 h 07 min"),
        (183_600, "2 d 03 h"),
    ],
)
def test_durations_are_in_the_unit_that_suits(seconds, text):
    assert duration(seconds) == text


def test_a_value_is_shortened_to_one_line():
    assert shortened("a\nb") == "a b"
    assert shortened(None) == "not set"
    assert len(shortened("x" * 100)) == 60
