// SPDX-License-Identifier: Apache-2.0
// A request body → a job (openai.h). Pure but for random seeds; any thread. A field that is not known or not
// supported is refused by name: what a program asked for must not be dropped silently.
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "firmware/json_text.h"
#include "firmware/limits.h"
#include "firmware/openai.h"
#include "firmware/util.h"

bool hd_openai_wrong(struct hd_openai_request *r, const char *param, const char *format, ...)
{
    va_list list;
    r->status = 400;
    r->code = "invalid_value";
    snprintf(r->param, sizeof r->param, "%.*s",
             param ? (int)hd_utf8_cut(param, strlen(param), sizeof r->param - 1) : 0, param ? param : "");
    va_start(list, format);
    vsnprintf(r->text, sizeof r->text, format, list);
    va_end(list);
    return false;
}

bool hd_openai_no_memory(struct hd_openai_request *r)
{
    hd_openai_wrong(r, NULL, "out of memory");
    r->status = 500;
    r->code = "memory";
    return false;
}

const char *hd_json_scan(const char *text, size_t len)
{
    size_t depth = 0, values = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            values++;
            if (++depth > HD_MAX_JSON_DEPTH)
                return "the body is nested too deeply";
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
        } else if (c == ',' || c == ':') {
            values++;
        }
        if (values > HD_MAX_JSON_VALUES)
            return "the body has too many values";
    }
    return NULL;
}

char *hd_openai_spell(const json_t *value)
{
    return hd_json_text(value,
                      JSON_ENCODE_ANY | JSON_REAL_PRECISION(15)); // jansson's separators are ", " and ": "
}

// ---- numbers and switches

static bool number_in(struct hd_openai_request *r, const char *name, const json_t *v, double low, double high,
                      double *out)
{
    *out = json_number_value(v);
    if (json_is_number(v) && isfinite(*out) && *out >= low && *out <= high)
        return true;
    return hd_openai_wrong(r, name, "%s: a number from %g to %g", name, low, high);
}

static bool read_float(struct hd_openai_request *r, const char *name, const json_t *v, double low,
                       double high, float *out)
{
    double value;
    if (!number_in(r, name, v, low, high, &value))
        return false;
    *out = (float)value;
    return true;
}

static bool read_count(struct hd_openai_request *r, const char *name, const json_t *v, json_int_t low,
                       unsigned *out)
{
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < low || n > INT32_MAX)
        return hd_openai_wrong(r, name, "%s: a whole number, %d or more", name, (int)low);
    *out = (unsigned)n;
    return true;
}

static bool temperature(struct hd_openai_request *r, const json_t *v)
{
    return read_float(r, "temperature", v, 0, 5, &r->job->sampling.temperature);
}

static bool top_p(struct hd_openai_request *r, const json_t *v)
{
    if (!read_float(r, "top_p", v, 0, 1, &r->job->sampling.top_p))
        return false;
    return r->job->sampling.top_p > 0 || hd_openai_wrong(r, "top_p", "top_p: above 0, at most 1");
}

static bool min_p(struct hd_openai_request *r, const json_t *v)
{
    return read_float(r, "min_p", v, 0, 1, &r->job->sampling.min_p);
}

static bool top_k(struct hd_openai_request *r, const json_t *v)
{
    return read_count(r, "top_k", v, 0, &r->job->sampling.top_k);
}

static bool repeat_penalty(struct hd_openai_request *r, const json_t *v)
{
    return read_float(r, "repeat_penalty", v, 0.1, 10, &r->job->sampling.repeat_penalty);
}

static bool presence_penalty(struct hd_openai_request *r, const json_t *v)
{
    return read_float(r, "presence_penalty", v, -2, 2, &r->job->sampling.presence_penalty);
}

static bool frequency_penalty(struct hd_openai_request *r, const json_t *v)
{
    return read_float(r, "frequency_penalty", v, -2, 2, &r->job->sampling.frequency_penalty);
}

static bool seed(struct hd_openai_request *r, const json_t *v)
{
    r->job->sampling.seed = (uint64_t)json_integer_value(v);
    return json_is_integer(v) || hd_openai_wrong(r, "seed", "seed: a whole number");
}

