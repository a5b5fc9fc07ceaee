"""Supervised fine-tuning: it learns, continues where it was cut off, and leaves a model that others can load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.cli import main
from training.demonstrations.dataset import DemonstrationDataset
from training.demonstrations.dataset_schema import DatasetInfo, DemonstrationRow, ObjectLabel
from training.demonstrations.dataset_writer import DatasetWriter
from training.rl.run_folder import claimed
from training.sft.sft_trainer import SftConfig, SftTrainer, Stage, _check_thoughts, has_bfloat16
from training.sft.tiny_vlm import TinyVlmConfig
from vlm_agent_ros.checkpoint import load_policy
from vlm_agent_ros.errors import UserError
from vlm_agent_ros.policy.config import load_model_config
from vlm_agent_ros.policy.prompt import PromptTemplate

GRID = 48
SMALL = TinyVlmConfig(image_size=32, patch_size=16, vision_width=16, vision_layers=1, text_width=16, text_layers=1,
                      heads=2)
VISION, TEXT = Stage(4, 8, 1e-2, 1), Stage(8, 8, 1e-2, 1)


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    """A bright square somewhere on grey; the action is to pick it."""
    rng = np.random.default_rng(0)
    rows = []
    for i, (x, y) in enumerate(rng.integers(4, GRID - 4, (32, 2))):
        image = np.full((32, 32, 3), 90, np.uint8)
        u, v = x * 32 // GRID, y * 32 // GRID
        image[v - 1:v + 2, u - 1:u + 2] = 240
        rows.append(DemonstrationRow(
            image, f'task: pick the {"red " * (i % 2)}cube', f'cube at {x:02d} {y:02d}', f'pick {x:02d} {y:02d}',
            episode=i // 2, task='pick', objects=(ObjectLabel('red cube', x + 0.5, y + 0.5, True),),
            rare=('recovery',) if i < 4 else ()))
    writer = DatasetWriter(tmp_path / 'demonstrations', DatasetInfo(('red cube',), GRID), 1)
    writer.missing()
    writer.write(0, rows)
    writer.finish()
    return writer.folder


def configure(demonstrations: Path, **changes: Any) -> SftConfig:
    settings = {'data': (str(demonstrations),), 'architecture': SMALL, 'vision': VISION, 'text': TEXT, 'held_out': 0.2,
                'eval_every': 4, 'save_every': 3}
    return SftConfig(**{**settings, **changes})


def weights(trainer: SftTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_the_loss_falls_and_the_model_loads_as_any_other(tmp_path, demonstrations):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    trainer = SftTrainer(configure(demonstrations, text=Stage(40, 16, 1e-2, 1)), tmp_path / 'model', 'cpu')
    trainer.train()
    summary = trainer.finish()
    rows = [json.loads(line) for line in (tmp_path / 'model' / 'sft_metrics.jsonl').read_text().splitlines()]
    losses = [row['loss'] for row in rows if row['stage'] == 'text']
    assert losses[-1] < 0.6 * losses[0]
    assert set(summary['greedy']) == {'well_formed', 'thought', 'action', 'action_within_1', 'action_within_2'}
    assert summary == json.loads((tmp_path / 'model' / 'sft_summary.json').read_text())
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / 'model')
    own = weights(trainer)
    assert all(torch.equal(p, own[name]) for name, p in loaded.named_parameters())
    policy = load_policy(str(tmp_path / 'model'))  # by its directory alone it is prompted as it was trained
    assert policy.prompt == load_model_config('tiny_vlm').prompt != PromptTemplate()
    assert AutoProcessor.from_pretrained(tmp_path / 'model').chat_template
    assert not (tmp_path / 'model' / 'sft_state').exists()


def test_a_share_of_no_tokens_is_no_figure(tmp_path, demonstrations):
    trainer = SftTrainer(configure(demonstrations, cot=False, vision=Stage(0)), tmp_path / 'model', 'cpu')
    trainer.train()
    figures = trainer.finish()['teacher_forced']
    assert 'thought_numbers' not in figures and 'thought_numbers' not in trainer.history[-1]
    assert {'loss', 'tokens', 'action_numbers', 'grounded_within_1'} <= set(figures)


@pytest.mark.parametrize('cut_at', [('vision', 3), ('text', 6)])
def test_a_run_that_was_cut_off_ends_with_the_weights_of_an_unbroken_one(tmp_path, demonstrations, monkeypatch, cut_at):
    config = configure(demonstrations)
    unbroken = SftTrainer(config, tmp_path / 'unbroken', 'cpu')
    unbroken.train()

    cut = SftTrainer(config, tmp_path / 'cut', 'cpu')
    save = SftTrainer._save

    def save_and_stop(self: SftTrainer, optimizer: torch.optim.Optimizer) -> None:
        save(self, optimizer)
        if (self.stage, self.step) == cut_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(SftTrainer, '_save', save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert cut.saved == f'step {cut_at[1]} of the {cut_at[0]} stage'
    monkeypatch.setattr(SftTrainer, '_save', save)

    resumed = SftTrainer(config, tmp_path / 'cut', 'cpu')
    resumed.train()
    expected = weights(unbroken)
    assert all(torch.equal(p, expected[name]) for name, p in weights(resumed).items())
    assert [(r['stage'], r['step']) for r in resumed.history] == [(r['stage'], r['step']) for r in unbroken.history]


def test_images_are_augmented_in_the_stages_that_say_so(tmp_path, demonstrations, monkeypatch):
    seen: dict[str, set[bool]] = {}
    trainer = SftTrainer(configure(demonstrations, text=Stage(2, 8, 1e-2, 1, augment=False)), tmp_path / 'model', 'cpu')
    original = trainer.data.pixels

    def watch(index: np.ndarray, seed: int | None) -> torch.Tensor:
        if len(index) == 8 and not set(index) & set(trainer.order.held_out):
            seen.setdefault(trainer.stage, set()).add(seed is not None)
        return original(index, seed)

    monkeypatch.setattr(trainer.data, 'pixels', watch)
    trainer.train()
    assert seen == {'vision': {True}, 'text': {False}}


def test_rare_samples_are_drawn_as_often_as_their_weight_says(tmp_path, demonstrations):
    trainer = SftTrainer(configure(demonstrations, weights={'recovery': 3.0, 'pick': 2.0}), tmp_path / 'model', 'cpu')
    counts = np.bincount(trainer.order.rows(0, 8 * 160), minlength=32)
    train = np.setdiff1d(np.arange(32), trainer.order.held_out)
    rare, others = np.intersect1d(train, np.arange(4)), np.setdiff1d(train, np.arange(4))
    assert counts[rare].mean() == pytest.approx(3 * counts[others].mean(), rel=0.1)
    assert not counts[trainer.order.held_out].any()


@pytest.mark.parametrize(('changes', 'message'), [
    ({'weights': {'dropped': 2.0}}, "'dropped'; the data has pick, recovery"),
    ({'weights': {'pick': 0.0}}, 'weights leave no sample'),
])
def test_weights_that_do_not_fit_the_data_are_refused(tmp_path, demonstrations, changes, message):
    with pytest.raises(UserError, match=message):
        SftTrainer(configure(demonstrations, **changes), tmp_path / 'model', 'cpu')


def test_demonstrations_without_objects_train_all_but_the_grounding(tmp_path):
    writer = DatasetWriter(tmp_path / 'd', DatasetInfo(), 1)
    writer.missing()
    writer.write(0, [DemonstrationRow(np.full((32, 32, 3), 90, np.uint8), 'go', 'left', 'left', i) for i in range(16)])
    writer.finish()
    with pytest.raises(UserError, match=r'nothing is known of the objects .* set vision\.steps'):
        SftTrainer(configure(writer.folder), tmp_path / 'model', 'cpu')
    trainer = SftTrainer(configure(writer.folder, vision=Stage(0), grounding_weight=0.0), tmp_path / 'model', 'cpu')
    trainer.train()
    assert trainer.finish()['samples'] == 16


def test_without_thoughts_the_outputs_are_learned_with_empty_ones(tmp_path, demonstrations):
    trainer = SftTrainer(configure(demonstrations, cot=False), tmp_path / 'm')
    texts = trainer.data.encoder.tokenizer.batch_decode(trainer.data.outputs, skip_special_tokens=True)
    assert all(text.startswith('{"thoughts": "", "action": "pick ') for text in texts)


def test_thoughts_that_the_policy_may_never_write_are_refused(tmp_path, demonstrations):
    models = tmp_path / 'short.yaml'
    models.write_text(f'base: {tmp_path}\ndecoding: {{max_thought_chars: 9}}\n')
    with pytest.raises(UserError, match=r'has 13 characters.*max_thought_chars.*allows 9'):
        SftTrainer(configure(demonstrations, model=str(models)), tmp_path / 'run')
    assert SftTrainer(configure(demonstrations, model=str(models), cot=False), tmp_path / 'run')
    for word in ('ärger', 'a\tb', 'a \\ b'):
        dataset = DemonstrationDataset.load([Path(folder) for folder in configure(demonstrations).data])
        dataset.thoughts[3] = word
        with pytest.raises(UserError, match='printable ASCII'):
            _check_thoughts(configure(demonstrations), dataset)


def test_prompts_are_encoded_in_parts_as_they_would_be_at_once(tmp_path, demonstrations, monkeypatch):
    whole = SftTrainer(configure(demonstrations), tmp_path / 'm').data.prompts
    monkeypatch.setattr('training.sft.sft_data._ENCODED_AT_ONCE', 1)
    parts = SftTrainer(configure(demonstrations), tmp_path / 'n').data.prompts
    assert len(whole['input_ids']) > 1
    assert all(torch.equal(whole[key], parts[key]) for key in ('input_ids', 'attention_mask'))


def test_the_state_of_another_run_is_refused(tmp_path, demonstrations):
    SftTrainer(configure(demonstrations, text=Stage(0)), tmp_path / 'model', 'cpu').train()
    other = SftTrainer(configure(demonstrations, text=Stage(0), seed=1), tmp_path / 'model', 'cpu')
    with pytest.raises(UserError, match='another configuration'):
        other.train()


def test_a_pretrained_model_is_adapted_by_lora_alone_and_merged(tmp_path, demonstrations, vlm_folder):
    models_file = tmp_path / 'vlm.yaml'
    models_file.write_text(f'base: {vlm_folder}\nlora: {{rank: 2}}\n')
    config = configure(demonstrations, architecture=None, lora=True, model=str(models_file))
    trainer = SftTrainer(config, tmp_path / 'model', 'cpu')
    assert all('lora' in name for name, p in trainer.model.named_parameters() if p.requires_grad)
    trainer.train()
    trainer.finish()
    from safetensors.torch import load_file

    before, after = load_file(vlm_folder / 'model.safetensors'), load_file(tmp_path / 'model' / 'model.safetensors')
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_model_that_is_there_already_is_not_overwritten(tmp_path, demonstrations, vlm_folder):
    shutil.copytree(vlm_folder, tmp_path / 'model')
    with pytest.raises(UserError, match='holds a model already'):
        SftTrainer(configure(demonstrations), tmp_path / 'model', 'cpu')


@pytest.mark.parametrize(('options', 'message'), [
    (['--data', '{folder}/none'], 'none does not exist: record demonstrations with'),
    (['--data', '{folder}/bad.parquet'], 'bad.parquet is damaged or no parquet file'),
    (['--data', '{folder}/demonstrations', '--text-steps', '-1'], 'text: steps is -1, but must be at least 0'),
    (['--data', '{folder}/demonstrations', '--device', 'tpu9'], "device is 'tpu9'"),
    (['--config', 'nothing'], "no training file named 'nothing'"),
])
def test_bad_input_is_one_sentence(tmp_path, demonstrations, capsys, options, message):
    (tmp_path / 'bad.parquet').write_bytes(b'PAR1 and no more')
    arguments = [option.format(folder=tmp_path) for option in options]
    assert main(['sft', '--out', str(tmp_path / 'model'), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not (tmp_path / 'model').exists()


@pytest.mark.parametrize(('flags', 'expected'), [
    ('fpu avx2 avx512f avx512_vnni', False), ('avx2 avx512_bf16 amx_tile', True), ('amx_bf16 avx', True),
    ('asimd svebf16 bf16 i8mm', True), ('asimd fp', False),
])
def test_products_are_in_bfloat16_only_where_a_cpu_has_instructions_for_it(tmp_path, flags, expected):
    cpuinfo = tmp_path / 'cpuinfo'
    cpuinfo.write_text(f'processor : 0\nflags : {flags}\n')
    assert has_bfloat16(torch.device('cpu'), cpuinfo) == expected
    assert not has_bfloat16(torch.device('cpu'), tmp_path / 'nowhere')


def test_a_folder_that_cannot_be_written_to_is_told_before_the_first_step(
        tmp_path, demonstrations, monkeypatch, capsys):
    (tmp_path / 'file').touch()
    monkeypatch.setattr(SftTrainer, 'train', lambda _: pytest.fail('it was trained'))
    assert main(['sft', '--data', str(demonstrations), '--out', str(tmp_path / 'file' / 'model')]) == 2
    assert 'cannot be written' in capsys.readouterr().err


def test_a_model_that_another_process_is_making_is_left_alone(tmp_path, demonstrations, capsys):
    out = tmp_path / 'model'
    with claimed(out):
        assert main(['sft', '--data', str(demonstrations), '--out', str(out)]) == 2
    assert f'another process is at the model {out}: choose another --out' in capsys.readouterr().err
