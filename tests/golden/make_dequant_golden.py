#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes dequant.bin: random blocks of every weight type and the values that PyPI `gguf` gives them.

Little-endian: magic "WDQ1", u32 number of entries; each entry: u32 GGUF type id, u32 bytes of the blocks, u32 weights, the
blocks, the weights as f32. One row of 512 weights per type.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

N = 512
# Byte offsets of a block's f16 scales.
SCALES = {T.F16: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2],
          T.Q5_K: [0, 2], T.Q6_K: [208]}


def main():
    rng = np.random.default_rng(20261123)
    entries = []
    for kind in (T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K):
        n_weights, n_bytes = GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (N // n_weights, n_bytes), dtype=np.uint8)
        for at in SCALES.get(kind, []):
            # Either sign, 2^-12 .. 2^-4; the first block has a subnormal scale, the last one zero.
            half = rng.choice([-1.0, 1.0], len(blocks)) * 2.0 ** rng.uniform(-12, -4, len(blocks))
            half[0] = 3 * 2.0 ** -24
            half[-1] = 0.0 if len(blocks) > 2 else half[-1]
            blocks[:, at:at + 2] = half.astype("<f2").view(np.uint8).reshape(-1, 2)
        if kind == T.F32:
            blocks = rng.normal(0, 0.1, N).astype("<f4").view(np.uint8).reshape(-1, 4)
        if kind == T.BF16:
            blocks = rng.normal(0, 0.1, N).astype("<f4").view("<u2")[1::2].copy().view(np.uint8).reshape(-1, 2)
        row = blocks.reshape(1, -1)
        values = dequantize(row.view("<f4") if kind == T.F32 else row.view("<f2") if kind == T.F16 else row, kind)
        entries.append((int(kind), row.tobytes(), values.astype("<f4").reshape(-1)))
    out = pathlib.Path(__file__).parent / "dequant.bin"
    with open(out, "wb") as f:
        f.write(b"WDQ1" + struct.pack("<I", len(entries)))
        for kind, data, values in entries:
            assert len(values) == N and np.isfinite(values).all()
            f.write(struct.pack("<3I", kind, len(data), len(values)) + data + values.tobytes())
    print(out, out.stat().st_size, "bytes")


main()
