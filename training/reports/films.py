"""Episodes as rows of pictures: what the policy saw, thought and did in each turn."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..worlds.commands import Commander
from ..worlds.episodes import Episode


@dataclass(frozen=True)
class Frame:
    """One turn of a filmstrip.

    Attributes:
        png: The camera image, compressed: hundreds of episodes are kept until it is known which are shown.
        marker: Where the action points, as shares of width and height, or None.
        note: What came of it.
    """

    png: bytes
    thought: str
    action: str
    note: str
    marker: tuple[float, float] | None = None


@dataclass(frozen=True)
class Film:
    """An episode as a row of frames."""

    title: str
    success: bool
    frames: tuple[Frame, ...]


def encode_png(image: np.ndarray) -> bytes:
    """An image of (height, width, 3) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG', optimize=True)
    return buffer.getvalue()


def film_of(episode: Episode, commander: Commander) -> Film:
    """The turns of an episode, and the scene that they led to."""
    frames = []
    for turn in episode.turns:
        note = f'reward {turn.outcome.reward:+.2f}' if turn.outcome else ''
        if turn.command.rejection:
            note = f'{turn.command.rejection}: {turn.command.detail}; {note}'
        frames.append(Frame(encode_png(turn.input.image), turn.decision.thought, turn.decision.action, note,
                            commander.marker(turn.decision.action)))
    if episode.final is not None:
        frames.append(Frame(encode_png(episode.final.image), '', '', 'end of the episode'))
    return Film(f'{episode.instruction} (seed {episode.slot.request.seed})', episode.success, tuple(frames))


def choose_examples(examples: Sequence[Episode], count: int = 3) -> list[Episode]:
    """Successes and at least one failure, where there are both."""
    successes = [episode for episode in examples if episode.success]
    failures = [episode for episode in examples if not episode.success]
    kept = max(count - len(failures), min(len(successes), count - 1)) if failures else count
    return (successes[:kept] + failures)[:count]


def film_strips(films: Sequence[Film]) -> str:
    """HTML of the films, one below the other; every text in them is escaped."""
    strips = ''
    for film in films:
        verdict = 'success' if film.success else 'failure'
        strips += (f'<h3><span class="verdict {verdict}">{verdict}</span> {html.escape(film.title)}</h3>'
                   + frame_strip(film.frames))
    return strips


def frame_strip(frames: Sequence[Frame]) -> str:
    """HTML of frames side by side; every text in them is escaped."""
    return f'<div class="film">{"".join(map(_frame, frames))}</div>'


def _frame(frame: Frame) -> str:
    data = base64.b64encode(frame.png).decode('ascii')
    marker = ''
    if frame.marker:
        x, y = (f'{100 * share:.2f}%' for share in frame.marker)
        marker = f'<span class="marker" style="left:{x};top:{y}"></span>'
    thought = f'<blockquote>{html.escape(frame.thought)}</blockquote>' if frame.thought else ''
    action = f'<code>{html.escape(frame.action)}</code>' if frame.action else ''
    return (f'<div class="frame"><div class="picture"><img alt="camera image" src="data:image/png;base64,{data}"/>'
            f'{marker}</div>{thought}{action}<small>{html.escape(frame.note)}</small></div>')
