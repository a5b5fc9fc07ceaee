"""What parts cost with either checkpoint, from the figures of the plan and what the pilot measured: arithmetic only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlm_agent_ros.config import bounded


@dataclass(frozen=True)
class Costs:
    """Figures of the plant; those that are 0 drop out of the sheet's sums."""

    currency: str = bounded('EUR', help='name of the currency')
    operator_per_hour: float = bounded(0.0, low=0.0, help='an hour of an operator')
    machine_per_hour: float = bounded(0.0, low=0.0, help='an hour of the cell: depreciation, energy, floor, upkeep')
    operator_share: float = bounded(0.0, low=0.0, high=1.0, help='share of the machine time that an operator watches')
    minutes_per_intervention: float = bounded(0.0, low=0.0, help="operator's minutes for one intervention")
    parts_per_episode: float = bounded(1.0, low=0.001, help='parts that an episode handles')
    value_per_good_part: float = bounded(0.0, low=0.0, help='what a part is worth that was handled rightly')
    cost_per_defect: float = bounded(0.0, low=0.0, help='what a part costs that was not')
    cost_per_false_alarm: float = bounded(0.0, low=0.0, help='what a good part costs that was rejected')
    false_alarm_kpi: str = bounded('false_alarm', help='KPI term that counts them')
    one_off_a: float = bounded(0.0, low=0.0, help='training and integration of A, as far as still to be paid')
    one_off_b: float = bounded(0.0, low=0.0, help='training and integration of B')
    hours_per_year: float = bounded(4000.0, low=1.0, high=8784.0, help='hours that the cell runs in a year')


@dataclass(frozen=True)
class Row:
    """A line of the sheet: a quantity of both checkpoints, or one of the two together (``b`` is None)."""

    symbol: str
    name: str
    formula: str
    unit: str
    a: float | None
    b: float | None = None


def cost_sheet(costs: Costs, a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Row]:
    """Every figure with its formula; None where a division by zero would make it.

    Args:
        costs: Figures of the plan.
        a, b: Figures of ``decision.figures`` of either checkpoint.
    """
    one_offs = costs.one_off_a, costs.one_off_b
    (rows_a, rows_b) = (_of_checkpoint(costs, figures, one_off) for figures, one_off in zip((a, b), one_offs))
    rows = [Row(symbol, name, formula, unit, value, rows_b[symbol][3])
            for symbol, (name, formula, unit, value) in rows_a.items()]
    gain, extra = _difference(rows_b['π'][3], rows_a['π'][3]), one_offs[1] - one_offs[0]
    per_year = None if gain is None else gain * costs.hours_per_year
    rows += [
        Row('Δπ', 'gain of B per hour', 'π(B) - π(A)', f'{costs.currency}/h', gain),
        Row('ΔI', 'one-off cost of B over that of A', 'I(B) - I(A)', costs.currency, extra),
        Row('T', 'payback time of B', 'ΔI / Δπ, if Δπ > 0', 'h', _payback(extra, gain)),
        Row('Y', 'gain of B per year', f'Δπ × {costs.hours_per_year:g} h', f'{costs.currency}/year', per_year),
        Row('R', 'return on investment in the first year', '(Y - ΔI) / ΔI, if ΔI > 0', '%',
            100.0 * (per_year - extra) / extra if per_year is not None and extra > 0.0 else None)]
    return rows


def _of_checkpoint(costs: Costs, figures: Mapping[str, Any], one_off: float
                   ) -> dict[str, tuple[str, str, str, float | None]]:
    """Name, formula, unit and value by symbol; the formulas use the symbols above them."""
    money, c = costs.currency, costs
    parts = figures['episodes'] * c.parts_per_episode
    good = figures['successes'] * c.parts_per_episode
    machine = figures['machine_minutes']
    operator = c.operator_share * machine + figures['interventions'] * c.minutes_per_intervention
    alarms = figures['kpi_sums'].get(c.false_alarm_kpi, 0.0)
    cost = (machine / 60 * c.machine_per_hour + operator / 60 * c.operator_per_hour
            + (parts - good) * c.cost_per_defect + alarms * c.cost_per_false_alarm)
    hours = machine / 60
    return {
        'N': ('parts', f'episodes × {c.parts_per_episode:g}', '', parts),
        'G': ('good parts', f'successes × {c.parts_per_episode:g}', '', good),
        'M': ('machine time', 'sum of cycle times', 'min', machine),
        'W': ('interventions', 'counted', '', float(figures['interventions'])),
        'O': ('operator time', f'{c.operator_share:g} × M + W × {c.minutes_per_intervention:g} min', 'min', operator),
        'D': ('defects', 'N - G', '', parts - good),
        'F': ('false alarms', f'sum of the KPI term {c.false_alarm_kpi}' if c.false_alarm_kpi else 'none counted', '',
              alarms),
        'C': ('cost of the pilot', f'M/60 × {c.machine_per_hour:g} + O/60 × {c.operator_per_hour:g} + D × '
              f'{c.cost_per_defect:g} + F × {c.cost_per_false_alarm:g}', money, cost),
        'c': ('cost per good part', 'C / G', money, _ratio(cost, good)),
        'g': ('good parts per hour', 'G / (M/60)', '1/h', _ratio(good, hours)),
        'π': ('profit per hour', f'(G × {c.value_per_good_part:g} - C) / (M/60)', f'{money}/h',
              _ratio(good * c.value_per_good_part - cost, hours)),
        'I': ('one-off cost', 'training and integration', money, one_off),
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _difference(b: float | None, a: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _payback(extra: float, gain: float | None) -> float | None:
    if gain is None or gain <= 0.0:
        return None  # what gains nothing, or loses, pays nothing back, however little it has cost
    return max(extra, 0.0) / gain
