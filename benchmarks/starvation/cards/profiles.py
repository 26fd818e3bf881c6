"""How long a training step takes: published times of real accelerators, and how they are filled in.

A step of `slots` token positions takes `a + b * slots`. One published time per profile fixes the
sum; `a` is what does not shrink with the batch: one AdamW pass over the weights, 24 bytes a
parameter (bf16 weight and gradient read and written, two float32 moments read and written) at the
card's memory bandwidth. It is derived, not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

OPTIMIZER_BYTES_PER_PARAMETER = 24
SLOW_STEP_S, SLOW_SCALE = 0.1, 1 / 25


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One model on one accelerator.

    `step_s` seconds for `batch_size * seq_len` slots (`slots`, where the source's batches are
    padded to a mean length); `h2d_bytes_per_s` is the rate at which a batch reaches the card.
    `communication_s`: seconds behind that in which the step waits for other ranks' data.
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
    communication_s: float = 0.0

    @property
    def time_scale(self) -> float:
        """What its steps are shortened by unless one is chosen: a run should take minutes.

        1/25 for steps above 0.1 s, and more for those that would still be longer than that.
        """
        step_s = self.step_s + self.communication_s
        return min(SLOW_SCALE, SLOW_STEP_S / step_s) if step_s > SLOW_STEP_S else 1.0

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

    def step_ns(self, slots: float) -> int:
        """Nanoseconds of a step over `slots` token positions."""
        return round(self.fixed_ns + self.slot_ns * slots)


# Memory bandwidth, bytes/s, from the data sheets.
A100, H100, H200, L40S = 2.04e12, 3.35e12, 4.8e12, 0.864e12
# Host to device, bytes/s, of EC2's instances; p5's link is faster, but taken as p4d's.
P4D, G6E = 24e9, 12e9
DECK = "Llama-3.2-1B on WikiText-2, wall time of trainer.train(): an upper bound"


PARAMETERS = {"124m": 124e6, "1b": 1.24e9, "8b": 8.03e9, "resnet-50": 25.6e6}


def _profile(
    name: str,
    title: str,
    source: str,
    step_s: float,
    shape: tuple[int, int],
    *,
    model: str = "1b",
    memory: float = H100,
    link: float = P4D,
    slots: int = 0,
    communication_s: float = 0.0,
) -> Profile:
    return Profile(
        name=name,
        title=title,
        source=source,
        step_s=step_s,
        batch_size=shape[0],
        seq_len=shape[1],
        slots=slots,
        communication_s=communication_s,
        parameters=PARAMETERS[model],
        memory_bytes_per_s=memory,
        h2d_bytes_per_s=link,
        model=model,
    )


# Llama-3-8B on 4 cards, one row of 280 slots each: seconds of 50 steps, by what joins the cards.
# Compute is not known apart: the whole NVLink run counts as that, so the others' communication is a
# lower bound. The last one ran on other cards, where it may be compute that differs.
DECK_8B = {
    "nvlink": ("NVLink", 16 * 60 + 21, A100),
    "shm": ("shared memory", 38 * 60 + 32, A100),
    "efa": ("EFA with GPUDirect", 39 * 60 + 32, A100),
    "eni": ("ENI", 80 * 60 + 29, A100),
    "g6e": ("g6e's network", 129 * 60 + 40, L40S),
}
DECK_STEPS = 50


def _deck_8b(name: str) -> Profile:
    title, seconds, memory = DECK_8B[name]
    step_s = DECK_8B["nvlink"][1] / DECK_STEPS
    return _profile(
        f"deck-8b-{name}",
        f"8B on 4 cards by {title}",
        "Llama-3-8B, 50 steps, wall time; the NVLink run counts as compute",
        step_s,
        (1, 280),
        model="8b",
        memory=memory,
        link=G6E if name == "g6e" else P4D,
        communication_s=seconds / DECK_STEPS - step_s,
    )


DEFAULT_PROFILE = "h100-124m"
_SPEED_RUN = "GPT-2 124M speed run, 667k tok/s a card"
_1B, _8B = "Llama-3.2-1B, 8,192 tokens a step", "Llama-3.1-8B, 16,384 tokens a step"
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        _profile(
            "h100-124m",
            "H100 124M seq 1024",
            _SPEED_RUN,
            64 * 1024 / 667_000,
            (64, 1024),
            model="124m",
        ),
        _profile("h100-1b", "H100 1B seq 512", _1B, 0.157, (16, 512)),
        _profile("h100-1b-fp8", "H100 1B fp8 seq 512", _1B, 0.1165, (16, 512)),
        _profile("a100-1b", "A100 1B seq 512", _1B, 0.354, (16, 512), memory=A100),
        _profile(
            "l40s-1b-deck",
            "L40S 1B padded to 280",
            DECK,
            0.508,
            (16, 512),
            memory=L40S,
            link=G6E,
            slots=16 * 280,
        ),
        _profile(
            "a100-1b-deck",
            "A100 1B padded to 280",
            DECK,
            0.540,
            (16, 512),
            memory=A100,
            slots=16 * 280,
        ),
        _profile("h100-8b", "H100 8B seq 4096", _8B, 2.457, (4, 4096), model="8b"),
        _profile(
            "h200-8b-fp8",
            "H200 8B fp8 seq 4096",
            _8B,
            1.498,
            (4, 4096),
            model="8b",
            memory=H200,
        ),
        # 7,168 tokens are, as int64 ids and labels, the 114,660 bytes of one of its images.
        _profile(
            "h100-resnet50",
            "H100 ResNet-50's bytes",
            "MLPerf Storage: 400 images of 114,660 bytes a step",
            0.224,
            (400, 7168),
            model="resnet-50",
        ),
        *(_deck_8b(name) for name in DECK_8B),
    )
}