static bool max_tokens(struct hd_openai_request *r, const json_t *v)
{
    return read_count(r, "max_tokens", v, 1, &r->job->max_tokens);
}

static bool max_completion_tokens(struct hd_openai_request *r, const json_t *v)
{
    return read_count(r, "max_completion_tokens", v, 1, &r->job->max_tokens);
}

static bool read_switch(struct hd_openai_request *r, const char *name, const json_t *v, bool *out)
{
    *out = json_is_true(v);
    return json_is_boolean(v) || hd_openai_wrong(r, name, "%s: true or false", name);
}

static bool stream(struct hd_openai_request *r, const json_t *v)
{
    return read_switch(r, "stream", v, &r->stream);
}

static bool stream_options(struct hd_openai_request *r, const json_t *v)
{
    const char *key;
    json_t *value;
    if (!json_is_object(v))
        return hd_openai_wrong(r, "stream_options", "stream_options: an object");
    json_object_foreach((json_t *)v, key, value)
    {
        if (!strcmp(key, "include_usage")) {
            if (!read_switch(r, "stream_options", value, &r->include_usage))
                return false;
        } else if (strcmp(key, "include_obfuscation") != 0) {
            return hd_openai_wrong(r, "stream_options", "stream_options: only include_usage is known");
        }
    }
    return true;
}

static bool parallel_tool_calls(struct hd_openai_request *r, const json_t *v)
{
    bool several = true;
    if (!read_switch(r, "parallel_tool_calls", v, &several))
        return false;
    r->one_call = !several;
    return true;
}

// ---- lists

static bool add_stop(struct hd_openai_request *r, const json_t *v)
{
    size_t len = json_string_length(v);
    if (!json_is_string(v) || len < 1 || len > HD_MAX_STOP_BYTES || r->job->n_stops == HD_MAX_STOPS)
        return hd_openai_wrong(r, "stop", "stop: at most %d strings of 1 to %d bytes", HD_MAX_STOPS,
                               HD_MAX_STOP_BYTES);
    r->job->stops[r->job->n_stops] = strdup(json_string_value(v));
    return r->job->stops[r->job->n_stops++] || hd_openai_no_memory(r);
}

static bool stop(struct hd_openai_request *r, const json_t *v)
{
    size_t i;
    json_t *item;
    if (!json_is_array(v))
        return add_stop(r, v);
    json_array_foreach(v, i, item)
    {
        if (!add_stop(r, item))
            return false;
    }
    return true;
}

static bool logit_bias(struct hd_openai_request *r, const json_t *v)
{
    const char *key;
    json_t *value;
    size_t n = json_object_size(v), at = 0;
    if (!json_is_object(v) || n > HD_MAX_LOGIT_BIAS)
        return hd_openai_wrong(r, "logit_bias", "logit_bias: an object of at most %d tokens",
                               HD_MAX_LOGIT_BIAS);
    struct hearth_logit_bias *list = n ? calloc(n, sizeof *list) : NULL;
    if (n && !list)
        return hd_openai_no_memory(r);
    r->job->sampling.logit_bias = list;
    json_object_foreach((json_t *)v, key, value)
    {
        char *end;
        long token = strtol(key, &end, 10);
        double bias;
        if (*key < '0' || *key > '9' || *end || token > INT32_MAX)
            return hd_openai_wrong(r, "logit_bias", "logit_bias: keys are token ids");
        if (!number_in(r, "logit_bias", value, -100, 100, &bias))
            return false;
        list[at++] = (struct hearth_logit_bias){(int32_t)token, (float)bias};
        r->job->sampling.n_logit_bias = at;
    }
    return true;
}

// ---- grammars

static bool set_grammar(struct hd_openai_request *r, const char *param, char *text,
                        enum hearth_grammar_type type)
{
    if (!text)
        return hd_openai_no_memory(r);
    if (r->job->grammar) {
        free(text);
        return hd_openai_wrong(r, param, "%s: only one of response_format and grammar", param);
    }
    r->job->grammar = text;
    r->job->grammar_len_bytes = strlen(text);
    r->job->grammar_type = type;
    return true;
}

