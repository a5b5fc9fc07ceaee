"""An action text means one command or is refused; the decoder's grammar and the parser agree."""

import itertools
import re

import pytest

from vlm_agent_ros.actions import ActionError, Discrete, DiscreteLanguage, Done, Pick, Place, Push, SkillLanguage, Stack


@pytest.mark.parametrize('text, command', [
    ('pick 07 35', Pick(7, 35)), ('place 00 47', Place(0, 47)), ('push 12 40 left', Push(12, 40, 'left')),
    ('stack 03 21', Stack(3, 21)), ('done', Done()),
])
def test_legal_texts_parse_to_their_command(text, command):
    assert SkillLanguage(48).parse(text) == command


@pytest.mark.parametrize('text', [
    '', 'pick', 'pick 7 35', 'pick 07 48', 'pick 48 07', 'pick 07 35 ', ' pick 07 35', 'pick 07 35 left',
    'push 07 35', 'push 07 35 north', 'place 07,35', 'Pick 07 35', 'done.', 'pick 07 35\n', 'pick ０7 35',
    'stack 07', 'stack 07 35 up', 'stack 07 48',
])
def test_everything_else_is_refused_with_a_reason(text):
    with pytest.raises(ActionError):
        SkillLanguage(48).parse(text)


@pytest.mark.parametrize('grid', [2, 9, 10, 11, 48, 50, 99, 100])
def test_grammar_matches_exactly_what_the_parser_accepts(grid):
    language = SkillLanguage(grid)
    for (skill, command), column in itertools.product((('pick', Pick), ('stack', Stack)), range(100)):
        text = f'{skill} {column:02d} 00'
        accepted = re.fullmatch(language.regex, text) is not None
        assert accepted == (column < grid)
        if accepted:
            assert language.parse(text) == command(column, 0)
        else:
            with pytest.raises(ActionError):
                language.parse(text)
    assert all(re.fullmatch(language.regex, example) for example in language.examples)


def test_discrete_language_returns_the_index_and_refuses_other_texts():
    language = DiscreteLanguage(['+', '-', 'spell a+b'])
    assert language.parse('spell a+b') == Discrete(2)
    assert re.fullmatch(language.regex, '+') and not re.fullmatch(language.regex, 'spell aab')
    with pytest.raises(ActionError):
        language.parse('spell')


@pytest.mark.parametrize('actions', [[], ['a', 'a'], ['a  b', 'a b'], ['caf\u00e9', 'cafe\u0301'], ['a '],
                                     ['say "x"'], ['a\nb'], ['']])
def test_ambiguous_or_unwritable_action_lists_are_refused(actions):
    with pytest.raises(ValueError):
        DiscreteLanguage(actions)


def test_digest_changes_with_the_language():
    assert SkillLanguage(48).digest() != SkillLanguage(32).digest()
    assert DiscreteLanguage(['a', 'b']).digest() != DiscreteLanguage(['b', 'a']).digest()
