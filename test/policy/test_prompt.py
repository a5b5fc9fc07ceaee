"""The user message: placeholders, untrusted text, and the digest that a checkpoint is bound to."""

import pytest

from vlm_agent_ros.actions import SkillLanguage
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.policy.prompt import PromptTemplate

LANGUAGE = SkillLanguage(48)


def test_the_small_model_gets_the_short_text_that_it_was_trained_on():
    prompt = load_model_config('tiny_vlm').prompt
    assert prompt.render('pick up the red cube', 'open', LANGUAGE) == 'task: pick up the red cube\ngripper: open'


def test_the_default_explains_the_actions_and_keeps_the_braces_of_the_format():
    text = PromptTemplate().render('sort', 'closed', LANGUAGE)
    assert LANGUAGE.description in text and LANGUAGE.examples[0] in text
    assert '{"thoughts": "' in text and '{task}' not in text


@pytest.mark.parametrize(('word', 'meant'), [('tsk', 'task'), ('Task', 'task'), ('action', 'actions')])
def test_a_misspelt_placeholder_is_refused_because_the_model_would_never_be_told(word, meant):
    with pytest.raises(UserError, match=f'holds {{{word}}}, .* write {{{meant}}}, or {{ {word} }}'):
        PromptTemplate(f'task: {{{word}}}')
    text = PromptTemplate(f'{{task}} {{thoughts}} {{ {word} }} {{"{word}": 1}}').render('go', 'open', LANGUAGE)
    assert text == f'go {{thoughts}} {{ {word} }} {{"{word}": 1}}'


def test_a_task_cannot_break_out_of_its_line_or_use_placeholders():
    prompt = PromptTemplate('task: {task}\ngripper: {state}')
    text = prompt.render('a\nb\x00\u202ec {state} ' + 'x' * 500, 'open', LANGUAGE)
    assert text.startswith('task: a b c {state} xxx') and text.count('\n') == 1
    assert len(text) == len('task: \ngripper: open') + prompt.max_task_chars


def test_half_of_a_pair_of_characters_does_not_reach_the_tokenizer_which_takes_text_only():
    assert PromptTemplate('{task} {previous}').render('a\ud800b', 'open', LANGUAGE, 'c\udfff') == 'a b c'


def test_the_turn_before_is_told_on_one_line_and_cannot_use_placeholders():
    prompt = PromptTemplate('task: {task}\nbefore: {previous}')
    assert prompt.render('sort', '', LANGUAGE) == 'task: sort\nbefore: nothing'
    assert prompt.render('sort', '', LANGUAGE, 'red {task}\n held') == 'task: sort\nbefore: red {task} held'
    assert len(prompt.render('sort', '', LANGUAGE, 'x' * 5000)) < 500


def test_the_digest_changes_with_everything_that_matters():
    digests = {PromptTemplate(*values).digest() for values in (('a', 50), ('b', 50), ('a', 51))}
    assert len(digests) == 3


def test_another_memory_makes_the_message_that_would_have_been_rendered_with_it():
    prompt = PromptTemplate('(task) {task}\n{actions}\nbefore: {previous}.\n{state} {examples}', max_task_chars=50)
    said = prompt.render('sort (all) {previous}', 'open', LANGUAGE, 'before: red cube.')
    for memory in ('pick 03 04', '', 'two\nlines'):
        assert prompt.with_previous(said, memory) == prompt.render('sort (all) {previous}', 'open', LANGUAGE, memory)
    with pytest.raises(ValueError, match='none of the template'):
        prompt.with_previous('task: sort', 'pick 03 04')
    assert prompt.remembers and not PromptTemplate('{task}').remembers
    assert PromptTemplate('{task}').with_previous('sort', 'pick 03 04') == 'sort'


@pytest.mark.parametrize('template', ['{previous}\n{task}', '{task}\n{previous}', '  {task}\n{previous}\n',
                                      ' {task}\n{state}\n{previous}',
                                      '{previous}\n{state}\n{task} ', 'x {previous}\n'])
@pytest.mark.parametrize('task', ['', 'door'])
def test_a_message_that_was_stripped_gets_another_memory_too(template, task):
    prompt = PromptTemplate(template)
    for told in ('it is open', ''):
        said = prompt.render(task, '', LANGUAGE, told).strip()
        assert prompt.with_previous(said, 'right') == prompt.render(task, '', LANGUAGE, 'right').strip()
