"""Conversations that are text already, with the markers of a chat template in it: where its answers begin and end."""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .messages import ASSISTANT, USER

TEXT = "text"
_ASKED, _ANSWERED, _AGAIN, _LAST = "Qone", "Aone", "Qtwo", "Atwo"


@dataclass(frozen=True)
class Markers:
    """What a chat template writes around an answer.

    Attributes:
        answer: before it, which is what it writes to have one generated, or where it writes nothing for that, what stands
            between a question and its answer.
        ending: behind it, before whatever comes next; may be blank.
        question: what begins the turn of the user behind an answer; may be blank.
        eos: text of the EOS token.
    """

    answer: str
    ending: str
    question: str
    eos: str

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Markers | None:
        """Return the markers of a tokenizer's chat template; None where it writes none."""
        asked = [{"role": USER, "content": _ASKED}]
        told = [*asked, {"role": ASSISTANT, "content": _ANSWERED}]
        again = [*told, {"role": USER, "content": _AGAIN}, {"role": ASSISTANT, "content": _LAST}]
        try:
            whole = str(tokenizer.apply_chat_template(again, tokenize=False))
            opened = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
        except (TemplateError, ValueError, TypeError, KeyError):
            return None
        places = [whole.find(part) for part in (_ASKED, _ANSWERED, _AGAIN, _LAST)]
        if -1 in places or places != sorted(places):
            return None
        asked_at, answered_at, again_at, last_at = places
        before = whole[asked_at + len(_ASKED) : answered_at]
        between = whole[answered_at + len(_ANSWERED) : again_at]
        ending = whole[last_at + len(_LAST) :]
        generated = opened.rpartition(_ASKED)[2]
        answer = before.rstrip()
        if generated and before.startswith(generated):
            closed = str(tokenizer.apply_chat_template(asked, tokenize=False)).rpartition(_ASKED)[2]
            answer = generated[len(closed) :] if generated.startswith(closed) and generated != closed else generated
        if not answer.strip():
            return None
        return cls(answer, ending, between.removeprefix(ending), str(tokenizer.eos_token))

    def answers(self, text: str, where: str = "a conversation") -> list[tuple[int, int]]:
        """Return where the answers of a text begin, behind their marker, and where they end, with their ending.

        Raises:
            UserError: there is none, or something else comes behind the last.
        """
        found: list[tuple[int, int]] = []
        place = 0
        while (start := text.find(self.answer, place)) >= 0:
            begin = start + len(self.answer)
            place = self._end(text, begin)
            found.append((begin, place))
        if not found:
            raise UserError(
                f"the text of {where} holds no {self.answer!r}, with which the tokenizer's chat template begins an answer; "
                "give messages, or a tokenizer whose template writes the markers that the text has"
            )
        rest = text[found[-1][1] :].replace(self.eos, "").strip()
        if rest:
            raise UserError(
                f"the text of {where} ends with {rest[:40]!r} and not with an answer, so there is none to learn; end it with "
                "one, or remove it"
            )
        return found

    def content(self, answer: str) -> str:
        """Return an answer without its ending."""
        return answer.strip().removesuffix(self.ending.strip()).strip() if self.ending.strip() else answer.strip()

    def _end(self, text: str, begin: int) -> int:
        """Where an answer ends that begins there: with its ending, else before the next question, else with the text."""
        mark, question = self.ending.strip(), self.question.rstrip()
        at = text.find(mark, begin) if mark else -1
        asked = text.find(question, begin) if question else -1
        if at < 0 or 0 <= asked < at:
            return asked if asked >= 0 else len(text)
        end = at + len(mark)
        blank = self.ending[self.ending.index(mark) + len(mark) :]
        return end + len(blank) if text.startswith(blank, end) else end
