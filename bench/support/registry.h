// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace winnow::bench {

// One function per stage, in its own file; each registers that stage's benches for every shape.
void register_embed();
void register_sample_token();
void register_qkv();
void register_matvec_add();
void register_gate_up();
void register_logits();
void register_attend_dense();
void register_attention_pipeline();
void register_summarize_block();
void register_sum_evicted();
void register_indexer_score();
void register_select_rows();
void register_select_attend();
void register_attend_sparse();
void register_audit_mass();
void register_embed_rows();
void register_norm_rows();
void register_matmul();
void register_rope_append();
void register_attend_prefill();
void register_gate_rows();
void register_decode_loop();

inline void register_all() {
    register_embed();
    register_sample_token();
    register_qkv();
    register_matvec_add();
    register_gate_up();
    register_logits();
    register_attend_dense();
    register_attention_pipeline();
    register_summarize_block();
    register_sum_evicted();
    register_indexer_score();
    register_select_rows();
    register_select_attend();
    register_attend_sparse();
    register_audit_mass();
    register_embed_rows();
    register_norm_rows();
    register_matmul();
    register_rope_append();
    register_attend_prefill();
    register_gate_rows();
    register_decode_loop();
}

}  // namespace winnow::bench
