// SPDX-License-Identifier: Apache-2.0
// What the reader and the writer of PEFT folders share. One thread.
#ifndef HT_ADAPTER_PEFT_H
#define HT_ADAPTER_PEFT_H
#include "engine/learn/adapter.h"

enum { HT_PEFT_PATH_BYTES = 4096 };

HT_MUST_USE enum hearth_status ht_peft_path(char path[HT_PEFT_PATH_BYTES], const char *folder, const char *name,
                                            struct hearth_error *err);
// "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" -> layer, linear and half; the module's name
// ("model.layers.0.self_attn.q_proj") is name[module_at, + module_len). False if it is not understood.
bool ht_peft_parse(const char *name, struct ht_adapter_target *which, bool *is_b, size_t *module_at,
                   size_t *module_len);

#endif