static bool grammar(struct hd_openai_request *r, const json_t *v)
{
    if (!json_is_string(v) || json_string_length(v) == 0)
        return hd_openai_wrong(r, "grammar", "grammar: rules in GBNF, as a string");
    return set_grammar(r, "grammar", strdup(json_string_value(v)), HEARTH_GRAMMAR_GBNF);
}

static bool response_format(struct hd_openai_request *r, const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    if (type && !strcmp(type, "text"))
        return true;
    if (type && !strcmp(type, "json_object"))
        return set_grammar(r, "response_format", strdup("{\"type\": \"object\"}"),
                           HEARTH_GRAMMAR_JSON_SCHEMA);
    const json_t *schema = json_object_get(json_object_get(v, "json_schema"), "schema");
    if (!type || strcmp(type, "json_schema") != 0)
        return hd_openai_wrong(r, "response_format",
                               "response_format.type: text, json_object or json_schema");
    if (!json_is_object(schema))
        return hd_openai_wrong(r, "response_format", "response_format.json_schema.schema: an object");
    return set_grammar(r, "response_format", hd_openai_spell(schema), HEARTH_GRAMMAR_JSON_SCHEMA);
}

// ---- the rest

static bool model(struct hd_openai_request *r, const json_t *v)
{
    size_t len = json_string_length(v);
    if (!json_is_string(v) || len > HD_MAX_MODEL_BYTES)
        return hd_openai_wrong(r, "model", "model: a name of at most %d bytes", HD_MAX_MODEL_BYTES);
    memcpy(r->job->model, json_string_value(v), len + 1);
    return true;
}

static bool prompt(struct hd_openai_request *r, const json_t *v)
{
    if (json_array_size(v) == 1) // as many programs send one
        v = json_array_get(v, 0);
    size_t len = json_string_length(v);
    if (!json_is_string(v) || len == 0)
        return hd_openai_wrong(r, "prompt", "prompt: one string that is not empty");
    if (!(r->job->prompt = strdup(json_string_value(v))))
        return hd_openai_no_memory(r);
    r->job->prompt_len_bytes = len;
    return true;
}

static bool only_one(struct hd_openai_request *r, const char *name, const json_t *v)
{
    return (json_is_integer(v) && json_integer_value(v) == 1) ||
           hd_openai_wrong(r, name, "%s: this box writes one answer at a time; ask again for another", name);
}

static bool n(struct hd_openai_request *r, const json_t *v)
{
    return only_one(r, "n", v);
}

static bool best_of(struct hd_openai_request *r, const json_t *v)
{
    return only_one(r, "best_of", v);
}

static bool modalities(struct hd_openai_request *r, const json_t *v)
{
    const char *first = json_string_value(json_array_get(v, 0));
    return (json_array_size(v) == 1 && first && !strcmp(first, "text")) ||
           hd_openai_wrong(r, "modalities", "modalities: only [\"text\"]");
}

static bool only_false(struct hd_openai_request *r, const char *name, const json_t *v)
{
    return json_is_false(v) || hd_openai_wrong(r, name, "%s: not supported", name);
}

static bool logprobs(struct hd_openai_request *r, const json_t *v)
{
    return only_false(r, "logprobs", v);
}

static bool echo(struct hd_openai_request *r, const json_t *v)
{
    return only_false(r, "echo", v);
}

static bool store(struct hd_openai_request *r, const json_t *v)
{
    return json_is_false(v) ||
           hd_openai_wrong(r, "store", "store: nothing that comes through this door is stored");
}

static bool harmless(struct hd_openai_request *r, const json_t *v)
{
    (void)r;
    (void)v;
    return true;
}

enum { CHAT = 1, TEXT = 2, BOTH = 3 };

