"""A Llama with random weights: what the benchmark's own training step trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Size:
    """Shape of the model; `kv_heads` fewer than `heads` shares keys and values between heads.

    `batch`: samples and tokens a sample of a step, unless others are chosen.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    batch: tuple[int, int] = (16, 512)


# Beside the embeddings. "8b-layer": one of Llama-3-8B's 32, whose steps feed as its do a 32nd of
# the time; the whole model with its optimizer fits no single card.
SIZES = {
    "tiny": Size(layers=2, width=64, heads=4, kv_heads=2, hidden=192, batch=(4, 128)),
    "125m": Size(layers=12, width=768, heads=12, kv_heads=12, hidden=2048, batch=(32, 1024)),
    "1b": Size(layers=16, width=2048, heads=32, kv_heads=8, hidden=8192),
    "8b-layer": Size(layers=1, width=4096, heads=32, kv_heads=8, hidden=14336, batch=(4, 4096)),
}


class Llama(nn.Module):
    """Causal language model: RMSNorm, rotary positions, SDPA, SwiGLU, tied embeddings.

    `checkpointing`: a block's activations are computed again in the backward pass, not kept.
    """

    def __init__(self, size: Size, vocabulary: int, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.embed = nn.Embedding(vocabulary, size.width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.width)
        self.head_width = size.width // size.heads

    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of predicting `labels` (shifted here, as HF does); int64 [b, s]."""
        rotation = rotary(input_ids.shape[1], self.head_width, input_ids.device)
        x = self.embed(input_ids)
        for block in self.blocks:
            if self.checkpointing:
                x = checkpoint(block, x, rotation, use_reentrant=False)
            else:
                x = block(x, rotation)
        logits = F.linear(self.norm(x), self.embed.weight)
        loss: Tensor = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        )
        return loss


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and beside the residual."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads, self.kv_heads, width = size.heads, size.kv_heads, size.width
        head = width // size.heads
        self.attention_norm, self.feed_norm = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query = nn.Linear(width, size.heads * head, bias=False)
        self.key = nn.Linear(width, size.kv_heads * head, bias=False)
        self.value = nn.Linear(width, size.kv_heads * head, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, size.hidden, bias=False)
        self.up = nn.Linear(width, size.hidden, bias=False)
        self.down = nn.Linear(size.hidden, width, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """[b, s, width] -> [b, s, width]."""
        b, s, _ = x.shape
        h = self.attention_norm(x)
        query = rotate(self.query(h).view(b, s, self.heads, -1).transpose(1, 2), rotation)
        key = rotate(self.key(h).view(b, s, self.kv_heads, -1).transpose(1, 2), rotation)
        value = self.value(h).view(b, s, self.kv_heads, -1).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=self.heads != self.kv_heads
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(b, s, -1))
        h = self.feed_norm(x)
        out: Tensor = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return out


def rotary(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary positions, float32 [length, width]."""
    inverse = 500_000.0 ** -(torch.arange(0, width, 2, device=device) / width)
    angles = torch.outer(torch.arange(length, device=device), inverse).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs of features of [b, heads, s, width] by their positions."""
    cos, sin = (part.to(x.dtype) for part in rotation)
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin
