"""What the language model sees of an image: the output of the projector, in any architecture that has one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from vlm_agent_ros.errors import UserError

_PROJECTORS = ('multi_modal_projector', 'connector', 'merger')


class ImageFeatures:
    """Image tokens of a model's latest forward pass.

    Args:
        model: A Hugging Face vision-language model, with or without adapters.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._latest: torch.Tensor | None = None
        self._frozen = False
        projector = next((m for name, m in model.named_modules() if name.rpartition('.')[2] in _PROJECTORS), None)
        if projector is not None:
            projector.register_forward_hook(self._keep)

    def of(self, inputs: dict[str, Any]) -> torch.Tensor:
        """(batch, patches, width) features of images alone, as ``SftData.vision_inputs`` gives them."""
        self._model.get_image_features(**inputs)
        return self.latest()

    def latest(self) -> torch.Tensor:
        """(batch, patches, width) features in the latest forward pass.

        Raises:
            UserError: The model has no projector that is known, or gives a varying number of tokens per image.
        """
        features, self._latest = self._latest, None
        if features is None or features.ndim != 3:
            raise UserError('grounding needs a projector with one row of image tokens per image, which this model does '
                            'not have: set vision.steps and grounding_weight to 0')
        return features

    @contextlib.contextmanager
    def frozen(self, frozen: bool) -> Iterator[None]:
        """Within it no gradient reaches projector and vision tower, if ``frozen``."""
        self._frozen = frozen
        try:
            yield
        finally:
            self._frozen = False

    def _keep(self, module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        self._latest = output.detach() if self._frozen else output
        return self._latest
