"""How long a training step takes: published times of real accelerators, and how they are filled in.

A step of `slots` token positions takes `a + b * slots`. One published time per profile fixes the sum;
`a` is what does not shrink with the batch: one AdamW pass over the weights, 24 bytes a parameter (bf16
weight and gradient read and written, two float32 moments read and written) at the card's memory
bandwidth. It is derived, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

OPTIMIZER_BYTES_PER_PARAMETER = 24


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One model on one accelerator.

    `step_s` seconds for `batch_size * seq_len` slots (`slots`, where the source's batches are padded to
    a mean length); `h2d_bytes_per_s` is the rate at which a batch reaches the card.
    """

    name: str
    title: str
    source: str
    step_s: float
    batch_size: int
    seq_len: int
    parameters: float
    memory_bytes_per_s: float
    h2d_bytes_per_s: float
    model: str
    slots: int = 0

    @property
    def step_slots(self) -> int:
        """Token positions of the published step."""
        return self.slots or self.batch_size * self.seq_len

    @property
    def fixed_ns(self) -> float:
        """`a`: nanoseconds a step takes whatever its batch."""
        return 1e9 * self.parameters * OPTIMIZER_BYTES_PER_PARAMETER / self.memory_bytes_per_s

    @property
    def slot_ns(self) -> float:
        """`b`: nanoseconds a token position adds."""
        return (1e9 * self.step_s - self.fixed_ns) / self.step_slots

    def step_ns(self, slots: int) -> int:
        """Nanoseconds of a step over `slots` token positions."""
        return round(self.fixed_ns + self.slot_ns * slots)


A100, H100, H200, L40S = 2.04e12, 3.35e12, 4.8e12, 0.864e12  # memory, bytes/s, from the data sheets
P4D, G6E = 24e9, 12e9  # host to device, bytes/s, of EC2's instances; p5's faster link is taken as p4d's

PROFILES: dict[str, Profile] = {
    p.name: p
    for p in (
        Profile(
            name="h100-124m",
            title="H100 124M seq 1024",
            source="GPT-2 124M speed run, 667k tok/s a card",
            step_s=65_536 / 667_000,
            batch_size=64,
            seq_len=1024,
            parameters=124e6,
            memory_bytes_per_s=H100,
            h2d_bytes_per_s=P4D,
            model="124m",
        ),
        Profile(
            name="h100-1b",
            title="H100 1B seq 512",
            source="Llama-3.2-1B, bf16, 8,192 tokens a step",
            step_s=0.157,
            batch_size=16,
            seq_len=512,
            parameters=1.24e9,
            memory_bytes_per_s=H100,
            h2d_bytes_per_s=P4D,
            model="1b",
        ),
        Profile(
            name="h100-1b-fp8",
            title="H100 1B fp8 seq 512",
            source="Llama-3.2-1B, fp8, 8,192 tokens a step",
            step_s=0.1165,
            batch_size=16,
            seq_len=512,
            parameters=1.24e9,
            memory_bytes_per_s=H100,
            h2d_bytes_per_s=P4D,
            model="1b",
        ),
        Profile(
            name="a100-1b",
            title="A100 1B seq 512",
            source="Llama-3.2-1B, bf16, 8,192 tokens a step",
            step_s=0.354,
            batch_size=16,
            seq_len=512,
            parameters=1.24e9,
            memory_bytes_per_s=A100,
            h2d_bytes_per_s=P4D,
            model="1b",
        ),
        Profile(
            name="l40s-1b-deck",
            title="L40S 1B padded to 280",
            source="Llama-3.2-1B fine-tuned on WikiText-2: wall time of trainer.train(), an upper bound",
            step_s=0.508,
            batch_size=16,
            seq_len=512,
            slots=16 * 280,
            parameters=1.24e9,
            memory_bytes_per_s=L40S,
            h2d_bytes_per_s=G6E,
            model="1b",
        ),
        Profile(
            name="a100-1b-deck",
            title="A100 1B padded to 280",
            source="Llama-3.2-1B fine-tuned on WikiText-2: wall time of trainer.train(), an upper bound",
            step_s=0.540,
            batch_size=16,
            seq_len=512,
            slots=16 * 280,
            parameters=1.24e9,
            memory_bytes_per_s=A100,
            h2d_bytes_per_s=P4D,
            model="1b",
        ),
        Profile(
            name="h100-8b",
            title="H100 8B seq 4096",
            source="Llama-3.1-8B, bf16, 16,384 tokens a step",
            step_s=2.457,
            batch_size=4,
            seq_len=4096,
            parameters=8.03e9,
            memory_bytes_per_s=H100,
            h2d_bytes_per_s=P4D,
            model="8b",
        ),
        Profile(
            name="h200-8b-fp8",
            title="H200 8B fp8 seq 4096",
            source="Llama-3.1-8B, fp8, 16,384 tokens a step",
            step_s=1.498,
            batch_size=4,
            seq_len=4096,
            parameters=8.03e9,
            memory_bytes_per_s=H200,
            h2d_bytes_per_s=P4D,
            model="8b",
        ),
    )
}
DEFAULT_PROFILE = "h100-124m"
