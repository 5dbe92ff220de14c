#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""NumPy float32 evaluation of llama and gemma3 GGUF models from their dequantised weights: the oracle of the golden files.

Needs PyPI gguf and numpy. Dense causal attention; nothing is cached, nothing is approximated.
"""
import numpy as np
from gguf import GGUFReader, quants


class Model:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.weights = {
            t.name: quants.dequantize(t.data, t.tensor_type).astype(np.float32)
            .reshape(tuple(int(d) for d in t.shape[::-1])) for t in reader.tensors}
        field = lambda key, default=None: (
            reader.fields[key].contents() if key in reader.fields else default)
        self.arch = field("general.architecture")
        own = lambda key, default=None: field(f"{self.arch}.{key}", default)
        self.gemma = self.arch == "gemma3"
        self.n_layers = own("block_count")
        self.n_embd = own("embedding_length")
        self.n_heads = own("attention.head_count")
        self.n_kv_heads = own("attention.head_count_kv", self.n_heads)
        self.head_dim = own("attention.key_length", self.n_embd // self.n_heads)
        self.eps = own("attention.layer_norm_rms_epsilon")
        self.rope_base = own("rope.freq_base", 10000.0)
        self.window = own("attention.sliding_window", 0) if self.gemma else 0

    def w(self, layer, name):
        return self.weights[f"blk.{layer}.{name}.weight"]

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self.eps)) * weight

    def rope(self, x, base):
        n, _, d = x.shape
        angle = np.arange(n)[:, None] * base ** (-np.arange(0, d, 2) / d)[None]
        c, s = (f(angle)[:, None].astype(np.float32) for f in (np.cos, np.sin))
        out = np.empty_like(x)
        a, b = (slice(0, d // 2), slice(d // 2, d)) if self.gemma else (slice(0, d, 2), slice(1, d, 2))
        out[..., a] = x[..., a] * c - x[..., b] * s
        out[..., b] = x[..., a] * s + x[..., b] * c
        return out

    def attention(self, layer, x):
        n, group = len(x), self.n_heads // self.n_kv_heads
        is_global = not self.gemma or layer % 6 == 5
        base = self.rope_base if is_global else 10000.0
        heads = lambda name, count: (x @ self.w(layer, name).T).reshape(n, count, self.head_dim)
        q, k, v = heads("attn_q", self.n_heads), heads("attn_k", self.n_kv_heads), heads("attn_v", self.n_kv_heads)
        if self.gemma:
            q, k = self.norm(q, self.w(layer, "attn_q_norm")), self.norm(k, self.w(layer, "attn_k_norm"))
        q, k = self.rope(q, base), self.rope(k, base)
        visible = np.tril(np.ones((n, n), bool))
        if not is_global:
            visible &= ~np.tril(np.ones((n, n), bool), -self.window)
        out = np.empty((n, self.n_heads, self.head_dim), np.float32)
        for h in range(self.n_heads):
            score = q[:, h] @ k[:, h // group].T / np.sqrt(np.float32(self.head_dim))
            score = np.where(visible, score, -np.inf)
            p = np.exp(score - score.max(-1, keepdims=True))
            out[:, h] = (p / p.sum(-1, keepdims=True)) @ v[:, h // group]
        return out.reshape(n, -1) @ self.w(layer, "attn_output").T

    def mlp(self, layer, x):
        gate, up = x @ self.w(layer, "ffn_gate").T, x @ self.w(layer, "ffn_up").T
        if self.gemma:
            gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate ** 3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return (gate * up) @ self.w(layer, "ffn_down").T

    def hidden(self, ids):
        """Final normed hidden states [n, n_embd] of a sequence of ids."""
        x = self.weights["token_embd.weight"][np.asarray(ids)]
        if self.gemma:
            x = x * np.sqrt(np.float32(self.n_embd))
        for layer in range(self.n_layers):
            y = self.attention(layer, self.norm(x, self.w(layer, "attn_norm")))
            x = x + (self.norm(y, self.w(layer, "post_attention_norm")) if self.gemma else y)
            y = self.mlp(layer, self.norm(x, self.w(layer, "ffn_norm")))
            x = x + (self.norm(y, self.w(layer, "post_ffw_norm")) if self.gemma else y)
        return self.norm(x, self.weights["output_norm.weight"])

    def logits(self, ids, rows=None):
        """Logits [n, n_vocab] of all or the given rows."""
        x = self.hidden(ids)
        output = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return (x if rows is None else x[rows]) @ output.T


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
