"""The output text: writing it, reading it back, and reading what is no proper output."""

from __future__ import annotations

import json
import re

import pytest

from vlm_agent_ros.actions import DiscreteLanguage, SkillLanguage
from vlm_agent_ros.policy.output import format_output, output_regex, parse_output

LANGUAGE = SkillLanguage(48)


def test_what_is_written_is_read_back():
    text = format_output('yellow cube at 35 42 , so pick 35 42', 'pick 35 42')
    assert json.loads(text) == {'thoughts': 'yellow cube at 35 42 , so pick 35 42', 'action': 'pick 35 42'}
    parsed = parse_output(text.encode(), LANGUAGE)
    assert parsed.legal and parsed.action == 'pick 35 42'
    first, last = parsed.thought_span
    assert text.encode()[first:last].decode() == parsed.thought == 'yellow cube at 35 42 , so pick 35 42'


@pytest.mark.parametrize('thought', ['say "no"', 'back\\slash', 'two\nlines'])
def test_a_thought_that_needs_escapes_is_refused(thought):
    with pytest.raises(ValueError, match='quote'):
        format_output(thought, 'done')


@pytest.mark.parametrize('text', [
    '', '{', 'pick 10 20', '{"thoughts": "x", "action": "fly"}', '{"thoughts": "x", "action": "pick 48 00"}',
    '{"thoughts": "x", "action": "pick 10 20"', '{"action": "pick 10 20"}', '{"thoughts": 1, "action": "pick 10 20"}',
    'ok {"thoughts": "x", "action": "pick 10 20"}', '["thoughts", "action"]', '[' * 100_000,
])
def test_what_is_no_output_of_the_language_is_illegal(text):
    assert not parse_output(text.encode(), LANGUAGE).legal


@pytest.mark.parametrize('text', [
    '{"thoughts": "x", "seen": {"action": "done"}, "action": "pick 10 20"}',
    '{"thoughts": "x", "action": "done", "action": "pick 10 20"}',
    '{"seen": {"thoughts": "y"}, "thoughts": "x", "action": "done"}',
])
def test_an_output_whose_json_says_something_else_than_what_is_found_first_is_illegal(text):
    assert not parse_output(text.encode(), LANGUAGE).legal


def test_half_of_a_pair_of_escapes_is_shown_as_no_text_and_a_whole_pair_as_its_character():
    parsed = parse_output(b'{"thoughts": "a \\ud83d b \\ud83d\\ude00", "action": "done"}', LANGUAGE)
    assert (parsed.thought, parsed.legal) == ('a \ufffd b \U0001f600', False)
    assert parse_output(b'{"thoughts": "\\ud83d\\ude00", "action": "done"}', LANGUAGE).legal


def test_a_malformed_output_still_shows_its_thought_and_action():
    parsed = parse_output(b'Sure! {"thoughts": "a \\"b\\"", "action": "pick 10 20"} done', LANGUAGE)
    assert (parsed.legal, parsed.thought, parsed.action) == (False, 'a "b"', 'pick 10 20')


def test_spans_count_bytes_also_where_they_are_no_utf_8():
    data = b'\xff {"thoughts": "\xe7\xab\x8b\xfe x", "action": "done"}'
    parsed = parse_output(data, LANGUAGE)
    first, last = parsed.thought_span
    assert data[first:last] == b'\xe7\xab\x8b\xfe x'
    assert not parsed.legal and parsed.thought == '立� x'


def test_the_grammar_is_that_of_the_language():
    pattern = re.compile(output_regex(DiscreteLanguage(['a.b', 'c']), 5))
    assert pattern.fullmatch(format_output('abcde', 'a.b'))
    for thought, action in (('abcdef', 'a.b'), ('x', 'axb'), ('x', '')):
        assert not pattern.fullmatch(format_output(thought, action))
