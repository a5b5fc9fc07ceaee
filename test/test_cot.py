"""The chain of thought survives rqt, and nothing in it can pass for markup or for a second line."""

from __future__ import annotations

import hashlib

from vlm_agent_ros.cot import LINE_LENGTH, MAX_LINES, CotReport, Origin, unescape


def report(**changes: object) -> CotReport:
    values = {'task': 'pick', 'thought': 'i see', 'action': 'pick 01 02', 'text': '{}', 'logprob': -1.0, 'value': 0.5,
              'latency_ms': 12.0, 'checkpoint': 'tiny', 'image_age_ms': 30.0, **changes}
    return CotReport(**values)  # type: ignore[arg-type]


def test_markup_is_escaped_everywhere() -> None:
    values = report(thought='<think> a & b', action='<b>', task='<img src=x>', checkpoint='<i>').values()
    assert values['thought.01'] == '&lt;think&gt; a &amp; b'
    assert not any(c in value for value in values.values() for c in '<>')
    assert unescape(values['action']) == '<b>'


def test_message_is_one_line_whatever_the_action_holds() -> None:
    assert report(action='pick\n\x1b[2J 01\r\n02').message() == 'pick [2J 01 02'
    assert report(action='').message() == 'no legal action'


def test_long_thought_is_wrapped_and_cut() -> None:
    values = report(thought='word ' * 5000).values()
    lines = [value for key, value in values.items() if key.startswith('thought.')]
    assert len(lines) == MAX_LINES
    assert all(len(line) <= LINE_LENGTH for line in lines)
    assert 'chain_of_thought' in lines[-1]


def test_lines_are_numbered_in_reading_order() -> None:
    values = report(thought='first line\nsecond line').values()
    assert (values['thought.01'], values['thought.02']) == ('first line', 'second line')


def test_refusal_is_shown_only_where_there_is_one() -> None:
    assert 'refusal' not in report().values()
    assert report(refusal='out of <reach>').values()['refusal'] == 'out of &lt;reach&gt;'


def test_what_a_decision_can_be_repeated_from_is_told_with_the_digest_of_its_text() -> None:
    origin = Origin(image_stamp_ns=5, state='open', previous='red cube held', temperature=0.7, seed=(3 << 32) + 1,
                    threads=2, prompt_sha256='a' * 64, checkpoint_sha256='b' * 64)
    values = report(origin=origin).values()
    assert (values['image_stamp_ns'], values['state'], values['temperature']) == ('5', 'open', '0.7')
    assert values['previous'] == 'red cube held'
    assert (values['seed'], values['threads']) == (str((3 << 32) + 1), '2')
    assert values['text_sha256'] == hashlib.sha256(b'{}').hexdigest()
    assert 'text_sha256' not in report().values()
