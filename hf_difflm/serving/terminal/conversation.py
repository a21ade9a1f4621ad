"""A conversation: its turns, and what of them the model gets with the next question."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...data.conversations.formats import SYSTEM
from ...data.conversations.messages import ASSISTANT, MESSAGES, USER, Messages
from ...data.text_ids import TextIds
from ...errors import UserError
from ...evaluation.generation.holes import PromptIds
from ...evaluation.generation.spoken_prompts import spoken_prompt


@dataclass(frozen=True)
class Turn:
    """What was asked, and what was answered."""

    question: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """A question with what came before it, as the model gets it.

    Attributes:
        prompt: the text that the chat template makes of it.
        encoded: its tokens.
        left_out: how many turns, the oldest, are not in it.
    """

    prompt: str
    encoded: PromptIds
    left_out: int


@dataclass
class Conversation:
    """Turns that are finished.

    Attributes:
        text: how text becomes ids for the model.
        limit: tokens of the context, prompt and answer together; None: any number.
        system: what stands before the first turn; None: nothing.
        turns: oldest first.
    """

    text: TextIds
    limit: int | None
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def messages(self, first: int = 0) -> Messages:
        """Return the system message and the turns from ``first`` on."""
        before = [] if self.system is None else [{"role": SYSTEM, "content": self.system}]
        pairs = [((USER, turn.question), (ASSISTANT, turn.answer)) for turn in self.turns[first:]]
        return before + [{"role": role, "content": said} for pair in pairs for role, said in pair]

    def ask(self, question: str, room: int) -> Asked:
        """Return a question after as many of the newest turns as fit, whole ones, and the system message.

        Args:
            question: what the user says.
            room: tokens that are left for the answer.

        Raises:
            UserError: it does not fit alone, or the chat template refuses the conversation.
        """
        encoded = PromptIds([])
        for first in range(len(self.turns) + 1):
            messages = [*self.messages(first), {"role": USER, "content": question}]
            prompt, encoded = spoken_prompt(self.text, {MESSAGES: messages})
            if self.limit is None or len(encoded.ids) + room <= self.limit:
                return Asked(prompt, encoded, first)
        what = "your message" if self.system is None else "your message with the system message"
        raise UserError(
            f"{what} is {len(encoded.ids):,} tokens as the model gets it, but the context has {self.limit:,}, {room:,} of "
            "them for the answer; shorten it, or make room with /length"
        )
