"""Settings of the trainings: supervised fine-tuning, the student's warm-up, and DPO of the teacher."""

from typing import Self

from pydantic import Field, model_validator

from montessori.settings.base import Frozen


class Training(Frozen):
    """Fine-tuning with AdamW. The learning rate rises, stays at its peak, and decays along a cosine."""

    learning_rate: float = Field(5e-6, gt=0, description="Peak learning rate. Paper: 5e-6.")
    epochs: int = Field(1, ge=1, description="Passes over the training set. Paper: 1.")
    batch_size: int = Field(
        32,
        ge=1,
        description="Examples in an optimizer step, over all devices and accumulation steps. Paper: 32 = 2 per device "
        "× 2 accumulation steps × 8 GPUs.",
    )
    per_device_batch_size: int = Field(2, ge=1, description="Examples in a forward pass of one device. Paper: 2.")
    warm_up_share: float = Field(
        0.1, ge=0, le=1, description="Share of the steps in which the learning rate rises to its peak. Paper: 0.1."
    )
    decay_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="Share of the steps, at the end, in which the learning rate decays. Paper: 0.4, after 0.5 at the "
        "peak.",
    )
    min_learning_rate_ratio: float = Field(
        1e-3, ge=0, le=1, description="Last learning rate, as a share of the peak. Paper: 0.001."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay, on every parameter. Paper: 0.")
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass, which saves memory and costs time."
    )
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients with a larger norm are scaled down to it.")
    # Omitted from the dump when 1, so that older fingerprints stay valid.
    stop: float = Field(
        1.0,
        gt=0,
        le=1,
        exclude_if=lambda share: share == 1,
        description="Share of the steps after which the training ends. The schedule is that of the whole training.",
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.warm_up_share + self.decay_share > 1:
            raise ValueError("warm_up_share + decay_share must not exceed 1")
        if self.batch_size % self.per_device_batch_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of "
                f"per_device_batch_size ({self.per_device_batch_size})"
            )
        return self


class WarmUp(Training):
    """The student's warm-up. Its learning rate rises linearly to the end (docs/explanation/method.md)."""

    warm_up_share: float = Field(
        1.0, ge=0, le=1, description="Share of the steps in which the learning rate rises to its peak."
    )
    decay_share: float = Field(
        0.0, ge=0, le=1, description="Share of the steps, at the end, in which the learning rate decays."
    )


class Dpo(Training):
    """Direct preference optimisation of the teacher."""

    learning_rate: float = Field(1e-6, gt=0, description="Peak learning rate. Paper: 1e-6.")
    batch_size: int = Field(
        2, ge=1, description="Pairs in an optimizer step, over all devices and accumulation steps. Paper: 2."
    )
    beta: float = Field(
        0.1, gt=0, description="β of the DPO loss. A larger β keeps the teacher closer to its copy. Paper: 0.1."
    )
