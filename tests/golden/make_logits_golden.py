#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of this folder; README.md describes them.

  make_logits_golden.py SMOLLM2.gguf GEMMA3.gguf     write all
  make_logits_golden.py --compare GOLDEN F.npy       KL and NMSE of logits [n_ids, n_vocab], as of --logits-out
"""
import hashlib
import json
import pathlib
import struct
import sys

import numpy as np

from reference_model import Model, log_softmax, window_losses

HERE = pathlib.Path(__file__).parent
GPL = pathlib.Path("/usr/share/common-licenses/GPL-3")
N_TOP, N_PROBE = 256, 512
PAIR = np.dtype([("id", "<i4"), ("logit", "<f4")])

# Jane Austen, Pride and Prejudice (1813), chapter 1; with a line of figures for the digit rule.
SMOLLM2_PROSE = """It is a truth universally acknowledged, that a single man in possession of a good fortune, must be \
in want of a wife. Bingley had 4000 or 5,000 pounds a year in 1813.
However little known the feelings or views of such a man may be on his first entering a neighbourhood, this truth is so well fixed
"""
# Charles Darwin, On the Origin of Species (1859), introduction; with a line of other scripts.
GEMMA3_PROSE = """When on board H.M.S. 'Beagle', as naturalist, I was much struck with certain facts in the distribution \
of the inhabitants of South America (1831–1836).
Über die Entstehung der Arten, 種の起源. These facts seemed to me to throw some light on the origin of species
"""


def write(name, ids, rows, logits):
    """One .bin from the logits of the given rows."""
    n_vocab = logits.shape[1]
    probe = np.sort(np.random.default_rng(20261123).choice(n_vocab, N_PROBE, replace=False))
    with open(HERE / name, "wb") as f:
        f.write(b"WGL1" + struct.pack("<5I", len(ids), len(rows), N_TOP, N_PROBE, n_vocab))
        f.write(np.asarray(ids, "<i4").tobytes())
        for position, row in zip(rows, logits):
            largest = float(row.max())
            f.write(struct.pack("<Id", position, largest + np.log(np.exp(row.astype(np.float64) - largest).sum())))
            for chosen in (np.argsort(-row, kind="stable")[:N_TOP], probe):
                pairs = np.empty(len(chosen), PAIR)
                pairs["id"], pairs["logit"] = chosen, row[chosen]
                f.write(pairs.tobytes())


def read(path):
    """(ids, [(position, logsumexp, top, probes)]) of one .bin."""
    data = pathlib.Path(path).read_bytes()
    n_ids, n_rows, n_top, n_probe, _ = struct.unpack_from("<5I", data, 4)
    assert data[:4] == b"WGL1" and len(data) == 24 + 4 * n_ids + n_rows * (12 + 8 * (n_top + n_probe))
    rows, at = [], 24 + 4 * n_ids
    for _ in range(n_rows):
        position, logsumexp = struct.unpack_from("<Id", data, at)
        pairs = np.frombuffer(data, PAIR, n_top + n_probe, at + 12)
        rows.append((position, logsumexp, pairs[:n_top], pairs[n_top:]))
        at += 12 + 8 * (n_top + n_probe)
    return np.frombuffer(data, "<i4", n_ids, 24), rows


def compare(golden, logits_at):
    """Mean KL(golden || logits) and NMSE; logits_at(position) gives a row of n_vocab logits. README.md has the formulas."""
    kls, error, power = [], 0.0, 0.0
    for position, logsumexp, top, probes in read(golden)[1]:
        row = logits_at(position)
        log_p = top["logit"] - np.float64(logsumexp)
        log_q = log_softmax(row)[top["id"]]
        kl = float((np.exp(log_p) * (log_p - log_q)).sum())
        rest_p, rest_q = 1 - np.exp(log_p).sum(), 1 - np.exp(log_q).sum()
        if rest_p > 1e-9 and rest_q > 1e-9:
            kl += float(rest_p * np.log(rest_p / rest_q))
        kls.append(kl)
        error += float(((row[probes["id"]].astype(np.float64) - probes["logit"]) ** 2).sum())
        power += float((probes["logit"].astype(np.float64) ** 2).sum())
    return np.mean(kls), max(kls), error / power


def make(name, path, ids, rows):
    logits = Model(path).logits(ids, rows)
    write(name, ids, rows, logits)
    double = dict(zip(rows, Model(path, np.float64).logits(ids, rows)))
    kl, worst, nmse = compare(HERE / name, lambda position: double[position])
    top = np.sort(logits[-1])[-2:]
    print(f"{name}: {len(ids)} ids; float64 gives KL {kl:.2g} (worst {worst:.2g}), NMSE {nmse:.2g};"
          f" last row's first choice leads by {top[1] - top[0]:.3f}")


def make_perplexity(path, n_ctx=512, n_windows=8):
    model = Model(path)
    ids = model.encode(GPL.read_text(encoding="utf-8"))
    losses = window_losses(model, ids, n_ctx, n_windows)
    result = {
        "text": str(GPL),
        "text_sha256": hashlib.sha256(GPL.read_bytes()).hexdigest(),
        "n_ctx": n_ctx,
        "windows": n_windows,
        "perplexity": float(np.exp(losses.mean())),
        "scored": losses.size,
        "running": [float(np.exp(losses[:i + 1].mean())) for i in range(n_windows)],
        "n_ids": len(ids),
        "ids_sha256": hashlib.sha256(np.asarray(ids, "<i4").tobytes()).hexdigest(),
        "ids_fnv1a64": f"{fnv1a64(np.asarray(ids, '<i4').tobytes()):016x}",
        "first_ids": ids[:16],
    }
    (HERE / "smollm2_perplexity.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"perplexity {result['perplexity']:.5f} over {losses.size} tokens")


def fnv1a64(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2 ** 64
    return value


def main():
    if len(sys.argv) == 4 and sys.argv[1] == "--compare":
        logits = np.load(sys.argv[3], mmap_mode="r")
        kl, worst, nmse = compare(sys.argv[2], lambda position: np.asarray(logits[position]))
        print(f"KL {kl:.3g} (worst {worst:.3g}), NMSE {nmse:.3g}")
        return
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    smollm2, gemma3 = sys.argv[1:]
    ids = Model(smollm2).encode(SMOLLM2_PROSE)[:64]
    make("smollm2_logits.bin", smollm2, ids, [0, 1, 7, 15, 31, 47, 62, 63])
    tokenizer = Model(gemma3)
    ids = ([tokenizer.bos()] + tokenizer.encode(GEMMA3_PROSE))[:56]
    make("gemma3_short_logits.bin", gemma3, ids, [0, 1, 7, 15, 31, 47, 54, 55])
    # Long enough for the 512-token windows to close: positions 511 and 512 lie on either side of the edge.
    ids = ([tokenizer.bos()] + tokenizer.encode(GPL.read_text(encoding="utf-8")[:4000]))[:700]
    make("gemma3_logits.bin", gemma3, ids, [0, 63, 511, 512, 513, 600, 650, 699])
    make_perplexity(smollm2)


if __name__ == "__main__":
    main()
