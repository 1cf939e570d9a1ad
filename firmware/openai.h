// SPDX-License-Identifier: Apache-2.0
// The OpenAI-compatible door (docs/openai.md): a body becomes a job, an answer becomes JSON. Parsing is pure and
// runs on any thread; the rest belongs to the loop thread. Nothing that comes through this door is stored or
// logged.
#ifndef HD_OPENAI_H
#define HD_OPENAI_H
#include <jansson.h>

#include "firmware/worker.h"

enum {
    HD_MAX_JSON_DEPTH = 48,
    HD_MAX_JSON_VALUES = 50000,
    HD_MAX_TOOLS = 128,
    HD_MAX_TOOL_NAME_BYTES = 64,
    HD_CALL_ID_BYTES = 9, // what Mistral's models were trained on; the others do not mind
};

enum hd_tool_choice { HD_TOOLS_AUTO = 0, HD_TOOLS_NONE, HD_TOOLS_FORCED };

struct hd_openai_request {
    bool chat;
    struct hd_job *job; // NULL when wrong
    bool stream, include_usage;
    bool tools, called, one_call; // there are tools; the answer begins inside a call; at most one
    // what is wrong, when job is NULL
    unsigned status; // 400, 413, 500
    const char *code;
    char param[96]; // "" = none
    char text[256]; // never what a person wrote, but for names of fields
};
// True when it can be asked. Release in every case.
bool hd_openai_parse(struct hd_openai_request *request, const char *body, size_t len, bool chat);
void hd_openai_release(struct hd_openai_request *request);

// ---- parts of the parser

// False, and request filled in. `param` NULL = none.
bool hd_openai_wrong(struct hd_openai_request *request, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// The same for memory that ran out: the box's fault (500), not the body's.
bool hd_openai_no_memory(struct hd_openai_request *request);
// A name of a tool or a call: 1 to max_bytes letters, digits, '_', '-', '.'. NULL is none.
bool hd_openai_is_name(const char *text, size_t max_bytes);
// Size, depth and number of values of a JSON text before anything is allocated for it. NULL, or what is wrong.
const char *hd_json_scan(const char *text, size_t len);
// messages → job->messages, after TOOLS.
bool hd_openai_messages(struct hd_openai_request *request, const json_t *messages);
// A system text of the box for a chat that brings none; "" = none.
bool hd_openai_default_system(struct hd_openai_request *request, const char *text);
bool hd_openai_add_message(struct hd_openai_request *request, enum hearth_role role, const char *text,
                           size_t len);
// tools, tool_choice → a TOOLS message first; and, when all messages are there, what a forced call needs.
bool hd_openai_tools(struct hd_openai_request *request, const json_t *body);
bool hd_openai_force_call(struct hd_openai_request *request, const json_t *body);
// JSON as models know it: ", " and ": ", order kept. malloc'ed.
char *hd_openai_spell(const json_t *value);

#endif
