"""Photometric augmentation on the device; nothing here moves a pixel, so positions stay true."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlm_agent_ros.config import bounded


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; 0 switches one off."""

    brightness: float = bounded(0.15, low=0.0, high=1.0, help='added to every pixel, ± share of full scale')
    contrast: float = bounded(0.25, low=0.0, high=0.9, help='scale about the mean, 1 ± this')
    colour_gain: float = bounded(0.08, low=0.0, high=0.5, help='scale of each colour channel, 1 ± this')
    noise: float = bounded(0.03, low=0.0, high=0.5, help='largest standard deviation of pixel noise')
    blur: float = bounded(0.5, low=0.0, high=1.0, help='share of images that are softened by a 3x3 kernel')


def augment(images: torch.Tensor, settings: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Change light, colour and sharpness of each image at random.

    Args:
        images: (batch, 3, height, width) float32 in [0, 1].
        settings: Ranges.
        generator: On the images' device.

    Returns:
        Same shape, clipped to [0, 1].
    """
    batch, device = len(images), images.device

    def uniform(span: float, channels: int = 1) -> torch.Tensor:
        return (torch.rand(batch, channels, 1, 1, device=device, generator=generator) * 2 - 1) * span

    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = (images - mean) * (1 + uniform(settings.contrast)) + mean + uniform(settings.brightness)
    images = images * (1 + uniform(settings.colour_gain, 3))
    if settings.blur:
        soft = torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        share = uniform(1.0)  # softened with probability ``blur``, by a random amount
        images = torch.lerp(images, soft, (1 - (share + 1) / (2 * settings.blur)).clamp(min=0))
    if settings.noise:
        noise = torch.randn(images.shape, device=device, generator=generator)
        images = images + noise * uniform(settings.noise).abs()
    return images.clamp(0, 1)
