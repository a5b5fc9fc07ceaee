"""What a models file says: base model, prompt, decoding, LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import bounded, find_config, load_yaml, parse, resource_root
from ..errors import UserError
from .prompt import PromptTemplate


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on every linear of the language model, the projector and, if wanted, the vision tower."""

    rank: int = bounded(16, low=1, high=512, help='rank of the adapters')
    alpha: float = bounded(32.0, low=0.1, high=2048.0, help='scale of the adapters, divided by the rank')
    vision: bool = bounded(True, help='adapt the vision tower too')


@dataclass(frozen=True)
class Decoding:
    """How outputs are written."""

    constrained: bool = bounded(True, help='mask what would leave the grammar of the output')
    max_thought_chars: int = bounded(200, low=0, high=4000, help='longest thought; 0 is a policy without CoT')
    max_new_tokens: int = bounded(256, low=8, high=4096, help='longest output; one cut off here is illegal')


@dataclass(frozen=True)
class ModelConfig:
    """A models file.

    Attributes:
        lora: None trains the whole model.
    """

    base: str = bounded(help='Hugging Face directory (also relative to the package root) or hub name')
    prompt: PromptTemplate = PromptTemplate()
    decoding: Decoding = Decoding()
    lora: LoraSettings | None = LoraSettings()
    value_width: int = bounded(128, low=8, high=4096, help='hidden width of the value head')
    dtype: str = bounded('float32', choices=('float32', 'bfloat16', 'float16'), help='type of the base weights')
    quantization: str = bounded('none', choices=('none', '4bit'), help='4bit holds the linear layers of the base in '
                                '4 bits; needs a GPU, bitsandbytes and LoRA')
    chat_template: str = bounded('', help='Jinja template for a model whose processor has none')

    def __post_init__(self) -> None:
        if self.quantization != 'none' and self.lora is None:
            raise UserError(f'quantization is {self.quantization}, but weights of so few bits cannot be trained: add '
                            'lora to the models file, or set quantization to none')

    @property
    def base_path(self) -> str:
        """The base as a path that exists, or unchanged if it is a hub name."""
        for path in (Path(self.base).expanduser(), resource_root() / self.base):
            if path.is_dir():
                return str(path)
        return self.base


def load_model_config(name: str) -> ModelConfig:
    """A models file by shipped name or path.

    Raises:
        UserError: The file is missing or has a key that is unknown or out of range.
    """
    path = find_config('models', name)
    return parse(ModelConfig, load_yaml(path), str(path))


MODELS_FILE = 'vlm_agent.yaml'
"""In a model directory: how the model is prompted and decoded, as a models file without ``base``."""


def tells_prompt(name: str) -> bool:
    """Whether a model directory says itself how it is prompted, as one does that ``vlm-agent sft`` has made."""
    return (Path(name).expanduser() / MODELS_FILE).is_file()


def model_config_of_directory(path: Path) -> ModelConfig:
    """What a model directory says of itself, else the shipped models file of it, else the defaults; it is the base.

    Raises:
        UserError: A models file has been damaged.
    """
    own = path / MODELS_FILE
    if own.is_file():
        return parse(ModelConfig, {**load_yaml(own), 'base': str(path.resolve())}, str(own))
    for file in sorted((resource_root() / 'config' / 'models').glob('*.yaml')):
        config = parse(ModelConfig, load_yaml(file), str(file))
        if Path(config.base_path).resolve() == path.resolve():
            return config
    return ModelConfig(base=str(path.resolve()))
