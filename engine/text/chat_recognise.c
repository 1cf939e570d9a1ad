// SPDX-License-Identifier: Apache-2.0
// Which built-in format a model file's template is, by the marks it contains, and the system text it spells
// out. Pure; any thread.
#include <string.h>

#include "engine/text/chat_format.h"

struct template
{
    const char *text;
    size_t n;
};

static bool has(struct template t, const char *mark)
{
    return memmem(t.text, t.n, mark, strlen(mark)) != NULL;
}

static const char *instruct_name(struct template t)
{
    if (has(t, "<<SYS>>"))
        return "llama2";
    if (has(t, "[SYSTEM_PROMPT]"))
        return "mistral-v7";
    if (has(t, " [INST]"))
        return "mistral-v1";
    return has(t, "\"[INST]\"") ? "mistral-v3-tekken" : "mistral-v3";
}

static const char *name_of(struct template t)
{
    if (has(t, "<|im_start|>"))
        return has(t, "<|im_sep|>") ? "phi4" : has(t, "enable_thinking") ? "qwen3" : "chatml";
    if (has(t, "[INST]"))
        return instruct_name(t);
    if (has(t, "<|assistant|>") && has(t, "<|end|>"))
        return "phi3";
    if (has(t, "[gMASK]<sop>"))
        return "glm4";
    if (has(t, "<|user|>") && (has(t, "<|endoftext|>") || has(t, "eos_token")))
        return "zephyr";
    if (has(t, "<start_of_turn>"))
        return "gemma";
    if (has(t, "USER: ") && has(t, "ASSISTANT: "))
        return "vicuna1.1";
    if (has(t, "<|start_header_id|>"))
        return has(t, "Cutting Knowledge Date: December 2023") ? "llama3.1" : "llama3";
    return has(t, "[gMASK]sop") ? "chatglm3" : NULL;
}

// Of a format that has a spelling for it. Templates that think are written turn by turn: some drop a late system text.
static bool takes_late_system(struct template t, const char *name)
{
    if (has(t, "System message must be at the beginning"))
        return false;
    return strcmp(name, "qwen3") != 0 || has(t, "\"system\" and not loop.first") ||
           has(t, "'system' and not loop.first");
}

// Copies what stands between `at` and <|im_end|> if that is one piece of constant text: inside a string of
// the template its escapes are undone, and it must not end before; outside, no expression may stand in it.
static enum hearth_status copy_constant(struct ht_chat *chat, const char *at, const char *end, char quote,
                                        bool *whole, struct hearth_error *err)
{
    static const char mark[] = "<|im_end|>";
    size_t n = 0;
    *whole = false;
    for (; at < end; at++) {
        char c = *at;
        if ((size_t)(end - at) >= sizeof mark - 1 && !memcmp(at, mark, sizeof mark - 1)) {
            *whole = true;
            break;
        }
        if (quote ? c == quote : c == '{')
            return HEARTH_OK;
        if (quote && c == '\\' && at + 1 < end) {
            c = *++at;
            c = (char)(c == 'n' ? '\n' : c == 't' ? '\t' : c);
        }
        if (n + 1 == sizeof chat->system)
            return ht_fail(err, HEARTH_LIMIT, "the chat template's own system text has more than %d bytes",
                           HT_CHAT_SYSTEM_BYTES - 1);
        chat->system[n++] = c;
    }
    if (!*whole)
        return HEARTH_OK;
    chat->system[n] = '\0';
    chat->system_len_bytes = n;
    return HEARTH_OK;
}

static enum hearth_status find_system(struct ht_chat *chat, struct template t, struct hearth_error *err)
{
    static const char open[] = "<|im_start|>system";
    const char *end = t.text + t.n, *at = t.text;
    while ((at = memmem(at, (size_t)(end - at), open, sizeof open - 1))) {
        char quote = at > t.text && (at[-1] == '\'' || at[-1] == '"') ? at[-1] : '\0';
        at += sizeof open - 1;
        size_t newline = at < end && *at == '\n'                                  ? 1
                         : quote && end - at > 1 && at[0] == '\\' && at[1] == 'n' ? 2
                                                                                  : 0;
        bool whole = false;
        if (newline)
            HT_TRY(copy_constant(chat, at + newline, end, quote, &whole, err));
        if (whole)
            return HEARTH_OK;
    }
    chat->system[0] = '\0';
    return HEARTH_OK;
}

enum hearth_status ht_chat_recognise(struct ht_chat *chat, const char *jinja, size_t len_bytes,
                                     struct hearth_error *err)
{
    struct template t = {jinja, len_bytes};
    const char *name = name_of(t);
    if (!name)
        return ht_fail(
            err, HEARTH_UNSUPPORTED,
            "the model's chat template is not one that Hearth knows; choose one with --template NAME "
            "(--template none completes plain text)");
    chat->format = ht_chat_find_format(name);
    chat->tools = ht_chat_tools_recognise(jinja, len_bytes);
    chat->late_system = chat->format->system_later && takes_late_system(t, name);
    return strncmp(name, "chatml", 6) ? HEARTH_OK : find_system(chat, t, err);
}
