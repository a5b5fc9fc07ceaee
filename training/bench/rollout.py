"""Decisions per second of the rollout engine against a user's alternatives and against its limit.

All contenders decide on the same images and prompts of simulated cells, with the same weights and threads, without
gradients. Free text of a model need not end where a constrained one does, so lengths are fixed by rule: the engine
writes first, and the others write exactly as many tokens as it did, one row as many as the engine's row, a batch as
many as the engine's longest, because every batch runs until its longest row ends. Per decision the work is the same;
that the engine does not compute tokens which the grammar forces is its own merit.

- *engine*: ``Policy.decide``: thought, action, log-probabilities and value of every world.
- *paper's loop* (arXiv 2405.10292): one environment at a time, ``generate`` with the adapters beside the weights, then
  a second full forward pass over prompt and output, padded to 512 tokens, for the log-probabilities and the value. What
  it takes does not depend on the number of worlds: a few decisions are timed.
- *generate*: plain batched ``generate`` of all worlds, without grammar, log-probabilities and value; with the adapters
  beside the weights as PEFT has them, and once more with adapters folded into the weights.
- *limit*: as many prefill and decode passes as the engine's run took, over all rows to the end, with keys and values in
  place and every argument made before: no images and texts to prepare, no grammar, no drawing, no bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

import torch

from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.encoding import join_outputs
from vlm_agent_ros.policy.generation import Batch
from vlm_agent_ros.policy.policy import Decision, Policy, PolicyInput
from vlm_agent_ros.types import EpisodeRequest, Observation

from ..seeds import training_seed
from ..session import commanders, language_of
from ..worlds.cell_worlds import InProcessWorlds
from .bench_setup import BenchSetup, PartResult
from .timing import interleaved, ratio

WORLD = 'panda_table'
TASKS = ('place', 'pick')
PADDED = 512  # tokens of the paper's second pass
_PAPER_DECISIONS = 2  # that are timed in a round
_WARM_UP = 4  # decisions after which the engine runs as it does in a training


def run(setup: BenchSetup) -> PartResult:
    """Measure with thoughts as long as the model's, and without thoughts."""
    counts = (2,) if setup.quick else (1, 4, 16)
    observations = first_observations(max(counts), setup.seed)
    detail: dict[str, Any] = {}
    for name, cot in (('long_thoughts', True), ('short_thoughts', False)):
        policy = load_policy(setup.model, language=language_of(WORLD), device=setup.device, seed=setup.seed, cot=cot)
        commander = commanders(policy.prompt)(WORLD)
        inputs = [commander.observe(observation, '') for observation in observations]
        for _ in range(_WARM_UP):
            policy.decide(inputs, temperature=1.0, seeds=range(len(inputs)))
        if not policy.loop.serves:
            raise UserError(f'{setup.model} has a cache that the decoding loop does not know, so that it writes by '
                            "the model's own generate and there is nothing to compare: choose another --model, or "
                            'other --parts')
        detail[name] = {f'worlds_{count}': compare(policy, inputs[:count], setup.repeats) for count in counts}
    headline = detail['long_thoughts'][f'worlds_{counts[-1]}']
    figures = {name: headline[name] for name in ('vs_paper_loop', 'vs_generate', 'of_limit')}
    return PartResult({**figures, 'worlds': counts[-1], **detail}, _rows(detail, counts[-1]))


def first_observations(count: int, seed: int) -> list[Observation]:
    """What so many cells show at the beginning of an episode."""
    pool = InProcessWorlds(1, WORLD)
    try:
        observations = []
        for number in range(count):
            pool.reset({0: EpisodeRequest(training_seed(seed, number, 0), TASKS[number % len(TASKS)])})
            observations.append(pool.collect([0])[0][0])
        return observations
    finally:
        pool.close()


def compare(policy: Policy, inputs: Sequence[PolicyInput], repeats: int) -> dict[str, Any]:
    """Seconds of a decision and ratios, for one batch."""
    decisions, steps = _counting_steps(policy, inputs)
    longest = max(len(decision.token_ids) for decision in decisions)
    few = min(len(inputs), _PAPER_DECISIONS)
    contenders: dict[str, Callable[[], object]] = {
        'engine': lambda: _decide(policy, inputs),
        'paper_loop': lambda: [paper_decision(policy, given, len(decision.token_ids))
                               for given, decision in zip(inputs[:few], decisions)],
        'generate': lambda: generate(policy, inputs, longest),
        'generate_folded': lambda: _folded(policy, lambda: generate(policy, inputs, longest)),
        'limit': limit(policy, inputs, steps),
    }
    seconds = interleaved(contenders, repeats)
    per_decision = {name: [s / (few if name == 'paper_loop' else len(inputs)) for s in values]
                    for name, values in seconds.items()}
    against = {name: round(ratio(per_decision[name], per_decision['engine']), 3) for name in per_decision}
    return {
        'vs_paper_loop': against['paper_loop'], 'vs_generate': against['generate'],
        'vs_generate_folded': against['generate_folded'], 'of_limit': against['limit'],
        'decisions_per_s': {name: round(1 / median(values), 2) for name, values in per_decision.items()},
        'tokens': {'mean': round(mean(len(decision.token_ids) for decision in decisions), 1), 'longest': longest,
                   'steps': steps},
    }


