"""Layers over the rows of a window: attention pooling, and a transformer layer.

Axes: B windows, T rows of a window, D width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own convention
from torch import Tensor, nn


class AttentionPooling(nn.Module):
    """Vectors [B, T, D] to one [B, D]: a weighted mean over T whose weights are learned.

    Weights are the softmax of Linear(tanh(Linear(h))) and of a bias of each step back from the
    last row, so that windows of any length share it.

    Example:
        >>> AttentionPooling(8, max_window=32)(torch.randn(3, 20, 8)).shape
        torch.Size([3, 8])
    """

    def __init__(self, d_model: int, max_window: int, hidden: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_model, hidden)
        self.score = nn.Linear(hidden, 1)
        self.step = nn.Parameter(torch.zeros(max_window))

    def forward(self, h_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """The pooled vectors [B, D]; 0 for a window of which no row counts."""
        late_T = self.step[len(self.step) - h_BTD.shape[1] :]
        score_BT = self.score(torch.tanh(self.hidden(h_BTD))).squeeze(-1) + late_T
        if mask_BT is None:
            weight_BT = torch.softmax(score_BT, dim=1)
        else:
            low = torch.finfo(score_BT.dtype).min
            weight_BT = torch.softmax(score_BT.masked_fill(~mask_BT, low), dim=1) * mask_BT
        return (weight_BT.unsqueeze(1).to(h_BTD.dtype) @ h_BTD).squeeze(1)


class TransformerLayer(nn.Module):
    """A pre-norm transformer layer [B, T, D] -> [B, T, D]: every row looks at every other.

    Example:
        >>> TransformerLayer(8, heads=2)(torch.randn(3, 20, 8)).shape
        torch.Size([3, 20, 8])
    """

    def __init__(self, d_model: int, heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_hidden = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.hidden, self.back = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """The rows, each with what it found in those that `mask_BT` lets count."""
        split = self.qkv(self.norm_attention(h_BTD)).unflatten(-1, (3, self.heads, -1))
        q_BHTd, k_BHTd, v_BHTd = split.permute(2, 0, 3, 1, 4).unbind(0)
        seen = None if mask_BT is None else (mask_BT | ~mask_BT.any(1, keepdim=True))[:, None, None]
        found = F.scaled_dot_product_attention(q_BHTd, k_BHTd, v_BHTd, attn_mask=seen)
        h_BTD = h_BTD + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        made: Tensor = self.back(F.gelu(self.hidden(self.norm_hidden(h_BTD))))
        out: Tensor = h_BTD + self.dropout(made)
        return out
