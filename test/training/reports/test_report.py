"""The report is one well-formed page that needs nothing else and runs nothing that a model wrote."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from training.reports.charts import Chart, Level, Series, Whisker, ticks, whiskers
from training.reports.films import Film, Frame, choose_examples, encode_png
from training.reports.report import render_report

EVIL = '<script>alert("1")</script> & <img src=x onerror=alert(1)>'
VOID = {'meta', 'img', 'br', 'line', 'rect', 'polyline'}


class Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.outside = [], set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.outside += [v for k, v in attributes if k in ('src', 'href') and not v.startswith('data:')]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page():
    result = {'success': 0.6, 'n': 200, 'ci95': [0.53, 0.67], 'world': EVIL, 'return': 0.5, 'kpi/progress': 0.2}
    summary = {
        'run_name': EVIL, 'transport': 'ros', 'task': EVIL, 'world': 'shifted', 'worlds': 8, 'decisions': 512,
        'wall_s': 61.0, 'before': result, 'after': {**result, 'success': 0.9}, 'own_cell': None,
        'config': {'task': EVIL}, 'versions': {'torch': '2'}, 'stopped': EVIL}
    rows = [{'decisions_total': 100 * i, 'success': i / 10, 'return': float(i), 'entropy': float('nan')}
            for i in range(10)]
    image = encode_png(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    films = [Film(EVIL, False, (Frame(image, EVIL, EVIL, EVIL, (0.5, 0.25)), Frame(image, '', '', 'end')))]
    return render_report(summary, rows, films)


def test_the_page_is_well_formed_and_refers_to_nothing_outside(page):
    parser = Balanced()
    parser.feed(page)
    parser.close()
    assert parser.open == [] and parser.outside == []
    assert {'svg', 'table', 'img'} <= parser.tags
    assert 'http' not in re.sub(r'base64,[^"]*', '', page)


def test_what_a_model_or_a_user_wrote_is_escaped(page):
    assert '<script' not in page and 'onerror=alert(1)>' not in page
    assert page.count('&lt;script&gt;') >= 6


def test_figures_without_numbers_are_left_out(page):
    assert 'entropy per token' not in page and 'return per episode' in page


def test_a_run_without_evaluations_or_updates_still_gives_a_page():
    summary = {'run_name': 'x', 'transport': 'ros', 'task': 'place', 'world': 'w', 'worlds': 1, 'decisions': 0,
               'wall_s': 1.0, 'before': None, 'after': None, 'own_cell': None}
    assert '<h1>x</h1>' in render_report(summary, [], [])


def test_a_chart_of_equal_values_is_drawn():
    assert '<polyline' in Chart('flat', [Series([0, 1, 2], [0.5, 0.5, 0.5])]).svg()


def test_a_share_that_stays_at_zero_has_no_axis_below_it():
    assert '>-0.' not in Chart('none', [Series([0, 1], [0.0, 0.0])]).svg()
    assert '>-1.5<' in Chart('loss', [Series([0, 1], [-1.0, -1.0])]).svg()


def test_a_band_is_drawn_around_its_curve_and_a_curve_without_numbers_is_left_out():
    band = Series([0, 1], [0.5, 0.5], ([0.0, 0.25], [1.0, 0.75]), 'series c0')
    svg = Chart('band', [band, Series([0, 1], [float('nan')] * 2)], span=(0.0, 1.0)).svg()
    assert svg.count('<polyline') == 1
    assert 'points="46.0,190.0 408.0,145.5 408.0,56.5 46.0,12.0"' in svg


def test_whiskers_stand_at_their_values():
    svg = whiskers('shares', [Whisker('A', 0.5, (0.25, 1.0))])
    assert 'x1="119.0" y1="17" x2="356.0"' in svg and 'x="194.0"' in svg and '50.0%' in svg


def test_ticks_are_round_and_within_the_axis():
    assert ticks(0.0, 1.0) == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert ticks(-3.0, 17.0) == pytest.approx([0.0, 5.0, 10.0, 15.0])


def test_the_filmstrip_shows_a_failure_where_there_is_one():
    class Example:
        def __init__(self, success):
            self.success = success

    def chosen(*successes):
        return [example.success for example in choose_examples([Example(s) for s in successes])]

    assert chosen(True, True, True, False, False) == [True, True, False]
    assert chosen(True, False, False, False) == [True, False, False]
    assert chosen(True, True, True) == [True, True, True]
    assert chosen(False, False, False) == [False, False, False]


def test_two_equal_levels_can_both_be_read():
    levels = [Level(label, 0.5, 0.4, 0.6, label) for label in ('before', 'after')]
    svg = Chart('equal', [Series([0, 1], [0.0, 1.0])], levels).svg()
    assert re.findall(r'text-anchor="(\w+)">(before|after)<', svg) == [('start', 'before'), ('end', 'after')]
