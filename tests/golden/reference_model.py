#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""NumPy float32 evaluation of llama and gemma3 GGUF models from their dequantised weights.

The oracle of the golden files, written to be read: dense causal attention over the whole sequence, nothing cached,
nothing approximated, no batching. Needs PyPI gguf and numpy; --perplexity and --text also need tokenizers.

  reference_model.py --model F --ids FILE|'1 2 3' [--logits-out F.npy] [--greedy N]
  reference_model.py --model F --text FILE|-   (ids of the text, on standard output)
  reference_model.py --model F --perplexity TEXTFILE [-c 512] [--windows 8]
"""
import argparse
import os
import sys

import numpy as np
from gguf import GGUFReader, quants

GEMMA_LOCAL_ROPE_BASE = 10000.0
GEMMA_GLOBAL_EVERY = 6  # layer il sees everything when il % 6 == 5, else a sliding window


class Model:
    """Weights and shape of one file; float64 is there to show how far float32 itself is off."""

    def __init__(self, path, dtype=np.float32):
        reader = GGUFReader(path)
        self.metadata = {key: field for key, field in reader.fields.items()}
        self.dtype = dtype
        self.arch = self.field("general.architecture")
        if self.arch not in ("llama", "gemma3"):
            raise SystemExit(f"{path}: architecture {self.arch} is neither llama nor gemma3")
        self.gemma = self.arch == "gemma3"
        self.n_layers = self.own("block_count")
        self.n_embd = self.own("embedding_length")
        self.n_heads = self.own("attention.head_count")
        self.n_kv_heads = self.own("attention.head_count_kv", self.n_heads)
        self.head_dim = self.own("attention.key_length", self.n_embd // self.n_heads)
        self.eps = self.own("attention.layer_norm_rms_epsilon")
        self.rope_base = self.own("rope.freq_base", 10000.0)
        self.window = self.own("attention.sliding_window") if self.gemma else None
        if self.own("rope.dimension_count", self.head_dim) != self.head_dim or self.own("rope.scaling.type", "none") != "none":
            raise SystemExit(f"{path}: partial or scaled RoPE is not written here")
        self.weights = {
            t.name: quants.dequantize(t.data, t.tensor_type).astype(dtype).reshape([int(n) for n in t.shape[::-1]])
            for t in reader.tensors}  # linear layers: [n_out, n_in]
        known = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"}
        if self.gemma:
            known |= {"attn_q_norm", "attn_k_norm", "post_attention_norm", "post_ffw_norm"}
        expected = {f"blk.{layer}.{name}.weight" for layer in range(self.n_layers) for name in known}
        expected |= {"token_embd.weight", "output_norm.weight"}
        if set(self.weights) - {"output.weight"} != expected:
            raise SystemExit(f"{path}: tensors unknown or missing: {sorted(set(self.weights) ^ expected)}")

    def field(self, key, default=None):
        return self.metadata[key].contents() if key in self.metadata else default

    def own(self, key, default=None):
        return self.field(f"{self.arch}.{key}", default)

    def w(self, layer, name):
        return self.weights[f"blk.{layer}.{name}.weight"]

    def norm(self, x, weight):
        """RMS norm over the last axis; gemma3 files hold weights with their +1 already added."""
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.dtype(self.eps)) * weight

    def rope(self, x, base):
        """Rotates x [n, heads, head_dim] by its position: adjacent pairs (NORM, llama) or halves (NEOX, gemma3)."""
        n, _, d = x.shape
        angle = np.arange(n)[:, None] * base ** (-np.arange(0, d, 2) / d)  # in double: [n, d / 2]
        c, s = (f(angle)[:, None].astype(self.dtype) for f in (np.cos, np.sin))
        a, b = (slice(0, d // 2), slice(d // 2, d)) if self.gemma else (slice(0, d, 2), slice(1, d, 2))
        out = np.empty_like(x)
        out[..., a] = x[..., a] * c - x[..., b] * s
        out[..., b] = x[..., a] * s + x[..., b] * c
        return out

    def attention(self, layer, x):
        n = len(x)
        local = self.gemma and layer % GEMMA_GLOBAL_EVERY != GEMMA_GLOBAL_EVERY - 1
        q = (x @ self.w(layer, "attn_q").T).reshape(n, self.n_heads, self.head_dim)
        k = (x @ self.w(layer, "attn_k").T).reshape(n, self.n_kv_heads, self.head_dim)
        v = (x @ self.w(layer, "attn_v").T).reshape(n, self.n_kv_heads, self.head_dim)
        if self.gemma:
            q = self.norm(q, self.w(layer, "attn_q_norm"))
            k = self.norm(k, self.w(layer, "attn_k_norm"))
        base = GEMMA_LOCAL_ROPE_BASE if local else self.rope_base
        q, k = self.rope(q, base), self.rope(k, base)
        query, key = np.arange(n)[:, None], np.arange(n)[None]
        visible = key <= query
        if local:
            visible &= key > query - self.window  # the query's own position and the window - 1 before it
        scale = self.dtype(1 / np.sqrt(self.head_dim))
        out = np.empty_like(q)
        for head in range(self.n_heads):
            kv_head = head // (self.n_heads // self.n_kv_heads)
            score = np.where(visible, q[:, head] @ k[:, kv_head].T * scale, self.dtype(-np.inf))
            p = np.exp(score - score.max(axis=-1, keepdims=True))
            out[:, head] = p / p.sum(axis=-1, keepdims=True) @ v[:, kv_head]
        return out.reshape(n, -1) @ self.w(layer, "attn_output").T

    def mlp(self, layer, x):
        gate, up = x @ self.w(layer, "ffn_gate").T, x @ self.w(layer, "ffn_up").T
        one = self.dtype(1)
        if self.gemma:  # GELU, tanh form
            inner = self.dtype(np.sqrt(2 / np.pi)) * (gate + self.dtype(0.044715) * gate * gate * gate)
            act = self.dtype(0.5) * gate * (one + np.tanh(inner))
        else:  # SiLU
            act = gate / (one + np.exp(-gate))
        return (act * up) @ self.w(layer, "ffn_down").T

    def hidden(self, ids):
        """Hidden states after the final norm: [n, n_embd]."""
        x = self.weights["token_embd.weight"][np.asarray(ids)]
        if self.gemma:
            x = x * self.dtype(np.sqrt(self.n_embd))
        for layer in range(self.n_layers):
            y = self.attention(layer, self.norm(x, self.w(layer, "attn_norm")))
            x = x + (self.norm(y, self.w(layer, "post_attention_norm")) if self.gemma else y)
            y = self.mlp(layer, self.norm(x, self.w(layer, "ffn_norm")))
            x = x + (self.norm(y, self.w(layer, "post_ffw_norm")) if self.gemma else y)
        assert x.dtype == self.dtype
        return self.norm(x, self.weights["output_norm.weight"])

    def logits(self, ids, rows=None):
        """Logits of all or of the given positions: [n, n_vocab]. Without output.weight the embedding serves."""
        x = self.hidden(ids)
        output = self.weights.get("output.weight", self.weights["token_embd.weight"])
        return (x if rows is None else x[rows]) @ output.T

    def bos(self):
        """The id that starts a text, or None where the model adds none."""
        default = self.field("tokenizer.ggml.model") == "llama"
        return self.field("tokenizer.ggml.bos_token_id") if self.field("tokenizer.ggml.add_bos_token", default) else None

    def encode(self, text):
        """Ids of a plain text (no special tokens in it, no BOS), for making golden files only."""
        tokens = self.field("tokenizer.ggml.tokens")
        kind = (self.field("tokenizer.ggml.model"), self.field("tokenizer.ggml.pre"))
        if kind == ("gpt2", "smollm"):
            return encode_smollm(text, tokens, self.field("tokenizer.ggml.merges"))
        if kind[0] == "llama" and not self.field("tokenizer.ggml.add_space_prefix", True):
            return encode_spm(text, tokens, self.field("tokenizer.ggml.scores"))
        raise SystemExit(f"no tokenizer for {kind}: give ids instead")

    def decode(self, ids):
        tokens = self.field("tokenizer.ggml.tokens")
        text = "".join(tokens[i] for i in ids)
        return text.replace("Ġ", " ").replace("Ċ", "\n").replace("\u2581", " ")  # readable, not exact


def encode_smollm(text, tokens, merges):
    """Every digit by itself, then the GPT-2 expression, then byte-level BPE."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    tokenizer = Tokenizer(models.BPE(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[tuple(m.split(" ", 1)) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return tokenizer.encode(text).ids


