"""How far a run scales, on paper: decisions per second and traffic of so many workers, from a few measured numbers."""

from __future__ import annotations

from dataclasses import dataclass

ADAPTER_BYTES = 4  # adapters are float32


@dataclass(frozen=True)
class TextModel:
    """Dimensions of a language model, for its adapters.

    Attributes:
        hidden: Width of the residual stream.
        key_value: Width of keys, and of values (all their heads).
        intermediate: Width of the MLP, which has a gate.
        parameters: Of the whole model.
    """

    layers: int
    hidden: int
    key_value: int
    intermediate: int
    parameters: float


MODELS = {  # config.json of Qwen2.5-VL, Apache-2.0 or Qwen licence; the vision tower's adapters are not counted
    '3B': TextModel(36, 2048, 256, 11008, 3.8e9),
    '7B': TextModel(28, 3584, 512, 18944, 8.3e9),
    '72B': TextModel(80, 8192, 1024, 29568, 73.4e9),
}


def lora_bytes(model: TextModel, rank: int) -> int:
    """Bytes of adapters on every linear layer: rank · (inputs + outputs) float32 numbers each (arXiv 2106.09685)."""
    attention = 2 * (model.hidden + model.hidden) + 2 * (model.hidden + model.key_value)
    mlp = 3 * (model.hidden + model.intermediate)
    return ADAPTER_BYTES * rank * model.layers * (attention + mlp)


@dataclass(frozen=True)
class Rates:
    """What has to be measured, or assumed, of one model on one kind of machine.

    Attributes:
        worker: Decisions per second of one worker.
        learner: Decisions per second that the learner learns from.
        update: Decisions of an update.
        weights: Bytes of one version of the trained weights.
        decision: Bytes that a decision brings to the learner.
    """

    worker: float
    learner: float
    update: int
    weights: float
    decision: float

    @property
    def saturation(self) -> float:
        """Workers beyond which the learner is the limit."""
        return self.learner / self.worker


@dataclass(frozen=True)
class Point:
    """A number of workers.

    Attributes:
        in_step: Decisions per second with ``max_staleness`` 0: workers and learner take turns.
        ahead: Decisions per second with ``max_staleness`` of at least 1: the slower of both is the limit.
        down: Bytes per second of weights from the learner to all workers together, at ``ahead``.
        up: Bytes per second of decisions into the learner, at ``ahead``.
    """

    workers: int
    in_step: float
    ahead: float
    down: float
    up: float


def point(rates: Rates, workers: int) -> Point:
    """Where so many workers lead, if none waits for another."""
    play = workers * rates.worker
    in_step = 1.0 / (1.0 / play + 1.0 / rates.learner)
    ahead = min(play, rates.learner)
    return Point(workers, in_step, ahead, ahead / rates.update * rates.weights * workers, ahead * rates.decision)


@dataclass(frozen=True)
class Accelerator:
    """A GPU and what part of its limits is reached; the defaults are an H100 SXM in bfloat16.

    Attributes:
        flops: Per second.
        bandwidth: Bytes per second of its memory.
        use: Share of both that is reached.
    """

    flops: float = 989e12
    bandwidth: float = 3.35e12
    use: float = 0.4


@dataclass(frozen=True)
class Decisions:
    """What a decision is, on average.

    Attributes:
        prompt: Tokens, those of the image included.
        output: Tokens.
        batch: Decisions that a worker makes at a time.
        epochs: Passes of the learner over a decision.
        image: Bytes.
        turns: Per second, of all the worlds of a worker: those of one core, times its cores.
    """

    prompt: int = 700
    output: int = 80
    batch: int = 32
    epochs: int = 3
    image: int = 224 * 224 * 3
    turns: float = 40.0


def assumed(model: TextModel, rank: int, *, worker_gpus: int, learner_gpus: int, update: int,
            of: Decisions = Decisions(), gpu: Accelerator = Accelerator()) -> Rates:
    """Rates of a model that nobody has measured: 2 operations per parameter and token of a forward pass.

    A decode step reads all weights (2 bytes each) or computes, whichever takes longer. With LoRA a training pass costs
    three forward passes: forward, again for the recomputed activations, and the gradients of activations; those of the
    frozen weights are not computed. Worlds are taken to move while another half of the batch is decided for.
    """
    compute, memory = gpu.flops * gpu.use, gpu.bandwidth * gpu.use
    token = 2.0 * model.parameters / (worker_gpus * compute)
    step = max(2.0 * model.parameters / (worker_gpus * memory), of.batch * token)
    worker = of.batch / (of.batch * of.prompt * token + of.output * step)
    learner = learner_gpus * compute / (3 * 2.0 * model.parameters * (of.prompt + of.output) * of.epochs)
    return Rates(min(worker, of.turns), learner, update, lora_bytes(model, rank), of.image + 16.0 * of.output)
