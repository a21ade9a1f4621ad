"""Which rows go together: those of the oldest one's settings, nearest to it in length; who has gone goes with none."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from hf_difflm.evaluation.generation.holes import PromptIds
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.serving.api.growing_text import GrowingText
from hf_difflm.serving.api.refusals import Refusal
from hf_difflm.serving.api.rows import MOST_WAITING, Box, Piece, Row
from hf_difflm.serving.api.waiting import WaitingRows


def row(length, seconds=60.0, **options):
    text = GrowingText(lambda ids: "", frozenset(), (), strip=False)
    asked = GenerationOptions(**options)
    return Row("", PromptIds([1] * length), asked, 4, 0, text, Box(lambda: None), time.monotonic() + seconds)


def waiting(*rows, most=100, window=10):
    queue = WaitingRows(most, lambda one, other: abs(one - other) <= window)
    for one in rows:
        queue.put([one])
    return queue


def lengths(rows):
    return [one.length for one in rows]


def test_the_oldest_goes_first_with_those_that_are_nearest_in_length():
    queue = waiting(row(20), row(100), row(25), row(12), row(21), row(30))
    assert lengths(queue.take(3)) == [20, 21, 25]
    assert lengths(queue.take(3)) == [100], "the oldest is not overtaken for ever"
    assert lengths(queue.take(3)) == [12]
    assert lengths(queue.take(3)) == [30]


def test_other_settings_go_apart_and_another_seed_does_not():
    queue = waiting(row(5, temperature=0.5), row(5), row(5, temperature=0.5, seed=3), row(5, infill=False))
    assert [one.options.temperature for one in queue.take(9)] == [0.5, 0.5]
    assert len(queue.take(9)) == 2
    longer = dataclasses.replace(row(5), new_tokens=7)
    assert longer.settings != row(5).settings


def test_who_has_gone_or_is_too_late_is_not_taken_and_takes_no_place():
    gone, late = row(5), row(5, seconds=-1)
    gone.gone = True
    queue = waiting(gone, late, row(6), most=3)
    assert len(queue) == 1
    queue.put([row(7), row(8)])
    with pytest.raises(Refusal, match="3 texts wait already"):
        queue.put([row(9)])
    assert lengths(queue.take(9)) == [6, 7, 8]


def test_the_rows_of_a_request_wait_together_or_not_at_all():
    queue = waiting(row(1), most=2)
    with pytest.raises(Refusal) as found:
        queue.put([row(2), row(3)])
    assert found.value.status == 429
    assert len(queue) == 1


def test_a_closed_queue_hands_out_what_it_has_and_then_nothing():
    queue = waiting(row(1))
    queue.close()
    with pytest.raises(Refusal) as found:
        queue.put([row(2)])
    assert found.value.status == 503
    assert [lengths(queue.take(9)), queue.take(9)] == [[1], []]


def test_a_thread_that_waits_is_woken():
    queue, found = waiting(), []
    thread = threading.Thread(target=lambda: found.extend(queue.take(1)))
    thread.start()
    one = row(1)
    queue.put([one])
    thread.join(timeout=30)
    assert found == [one]


def test_a_client_that_reads_slowly_costs_no_memory_and_loses_nothing():
    box = Box(lambda: None)
    for number in range(10 * MOST_WAITING):
        box.put(Piece(f"{number} ", draft=str(number)))
    box.put(Piece("end", reason="stop"))
    pieces = box.take()
    assert len(pieces) == MOST_WAITING + 1
    assert "".join(piece.delta for piece in pieces) == "".join(f"{n} " for n in range(10 * MOST_WAITING)) + "end"
    assert (pieces[-2].draft, pieces[-1].reason) == (str(10 * MOST_WAITING - 1), "stop")