def encode_spm(text, tokens, scores):
    """SentencePiece BPE: merge the neighbours whose union scores highest, leftmost first, until none is a token."""
    ids = {token: i for i, token in enumerate(tokens)}
    pieces = list(text.replace(" ", "\u2581"))
    while len(pieces) > 1:
        union = [ids.get(a + b) for a, b in zip(pieces, pieces[1:])]
        best = max(range(len(union)), key=lambda i: -np.inf if union[i] is None else scores[union[i]])
        if union[best] is None:
            break
        pieces[best:best + 2] = [pieces[best] + pieces[best + 1]]
    out = []
    for piece in pieces:
        out.extend([ids[piece]] if piece in ids else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()])
    return out


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def window_losses(model, ids, n_ctx, n_windows):
    """Negative log-likelihoods [n_windows, n_ctx / 2] over non-overlapping windows of n_ctx tokens.

    Scored are positions n_ctx/2 .. n_ctx-1, each from its prefix in its window. Where the model adds BOS, BOS takes
    the place of each window's first token, so a window holds n_ctx ids in either case.
    """
    losses = []
    for i in range(n_windows):
        window = list(ids[i * n_ctx:(i + 1) * n_ctx])
        if len(window) < n_ctx:
            raise SystemExit(f"the text has {len(ids)} tokens; {n_windows} windows of {n_ctx} need more")
        if model.bos() is not None:
            window[0] = model.bos()
        rows = np.arange(n_ctx // 2 - 1, n_ctx - 1)
        p = log_softmax(model.logits(window, rows))
        losses.append(-p[np.arange(len(rows)), np.asarray(window)[rows + 1]])
        print(f"[{i + 1}] {np.exp(np.mean(losses)):.4f}", file=sys.stderr, flush=True)
    return np.array(losses)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--ids", help="file with ids, or the ids themselves, separated by spaces")
    parser.add_argument("--logits-out", help="f32 [n_ids, n_vocab] as .npy")
    parser.add_argument("--greedy", type=int, default=0, help="continue by so many most likely tokens")
    parser.add_argument("--text", help="text file (- is standard input) whose ids are wanted")
    parser.add_argument("--perplexity", metavar="TEXT", help="text file")
    parser.add_argument("-c", type=int, default=512, help="tokens in a window")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--float64", action="store_true", help="all arithmetic in double")
    args = parser.parse_args()
    model = Model(args.model, np.float64 if args.float64 else np.float32)
    if args.text:
        text = sys.stdin.read() if args.text == "-" else open(args.text, encoding="utf-8", newline="").read()
        print(*([] if model.bos() is None else [model.bos()]), *model.encode(text))
    if args.perplexity:
        ids = model.encode(open(args.perplexity, encoding="utf-8", newline="").read())
        if model.bos() is not None:
            ids = [model.bos()] + ids
        losses = window_losses(model, ids, args.c, args.windows)
        error = losses.std(ddof=1) / np.sqrt(losses.size)
        print(f"Final estimate: PPL = {np.exp(losses.mean()):.4f} +/- {np.exp(losses.mean()) * error:.4f}")
    if args.ids:
        source = open(args.ids, encoding="utf-8").read() if os.path.exists(args.ids) else args.ids
        ids = [int(word) for word in source.split()]
        if args.logits_out:
            np.save(args.logits_out, model.logits(ids).astype(np.float32))
        for _ in range(args.greedy):
            ids.append(int(model.logits(ids, [-1])[0].argmax()))
        if args.greedy:
            print(*ids, sep=" ")
            print(model.decode(ids))


if __name__ == "__main__":
    main()