static const struct {
    const char *name;
    unsigned where;
    bool (*read)(struct hd_openai_request *r, const json_t *v);
} fields[] = {
    {"model", BOTH, model},
    {"messages", CHAT, harmless}, // read on its own: tools come before it
    {"tools", CHAT, harmless},
    {"tool_choice", CHAT, harmless},
    {"parallel_tool_calls", CHAT, parallel_tool_calls},
    {"prompt", TEXT, prompt},
    {"max_tokens", BOTH, max_tokens},
    {"max_completion_tokens", CHAT, max_completion_tokens},
    {"temperature", BOTH, temperature},
    {"top_p", BOTH, top_p},
    {"top_k", BOTH, top_k},
    {"min_p", BOTH, min_p},
    {"repeat_penalty", BOTH, repeat_penalty},
    {"presence_penalty", BOTH, presence_penalty},
    {"frequency_penalty", BOTH, frequency_penalty},
    {"seed", BOTH, seed},
    {"stop", BOTH, stop},
    {"logit_bias", BOTH, logit_bias},
    {"response_format", CHAT, response_format},
    {"grammar", BOTH, grammar},
    {"stream", BOTH, stream},
    {"stream_options", BOTH, stream_options},
    {"n", BOTH, n},
    {"best_of", TEXT, best_of},
    {"modalities", CHAT, modalities},
    {"logprobs", BOTH, logprobs},
    {"echo", TEXT, echo},
    {"store", CHAT, store},
    // without meaning for a box of one's own
    {"user", BOTH, harmless},
    {"metadata", CHAT, harmless},
    {"safety_identifier", CHAT, harmless},
    {"service_tier", CHAT, harmless},
    {"prompt_cache_key", CHAT, harmless},
    {"prompt_cache_retention", CHAT, harmless},
};

static bool read_field(struct hd_openai_request *r, const char *name, const json_t *value)
{
    if (json_is_null(value)) // as absent
        return true;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!strcmp(fields[i].name, name) && fields[i].where & (r->chat ? CHAT : TEXT))
            return fields[i].read(r, value);
    hd_openai_wrong(r, name, "%.*s: not a field that this box supports",
                    (int)hd_utf8_cut(name, strlen(name), 64), name);
    r->code = "unsupported_field";
    return false;
}

static bool read_body(struct hd_openai_request *r, const json_t *body)
{
    const char *name;
    json_t *value;
    if (!json_is_object(body))
        return hd_openai_wrong(r, NULL, "the body is a JSON object");
    json_object_foreach((json_t *)body, name, value)
    {
        if (!read_field(r, name, value))
            return false;
    }
    if (!json_object_get(body, "model"))
        return hd_openai_wrong(r, "model", "model: the name of a model (GET /v1/models)");
    if (r->include_usage && !r->stream)
        return hd_openai_wrong(r, "stream_options", "stream_options: only with stream");
    if (!r->chat)
        return r->job->prompt || hd_openai_wrong(r, "prompt", "prompt: one string that is not empty");
    return hd_openai_tools(r, body) && hd_openai_messages(r, json_object_get(body, "messages")) &&
           hd_openai_force_call(r, body);
}

bool hd_openai_parse(struct hd_openai_request *r, const char *text, size_t len, bool chat)
{
    json_error_t error;
    *r = (struct hd_openai_request){.chat = chat};
    const char *bomb = hd_json_scan(text, len);
    if (bomb)
        return hd_openai_wrong(r, NULL, "%s", bomb);
    r->job = calloc(1, sizeof *r->job);
    if (!r->job)
        return hd_openai_no_memory(r);
    r->job->max_draft = HD_JOB_DRAFT;
    hearth_sampling_default(&r->job->sampling);
    bool good = hd_random(&r->job->sampling.seed, sizeof r->job->sampling.seed, NULL) == HEARTH_OK;
    json_t *body = hd_json_read(text, len, JSON_REJECT_DUPLICATES, &error);
    if (!good || (!body && errno == ENOMEM))
        good = hd_openai_no_memory(r);
    else if (!body) // jansson's own text may quote the body: the place is enough
        good = hd_openai_wrong(r, NULL, "the body is not JSON: line %d, column %d", error.line, error.column);
    else
        good = read_body(r, body);
    json_decref(body);
    if (!good) {
        hd_job_free(r->job);
        r->job = NULL;
    }
    return good;
}

void hd_openai_release(struct hd_openai_request *r)
{
    hd_job_free(r->job);
    r->job = NULL;
}
