"""The text that a policy writes: ``{"thoughts": "…", "action": "…"}``, its grammar and its parser."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ..actions import ActionError, ActionLanguage

SCAFFOLD = ('{"thoughts": "', '", "action": "', '"}')
"""The fixed parts of an output, before, between and after the two texts."""

THOUGHT_CHARACTER = r'[ !#-\[\]-~]'
"""What the grammar lets a thought consist of: printable ASCII without quote and backslash."""

_STRING = r'"((?:[^"\\]|\\.)*)"'
_THOUGHTS = re.compile(r'"thoughts"\s*:\s*' + _STRING, re.DOTALL)
_ACTION = re.compile(r'"action"\s*:\s*' + _STRING, re.DOTALL)
_NOT_IN_THOUGHT = re.compile(r'["\\\x00-\x1f\x7f]')


@dataclass(frozen=True)
class ParsedOutput:
    """What an output says.

    Attributes:
        text: The output as text; bytes that are not UTF-8 show as U+FFFD.
        thought: The chain of thought; empty if there is none.
        action: The action text; empty if there is none.
        legal: The output is JSON that holds both texts, as they were found, and the action belongs to the language.
        thought_span: First and one past the last *byte* of the thought in the output.
    """

    text: str
    thought: str
    action: str
    legal: bool
    thought_span: tuple[int, int]


def format_output(thought: str, action: str) -> str:
    """The output that says this thought and this action.

    Raises:
        ValueError: A text holds a quote, a backslash or a control character, which the grammar does not allow.
    """
    for text in (thought, action):
        if _NOT_IN_THOUGHT.search(text):
            raise ValueError(f'{text!r} holds a quote, a backslash or a control character')
    return SCAFFOLD[0] + thought + SCAFFOLD[1] + action + SCAFFOLD[2]


def output_regex(language: ActionLanguage, max_thought_chars: int) -> str:
    """Regular expression (Rust syntax) of every legal output: the thought is bounded printable text without escapes."""
    opening, middle, closing = (re.escape(part) for part in SCAFFOLD)
    return rf'{opening}{THOUGHT_CHARACTER}{{0,{max_thought_chars}}}{middle}({language.regex}){closing}'


def parse_output(data: bytes, language: ActionLanguage) -> ParsedOutput:
    """Read an output, however malformed.

    The thought and the action are looked up by their keys, so that an unconstrained output with text around the JSON
    still shows what was meant; it counts as legal only if the whole of it is valid.

    Args:
        data: The output's bytes, without the end-of-sequence token.
        language: Decides whether the action is legal.
    """
    text = data.decode('utf-8', errors='surrogateescape')
    thought, action = _THOUGHTS.search(text), _ACTION.search(text)
    span = (0, 0)
    if thought:
        start = len(text[: thought.start(1)].encode('utf-8', errors='surrogateescape'))
        span = (start, start + len(thought[1].encode('utf-8', errors='surrogateescape')))
    thought_text, action_text = (_unescape(found[1]) if found else '' for found in (thought, action))
    return ParsedOutput(
        text=data.decode('utf-8', errors='replace'),
        thought=thought_text,
        action=action_text,
        legal=_holds(data, {'thoughts': thought_text, 'action': action_text}) and _is_action(action_text, language),
        thought_span=span,
    )


def _holds(data: bytes, texts: dict[str, str]) -> bool:
    """Whether an output is JSON with these texts, and not with others while these stand at another place in it."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and all(content.get(key) == text for key, text in texts.items())


def _is_action(text: str, language: ActionLanguage) -> bool:
    try:
        language.parse(text)
    except ActionError:
        return False
    return True


def _unescape(text: str) -> str:
    """JSON escapes resolved; what is no text (other bytes than UTF-8, halves of pairs) and broken escapes are shown."""
    text = text.encode('utf-8', errors='surrogateescape').decode('utf-8', errors='replace')
    try:
        unescaped = str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text
    return unescaped.encode('utf-16', errors='surrogatepass').decode('utf-16', errors='replace')
