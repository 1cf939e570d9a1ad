// SPDX-License-Identifier: Apache-2.0
// A witness: the logits that llama.cpp gives for a list of token ids, as raw float32 (n_tokens, n_vocab).
//   llama-logits MODEL IDS_FILE OUT THREADS BATCH FLASH [ADAPTER]
// ADAPTER: a GGUF-LoRA. IDS_FILE holds blank-separated ids, used as they are; FLASH is 0 or 1; the KV cache is f16
// (llama.cpp's default).
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "llama.h"

enum { MAX_IDS = 1 << 16 };

static void quiet(enum ggml_log_level level, const char *text, void *user)
{
    (void)level, (void)text, (void)user;
}

static int read_ids(const char *path, llama_token *ids)
{
    FILE *f = fopen(path, "r");
    int n = 0;
    while (f && n < MAX_IDS && fscanf(f, "%d", &ids[n]) == 1)
        n++;
    if (f)
        fclose(f);
    return n;
}

// All ids in batches; each batch's logits are appended to `out`.
static int run(struct llama_context *ctx, const llama_token *ids, int n, int batch_size, int n_vocab, FILE *out)
{
    struct llama_batch batch = llama_batch_init(batch_size, 0, 1);
    for (int at = 0; at < n; at += batch_size) {
        int len = n - at < batch_size ? n - at : batch_size;
        batch.n_tokens = len;
        for (int i = 0; i < len; i++) {
            batch.token[i] = ids[at + i];
            batch.pos[i] = at + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = true;
        }
        if (llama_decode(ctx, batch))
            return 1;
        for (int i = 0; i < len; i++)
            if (fwrite(llama_get_logits_ith(ctx, i), sizeof(float), (size_t)n_vocab, out) != (size_t)n_vocab)
                return 1;
    }
    llama_batch_free(batch);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 7 && argc != 8)
        return 2;
    static llama_token ids[MAX_IDS];
    int n = read_ids(argv[2], ids);
    int batch_size = (int)strtol(argv[5], NULL, 10);
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model_params model_params = llama_model_default_params();
    struct llama_model *model = llama_model_load_from_file(argv[1], model_params);
    if (!model || n == 0)
        return 1;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = (uint32_t)n + 32;
    params.n_batch = params.n_ubatch = (uint32_t)batch_size;
    params.n_threads = params.n_threads_batch = (int32_t)strtol(argv[4], NULL, 10);
    params.flash_attn_type = argv[6][0] == '1' ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    struct llama_context *ctx = llama_init_from_model(model, params);
    FILE *out = fopen(argv[3], "wb");
    if (!ctx || !out)
        return 1;
    struct llama_adapter_lora *adapter = argc == 8 ? llama_adapter_lora_init(model, argv[7]) : NULL;
    float scale = 1;
    if (argc == 8 && (!adapter || llama_set_adapters_lora(ctx, &adapter, 1, &scale)))
        return 1;
    int status = run(ctx, ids, n, batch_size, llama_vocab_n_tokens(llama_model_get_vocab(model)), out);
    return fclose(out) || status;
}