def _decide(policy: Policy, inputs: Sequence[PolicyInput]) -> list[Decision]:
    return policy.decide(inputs, temperature=1.0, seeds=range(len(inputs)))


def _counting_steps(policy: Policy, inputs: Sequence[PolicyInput]) -> tuple[list[Decision], int]:
    """What the engine decides, and how many passes it takes after the prefill."""
    own, taken = policy.loop.step, []

    def step(arguments: tuple[Any, ...]) -> torch.Tensor:
        taken.append(1)
        return own(arguments)

    policy.loop.step = step  # type: ignore[method-assign]
    try:
        return _decide(policy, inputs), len(taken)
    finally:
        del policy.loop.step


@torch.no_grad()
def generate(policy: Policy, inputs: Sequence[PolicyInput], tokens: int) -> tuple[Any, torch.Tensor]:
    """Inputs of the model and (batch, tokens) int64 of free text, of a fixed length."""
    from transformers import GenerationConfig

    encoder = policy.encoder
    encoded = encoder.encode([i.image for i in inputs], [i.prompt for i in inputs]).to(policy.device)
    settings = GenerationConfig(
        do_sample=True, top_k=0, temperature=1.0, num_beams=1, min_new_tokens=tokens, max_new_tokens=tokens,
        eos_token_id=policy.constraint.eos, pad_token_id=encoder.tokenizer.pad_token_id,
        # An image placeholder among the output would break the paper's second pass.
        suppress_tokens=[token for token in encoder.special_ids if token != policy.constraint.eos])
    written: Any = policy.model.generate(**encoded, generation_config=settings)
    return encoded, written[:, encoded['input_ids'].shape[1]:]


@torch.no_grad()
def paper_decision(policy: Policy, given: PolicyInput, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and value of one decision, by the paper's loop."""
    encoded, written = generate(policy, [given], tokens)
    prompt = encoded['input_ids'].shape[1]
    padding = max(0, PADDED - prompt - tokens)
    padded = torch.nn.functional.pad(written, (0, padding), value=policy.encoder.tokenizer.pad_token_id)
    joined = join_outputs(encoded, padded, torch.tensor([tokens], device=policy.device))
    output = policy.model(**joined, output_hidden_states=True)
    log_probs = torch.log_softmax(output.logits[:, prompt - 1:prompt - 1 + tokens].float(), dim=-1)
    chosen = log_probs.gather(-1, written[..., None])
    return chosen.sum(), policy.value_head(output.hidden_states[-1][:, prompt - 1].float())


@torch.no_grad()
def limit(policy: Policy, inputs: Sequence[PolicyInput], steps: int) -> Callable[[], object]:
    """The forward passes of a run, and nothing else."""
    encoder, loop = policy.encoder, policy.loop
    encoded = encoder.encode([i.image for i in inputs], [i.prompt for i in inputs]).to(policy.device)
    with policy.merged_lora():
        state = loop.prefill(encoded)
        if state is None:
            raise ValueError(f'{policy.config.base} has a cache that the decoding loop does not know')
        batch = Batch(state, range(len(inputs)))
        token = [[policy.constraint.eos]] * len(inputs)
        arguments = [batch.read(token, loop.masks) for _ in range(steps)]

    @torch.no_grad()
    def passes() -> None:
        with policy.merged_lora():
            loop.prefill(encoded)
            for step in arguments:
                loop.step(step)

    return passes


def _folded(policy: Policy, contender: Callable[[], object]) -> object:
    with policy.merged_lora():
        return contender()


def _rows(detail: dict[str, Any], most: int) -> list[tuple[str, str, str]]:
    rows = []
    for name, counts in detail.items():
        for count, found in counts.items():
            targets = ('10', '3', '60 %') if (name, count) == ('long_thoughts', f'worlds_{most}') else ('', '', '')
            case = f'{count.removeprefix("worlds_")} worlds, {name.replace("_", " ")}'
            rows += [
                (f'{case}: decisions/s', f'{found["decisions_per_s"]["engine"]:.1f}', ''),
                (f"{case}: times the paper's loop", f'{found["vs_paper_loop"]:.1f}', targets[0]),
                (f'{case}: times plain generate (with folded adapters)',
                 f'{found["vs_generate"]:.1f} ({found["vs_generate_folded"]:.1f})', targets[1]),
                (f'{case}: share of the limit', f'{100 * found["of_limit"]:.0f} %', targets[2]),
            ]
    return rows
