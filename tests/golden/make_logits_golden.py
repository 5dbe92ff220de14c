#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes <name>_logits.bin and smollm2_perplexity.json. Usage: make_logits_golden.py SMOLLM2.gguf GEMMA3.gguf

Layout of a .bin (little-endian): magic 'WGL1', u32 n_ids, u32 n_rows, u32 n_top, u32 n_probe, u32 n_vocab,
then i32 ids[n_ids]; then per row: u32 position, f64 logsumexp, n_top x (i32 id, f32 logit) of the largest logits,
n_probe x (i32 id, f32 logit) of ids spread over the vocabulary.
KL(reference || other) follows from the top ids and one bucket for the rest; NMSE from the probes.
"""
import json
import struct
import sys

import numpy as np
from gguf import GGUFReader
from tokenizers import Tokenizer, models, pre_tokenizers

from reference_model import Model, log_softmax

TOP, PROBE = 256, 512


def write(path, ids, rows, logits):
    n_vocab = logits.shape[1]
    with open(path, "wb") as f:
        f.write(b"WGL1" + struct.pack("<5I", len(ids), len(rows), TOP, PROBE, n_vocab))
        f.write(np.asarray(ids, "<i4").tobytes())
        for position, row in zip(rows, logits):
            lse = float(row.max() + np.log(np.exp(row.astype(np.float64) - row.max()).sum()))
            f.write(struct.pack("<Id", position, lse))
            probe = (np.arange(PROBE, dtype=np.int64) * n_vocab) // PROBE
            for chosen in (np.argsort(-row, kind="stable")[:TOP], probe):
                pairs = np.empty(len(chosen), dtype=[("id", "<i4"), ("logit", "<f4")])
                pairs["id"], pairs["logit"] = chosen, row[chosen]
                f.write(pairs.tobytes())


def smollm2_tokenizer(path):
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ", 1)) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


def perplexity(model, ids, n_ctx, n_windows):
    """Non-overlapping windows of n_ctx tokens; tokens n_ctx/2 .. n_ctx-1 are scored from their prefixes in the window."""
    nll = []
    for i in range(n_windows):
        window = ids[i * n_ctx:(i + 1) * n_ctx]
        rows = np.arange(n_ctx // 2 - 1, n_ctx - 1)
        p = log_softmax(model.logits(window, rows))
        nll.extend(-p[np.arange(len(rows)), np.asarray(window)[rows + 1]])
    return float(np.exp(np.mean(nll))), len(nll)


def main():
    smol_path, gemma_path = sys.argv[1:3]
    text = open("/usr/share/common-licenses/GPL-3", encoding="utf-8").read()
    smol = Model(smol_path)
    ids = smollm2_tokenizer(smol_path).encode(text).ids
    rows = [0, 1, 7, 30, 63, 64, 100, 127]
    write("smollm2_logits.bin", ids[:128], rows, smol.logits(ids[:128], rows))
    value, count = perplexity(smol, ids, 512, 8)
    json.dump({"text": "GPL-3", "n_ctx": 512, "windows": 8, "perplexity": value, "scored": count,
               "n_ids": len(ids), "first_ids": ids[:16]}, open("smollm2_perplexity.json", "w"), indent=1)
    print("perplexity", value, count)
    gemma = Model(gemma_path)
    # 700 ids so that the 512-token windows matter; ids from a fixed generator, since the logits need no meaning.
    rng = np.random.default_rng(7)
    ids = [2] + [int(i) for i in rng.integers(300, 200000, 699)]
    rows = [0, 5, 63, 64, 511, 512, 600, 699]
    write("gemma3_logits.bin", ids, rows, gemma.logits(ids, rows))


main()
