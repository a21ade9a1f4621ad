"""A chat from its first line to its last."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ...errors import UserError, did_you_mean
from ...evaluation.generation.options import GenerationOptions
from ...evaluation.targets import Target
from .answering import Answer, Answerer
from .conversation import Conversation, Turn
from .saving import save
from .screen import Screen
from .settings import NAMES, changed, room_for_answer, settings_of, with_length, with_sampler

HELP = {
    "/steps N": "most denoising steps of an answer",
    "/sampler NAME": "how masks are resolved; its parameters may follow as JSON",
    "/temperature T": "below 1 sharper, above 1 flatter, 0 the likeliest token",
    "/length N": "most tokens of an answer",
    "/top-k N, /top-p P": "draw from the likeliest tokens alone",
    "/seed N": "begin the random numbers anew",
    "/settings": "show what holds",
    "/undo": "take the last turn back",
    "/again": "another answer to the last message",
    "/reset": "forget all turns",
    "/save FILE": "write the conversation to a new file, as a line of JSON",
    "/help": "show this",
    "/quit": "end, as Ctrl-D does; Ctrl-C stops an answer",
    "//...": "a message that begins with a slash",
}
_ENDS = ("/quit", "/exit")


class Session:
    """Takes one line after the other: a message, which the model answers, or a command.

    Args:
        loaded: the model.
        conversation: its turns.
        options: of the first answer.
        answerer: makes the answers.
        screen: where they go.

    Attributes:
        refused: how many lines were refused with a sentence.
    """

    def __init__(
        self, loaded: Target, conversation: Conversation, options: GenerationOptions, answerer: Answerer, screen: Screen
    ) -> None:
        self._loaded, self._conversation, self._options = loaded, conversation, options
        self._answerer, self._screen = answerer, screen
        self._question: str | None = None  # the last one, answered or not
        self._left_out = 0
        self.refused = 0
        self._commands: dict[str, Callable[[str], Any]] = {
            "sampler": self._sampler,
            "settings": self._settings,
            "undo": self._undo,
            "again": self._again,
            "reset": self._reset,
            "save": self._save,
            "help": self._help,
        }

    def take(self, line: str) -> bool:
        """Take a line; returns whether the chat goes on."""
        line = line.strip()
        word, _, rest = line[1:].partition(" ")
        try:
            if line.startswith("//"):
                self._ask(line[1:])
            elif line in _ENDS:
                return False
            elif line.startswith("/"):
                self._command(word, rest.strip())
            elif line:
                self._ask(line)
        except UserError as error:
            self.refused += 1
            self._screen.refuse(str(error))
        return True

    def _command(self, word: str, value: str) -> None:
        if word in NAMES:
            self._options = changed(self._options, word, value, self._loaded.is_denoiser)
            if word == "seed":
                self._answerer.drawn = 0
            self._screen.note(f"{word}: {_shown(settings_of(self._loaded, self._options)[NAMES[word]])}")
        elif value and (word in self._commands or f"/{word}" in _ENDS) and word not in ("sampler", "save"):
            raise UserError(f"/{word} stands alone, but {value!r} follows it; leave that out")
        elif word in self._commands:
            self._commands[word](value)
        else:
            hint = did_you_mean(f"/{word}", words()) or "; /help lists them"
            raise UserError(f"/{word} is no command{hint} (//{word} says it to the model)")

    def _ask(self, question: str) -> None:
        self._question = question
        limit = self._conversation.limit
        room = room_for_answer(self._loaded, self._options, limit)
        asked = self._conversation.ask(question, room)
        if asked.left_out > self._left_out:
            turns = "turn is" if asked.left_out == 1 else f"{asked.left_out} turns are"
            self._screen.note(
                f"the oldest {turns} left out from here on: the context has {limit:,} tokens, "
                f"{room:,} of them for the answer"
            )
        self._left_out = asked.left_out
        options = with_length(self._loaded, self._options, limit, len(asked.encoded.ids))
        try:
            answer = self._answerer(asked, options)
        except KeyboardInterrupt:
            if not self._screen.is_terminal:
                raise
            self._screen.note("stopped: neither your message nor what was written is kept; /again asks anew")
            return
        self._screen.answer(answer.text)
        if self._screen.is_terminal:
            self._screen.note(f"    [{_facts(answer, limit)}]")
        if answer.text:
            self._conversation.turns.append(Turn(question, answer.text))
        else:
            self._screen.note("the answer is empty, so this turn is not kept; /again asks anew")

    def _sampler(self, value: str) -> None:
        self._options = with_sampler(self._options, value, self._loaded.is_denoiser)
        holds = settings_of(self._loaded, self._options)
        self._screen.note(f"sampler: {holds['sampler']} {_shown(holds['sampler_config'])}".removesuffix(" none"))

    def _settings(self, _: str) -> None:
        short = {name: word for word, name in NAMES.items()}
        holds = {short.get(name, name): value for name, value in settings_of(self._loaded, self._options).items()}
        if holds["length"] is None:
            holds["length"] = "what is left of the context"
        holds |= {"context": self._conversation.limit, "system": self._conversation.system}
        width = max(map(len, holds))
        self._screen.note("\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in holds.items()))

    def _undo(self, _: str) -> None:
        if not self._conversation.turns:
            raise UserError("there is no turn to take back; say something first")
        turn = self._conversation.turns.pop()
        self._left_out = 0
        self._screen.note(f"taken back: {turn.question!r:.60}, and its answer; {_count(self._conversation)}")

    def _again(self, _: str) -> None:
        if self._question is None:
            raise UserError("there is no message to answer again; say something first")
        turns = self._conversation.turns
        before = list(turns)
        if turns and turns[-1].question == self._question:
            turns.pop()
        count = len(turns)
        try:
            self._ask(self._question)
        finally:
            if len(turns) == count:  # no new answer: the old one stays
                turns[:] = before

    def _reset(self, _: str) -> None:
        self._conversation.turns.clear()
        self._question, self._left_out, self._answerer.drawn = None, 0, 0
        self._screen.note("all turns are forgotten")

    def _save(self, value: str) -> None:
        file = save(self._conversation, value)
        self._screen.note(f"saved {_count(self._conversation)} to {file}")

    def _help(self, _: str) -> None:
        width = max(map(len, HELP))
        self._screen.note("\n".join(f"{name:<{width}}  {what}" for name, what in HELP.items()))


def words() -> list[str]:
    """Return the commands, as they are typed."""
    return [part.split()[0] for names in HELP for part in names.split(", ") if not part.startswith("//")]


def _facts(answer: Answer, limit: int | None) -> str:
    parts = [f"{answer.tokens:,} tokens"]
    if answer.drafts is not None:
        parts[0] += f" in {answer.drafts:,} drafts"
    parts.append(f"{answer.seconds:.1f} s")
    read = f"prompt {answer.prompt_tokens:,}"
    parts.append(read if limit is None else f"{read} of {limit:,}")
    if answer.reused:
        parts.append(f"{answer.reused:,} of it read before")
    return ", ".join(parts)


def _count(conversation: Conversation) -> str:
    count = len(conversation.turns)
    return f"{count} {'turn' if count == 1 else 'turns'}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps(value)  # as it is typed
    return "none" if value is None else str(value)
