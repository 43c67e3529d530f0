"""The settings of a run: its length, its batches, its devices, and what it writes how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxbp.devices.mesh import MeshShape
from jaxbp.errors import InputError
from jaxbp.typed import Count, NotNegative, Seed, Typed


@dataclass(frozen=True)
class Run(Typed):
    """The length of a run, its batches, and how often it is evaluated and saved.

    Args:
        epochs: passes over the training part
        batch_size: examples in a step; 1 is online learning, None is the full batch
        seed: seed of initial weights, order and dropout
        shuffle: whether every epoch has a new order of the examples
        evaluate_every: epochs between evaluations
        steps_per_call: steps in one call of the compiled program; results do not depend on it
        micro_batches: equal parts that a batch is computed in, to save memory; a divisor of batch_size
        patience: evaluations without a better validation loss before the run stops; None: never
        stop_at_loss: the run stops at an evaluation whose training loss is this or lower; None: never
        checkpoint_seconds: time between checkpoints; 0 writes one after every call
        keep_checkpoints: how many checkpoints stay, the newest
        noise_scale_every: steps between measurements of the gradient noise scale; None: never
        sample_every: steps between samples of a model of text, in the folder samples; None: never
        dtype: of the products, forward and backward; parameters, sums, norms, softmax and losses are float32
        profile_step: the step that is traced for Perfetto and TensorBoard, in the folder profile; None: none
        writers: of the figures of each evaluation, besides metrics.jsonl: tensorboard, wandb (offline)
        health_every: steps between looks at the health of the layers, for the report; None: never
        keep_programs: whether commands keep compiled programs in the user's cache, so that the next start is quick
        mesh: the devices that share the work
    """

    epochs: Count
    batch_size: Count | None = 128
    seed: Seed = 0
    shuffle: bool = True
    evaluate_every: Count = 1
    steps_per_call: Count = 100
    micro_batches: Count = 1
    patience: Count | None = None
    stop_at_loss: float | None = None
    checkpoint_seconds: NotNegative = 60.0
    keep_checkpoints: Count = 2
    noise_scale_every: Count | None = None
    sample_every: Count | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    profile_step: Count | None = None
    writers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    health_every: Count | None = None
    keep_programs: bool = True
    mesh: MeshShape = MeshShape()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None and self.batch_size % self.micro_batches:
            raise InputError(f"Run: micro_batches must divide batch_size={self.batch_size}, got {self.micro_batches}")

    def is_over(self, train_loss: float, waited: int) -> bool:
        """Whether the run ends early at an evaluation of this training loss, the last `waited` without a better one."""
        out_of_patience = self.patience is not None and waited >= self.patience
        return out_of_patience or self.reaches(train_loss)

    def reaches(self, train_loss: float) -> bool:
        """Whether the training loss is low enough to stop at."""
        return self.stop_at_loss is not None and train_loss <= self.stop_at_loss
