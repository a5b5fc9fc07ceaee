"""Base models from disk: any ``AutoModelForImageTextToText`` with its processor; LoRA adapters and the value head."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from .config import LoraSettings, ModelConfig


def select_device(name: str) -> torch.device:
    """``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        UserError: The device does not exist.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    if name.startswith('cuda') and not torch.cuda.is_available():
        raise UserError('device is cuda, but PyTorch sees no GPU here: use device cpu or auto')
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UserError(f'device is {name!r}, but must be auto, cpu or cuda') from error


def load_base(config: ModelConfig, device: torch.device) -> tuple[Any, Any]:
    """Model and processor of a models file.

    Args:
        config: Says where the model is and in which type its weights are held.
        device: Where the model goes.

    Returns:
        The model in evaluation mode (dropout off, in sampling and in the update alike) and its processor.

    Raises:
        UserError: There is no such model, it is damaged, it is no vision-language model, or what 4-bit weights need is
            missing.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.utils import logging

    from . import int8  # noqa: F401, transformers knows of weights of 8 bits once it is imported

    quantization = _quantization(config, device)
    logging.disable_progress_bar()  # a bar per file says nothing that the caller's progress does not
    logging.set_verbosity_error()  # what is wrong with the weights is told below, in one sentence
    path = config.base_path
    if not Path(path).is_dir() and (path.startswith(('.', '/', '~', 'models/')) or path.count('/') != 1):
        raise UserError(f'model directory {path} does not exist: correct base in the models file, or make the shipped '
                        'one with `make sft`')
    try:
        kind = AutoConfig.from_pretrained(path)
        if type(kind) not in AutoModelForImageTextToText._model_mapping:
            raise UserError(f'{path} holds a {kind.model_type} model, which is no vision-language model: choose one '
                            'that AutoModelForImageTextToText loads')
        if kind.is_encoder_decoder or kind.get_text_config().is_encoder_decoder:
            raise UserError(f'{path} holds a {kind.model_type} model, which reads with an encoder and writes with a '
                            'decoder of its own: choose one that reads and writes as one sequence')
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            path, dtype=getattr(torch, config.dtype), output_loading_info=True, ignore_mismatched_sizes=True,
            **quantization)
        model, info = loaded
        _check_weights(path, info)
        if model.get_output_embeddings() is None:
            raise UserError(f'{path} holds a {kind.model_type} model, which does not say by which layer it writes '
                            '(get_output_embeddings): choose another one')
        processor = _load_processor(path, kind)
    except UserError:
        raise
    except ImportError as error:
        reason = str(error).strip().split('. ')[0]
        raise UserError(f'{path} needs a package that is not installed ({reason}): install it') from error
    except Exception as error:  # the libraries underneath raise what they like
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f'{path} cannot be loaded as a vision-language model ({reason}): check that the directory is '
                        'complete, or make it again') from error
    if getattr(processor, 'tokenizer', None) is None:
        raise UserError(f'{path} has no processor for images and text: copy the processor files of the model into it')
    if config.chat_template:
        processor.chat_template = config.chat_template
    # Quantized weights are made on their device, where they stay.
    return (model if quantization else nn.Module.to(model, device)).eval(), processor


def _quantization(config: ModelConfig, device: torch.device) -> dict[str, Any]:
    """How ``from_pretrained`` shall hold the base weights: as they are, or in QLoRA's 4 bits (arXiv 2305.14314)."""
    if config.quantization == 'none':
        return {}
    if device.type != 'cuda' or importlib.util.find_spec('bitsandbytes') is None:
        raise UserError(f'{config.base}: quantization is {config.quantization}, which needs an NVIDIA GPU (device '
                        'cuda) and bitsandbytes: pip install bitsandbytes, or set quantization to none in the models '
                        'file')
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4', bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.bfloat16)
    return {'quantization_config': settings, 'device_map': {'': device}}


class NoVideo:
    """Stands where a processor has its video part; a setting that is looked up in it is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith('__'):  # asked for by copy and pickle, which go on without
            raise AttributeError(name)


def without_video(processor_class: Any) -> Any:
    """A processor class that leaves out its video part, which needs torchvision: a decision reads one image."""
    class WithoutVideo(processor_class):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == 'video_processor':
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

        def to_dict(self) -> dict[str, Any]:
            return {key: value for key, value in super().to_dict().items() if key != 'video_processor'}

        @classmethod
        def _get_arguments_from_pretrained(cls, *given: Any, **kwargs: Any) -> list[Any]:
            names = cls.get_attributes()
            others = [name for name in names if name != 'video_processor']
            loader: Any = type(cls.__name__, (processor_class,), {'get_attributes': classmethod(lambda _: others)})
            parts = iter(loader._get_arguments_from_pretrained(*given, **kwargs))
            return [NoVideo() if name == 'video_processor' else next(parts) for name in names]

    WithoutVideo.__name__ = processor_class.__name__  # saved with the processor, and asked for in loading it
    return WithoutVideo


def _load_processor(path: str, kind: Any) -> Any:
    """The processor of a model whose configuration is ``kind``."""
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    known: Any = PROCESSOR_MAPPING.get(type(kind), None)
    if known is not None and 'video_processor' in known.get_attributes() and not is_torchvision_available():
        return without_video(known).from_pretrained(path)
    return AutoProcessor.from_pretrained(path)


def _check_weights(path: str, info: dict[str, Any]) -> None:
    """Refuse weights that do not fit: transformers would go on with random ones in their place."""
    for key, what in (('missing_keys', 'lack'), ('mismatched_keys', 'have another shape of')):
        names = sorted(name if isinstance(name, str) else name[0] for name in info[key])
        if names:
            raise UserError(f'{path}: the weights {what} {names[0]} and {len(names) - 1} more tensors that config.json '
                            'calls for: copy both from the same model')


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """The model with low-rank adapters on every linear layer but the output embedding; the base is frozen.

    Linear layers of the vision tower are found by their path, which holds ``vision`` or ``visual`` in every family.
    """
    from peft import LoraConfig, get_peft_model

    output = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not output]
    if not settings.vision:
        names = [name for name in names if 'vision' not in name and 'visual' not in name]
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=names)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # PEFT reads a property that transformers has renamed
        return get_peft_model(model, lora).eval()


def make_value_head(width: int, hidden: int) -> nn.Sequential:
    """Gives (…, 1) of hidden states (…, width); every value is 0 at first."""
    head = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))
    for parameter in head[2].parameters():
        nn.init.zeros_(parameter)
    return head
