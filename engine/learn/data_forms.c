// SPDX-License-Identifier: Apache-2.0
// Instruction sets and transcripts: Alpaca and its kin, Dolly, Baize, Daily-Dialog. Pure parsers over one item.
#include <string.h>

#include "engine/learn/data.h"

static void set_input(struct hearth_data_turn *turn, struct ht_text input)
{
    if (ht_data_blank(input))
        return;
    turn->input = input.bytes;
    turn->input_len_bytes = input.len_bytes;
}

static struct ht_text first_field(const json_t *value, const char *const *keys)
{
    for (; *keys; keys++) {
        struct ht_text text = ht_data_field(value, *keys);
        if (text.bytes)
            return text;
    }
    return (struct ht_text){0};
}

// What was said before: "history" holds pairs of a question and its answer. False: it holds something else.
static bool add_history(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *history = json_object_get(value, "history"), *pair;
    size_t i;
    json_array_foreach(history, i, pair)
    {
        struct ht_text question = ht_data_text_of(json_array_get(pair, 0));
        struct ht_text answer = ht_data_text_of(json_array_get(pair, 1));
        if (!question.bytes || !answer.bytes)
            return false;
        ht_data_add(r, HEARTH_ROLE_USER, question);
        ht_data_add(r, HEARTH_ROLE_ASSISTANT, answer);
    }
    return true;
}

static void question_and_answer(struct hearth_data_reader *r, const json_t *meta, struct ht_text question,
                                struct ht_text input, struct ht_text answer)
{
    ht_data_begin(r);
    ht_data_add_system(r, meta);
    if (!add_history(r, meta) || !question.bytes || !answer.bytes) {
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
    } else if (ht_data_blank(question) || ht_data_blank(answer)) {
        ht_data_skip(r, HEARTH_DATA_SKIP_EMPTY);
    } else {
        set_input(ht_data_add(r, HEARTH_ROLE_USER, question), input);
        ht_data_add(r, HEARTH_ROLE_ASSISTANT, answer);
        ht_data_emit(r, meta);
    }
}

void ht_data_alpaca(struct hearth_data_reader *r, const json_t *value)
{
    static const char *const questions[] = {"instruction", "user_input", "question", NULL};
    static const char *const answers[] = {"output", "target", "response", "answer", NULL};
    struct ht_text question = first_field(value, questions), input = ht_data_field(value, "input");
    struct ht_text good = ht_data_field(value, "completion_a"), bad = ht_data_field(value, "completion_b");
    const json_t *instances = json_object_get(value, "instances"), *instance;
    if (!question.bytes) { // BELLE: the question is "input"
        question = input;
        input = (struct ht_text){0};
    }
    if (json_is_array(instances)) {
        size_t i;
        json_array_foreach(instances, i, instance)
            question_and_answer(r, i ? NULL : value, question, ht_data_field(instance, "input"),
                                ht_data_field(instance, "output"));
        return;
    }
    if (!good.bytes || !bad.bytes) {
        question_and_answer(r, value, question, input, first_field(value, answers));
        return;
    }
    ht_data_begin(r);
    ht_data_add(r, HEARTH_ROLE_USER, question);
    ht_data_add(r, HEARTH_ROLE_ASSISTANT, good);
    ht_data_add(r, HEARTH_ROLE_ASSISTANT, bad);
    ht_data_emit_pair(r, value, 1, 2);
}

// "[12]" and "[12][3]": the marks that Wikipedia's footnotes leave.
static struct ht_text without_citations(struct hearth_data_reader *r, struct ht_text text)
{
    struct ht_data_out out = ht_data_out_make(&r->pool, text.len_bytes);
    for (size_t i = 0; i < text.len_bytes; i++) {
        size_t k = i + 1;
        if (text.bytes[i] == '[')
            while (k < text.len_bytes && text.bytes[k] >= '0' && text.bytes[k] <= '9')
                k++;
        if (text.bytes[i] == '[' && k > i + 1 && k < text.len_bytes && text.bytes[k] == ']')
            i = k;
        else
            ht_data_put(&out, text.bytes + i, 1);
    }
    if (out.n < text.len_bytes)
        ht_data_fix(r, HEARTH_DATA_FIX_CITATIONS);
    return (struct ht_text){out.bytes, out.n};
}

void ht_data_dolly(struct hearth_data_reader *r, const json_t *value)
{
    static const char *const contexts[] = {"context", "input", NULL}, *const answers[] = {"response", "output", NULL};
    struct ht_text context = first_field(value, contexts);
    if (context.len_bytes)
        context = without_citations(r, context);
    question_and_answer(r, value, ht_data_field(value, "instruction"), context, first_field(value, answers));
}

// ---------------------------------------------------------------- transcripts

// The part before the next `mark`; *rest is what follows it. False: there is none, the part is all that is left.
static bool part_before(struct ht_text *rest, const char *mark, struct ht_text *part)
{
    size_t n = strlen(mark);
    const char *at = rest->len_bytes ? memmem(rest->bytes, rest->len_bytes, mark, n) : NULL;
    *part = *rest;
    if (at) {
        part->len_bytes = (size_t)(at - rest->bytes);
        rest->bytes = at + n;
        rest->len_bytes -= part->len_bytes + n;
    }
    return at != NULL;
}

// The last question has no answer, or is the empty one that ends a transcript.
static void drop_last_question(struct hearth_data_reader *r)
{
    if (!r->n_turns || r->turns[r->n_turns - 1].role != HEARTH_ROLE_USER)
        return;
    r->n_turns--;
    ht_data_fix(r, HEARTH_DATA_FIX_TRAILING);
}

void ht_data_baize(struct hearth_data_reader *r, const json_t *value)
{
    struct ht_text rest = ht_data_field(value, "input"), part, question, answer;
    if (!rest.bytes) {
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
        return;
    }
    ht_data_begin(r);
    bool more = part_before(&rest, "[|Human|]", &part); // the line before the first mark goes
    while (more) {
        more = part_before(&rest, "[|Human|]", &part);
        bool answered = part_before(&part, "[|AI|]", &question);
        question = ht_data_trim(question);
        answer = ht_data_trim(part);
        if (!answered) {
            if (more || question.len_bytes) // two questions in a row, or one that was left open
                ht_data_fix(r, HEARTH_DATA_FIX_TRAILING);
            break;
        }
        if (memmem(answer.bytes, answer.len_bytes, "[|AI|]", 6)) {
            ht_data_skip(r, HEARTH_DATA_SKIP_NOT_ALTERNATING);
            return;
        }
        if (!question.len_bytes || !answer.len_bytes) {
            ht_data_fix(r, HEARTH_DATA_FIX_STOPPED);
            break;
        }
        ht_data_add(r, HEARTH_ROLE_USER, question);
        ht_data_add(r, HEARTH_ROLE_ASSISTANT, answer);
    }
    if (r->n_turns < 2)
        ht_data_skip(r, HEARTH_DATA_SKIP_TOO_FEW_TURNS);
    else
        ht_data_emit(r, value);
}

static bool starts(struct ht_text text, size_t at, const char *what)
{
    size_t n = strlen(what);
    return text.len_bytes - at >= n && !memcmp(text.bytes + at, what, n);
}

// "'" or U+2019 between blanks, before an ending of English: bytes of the apostrophe, else 0.
static size_t apostrophe(struct ht_text text, size_t at)
{
    static const char *const endings[] = {"s", "t", "m", "d", "ll", "re", "ve", "S", "T", "M"};
    size_t n = starts(text, at, " ' ") ? 1 : starts(text, at, " \xE2\x80\x99 ") ? 3 : 0;
    for (size_t i = 0; n && i < sizeof endings / sizeof *endings; i++) {
        size_t end = at + n + 2 + strlen(endings[i]);
        if (starts(text, at + n + 2, endings[i]) && (end == text.len_bytes || text.bytes[end] == ' '))
            return n;
    }
    return 0;
}

// Words and marks that a treebank's tokenizer drew apart, together again.
static struct ht_text detokenized(struct hearth_data_reader *r, struct ht_text text)
{
    struct ht_data_out out = ht_data_out_make(&r->pool, text.len_bytes);
    for (size_t i = 0; i < text.len_bytes; i++) {
        size_t n = apostrophe(text, i);
        if (n) {
            ht_data_put(&out, text.bytes + i + 1, n);
            i += n + 1; // the blank after it too
        } else if (text.bytes[i] != ' ' || i + 1 == text.len_bytes || !strchr(",.?!;:", text.bytes[i + 1])) {
            ht_data_put(&out, text.bytes + i, 1);
        }
    }
    return (struct ht_text){out.bytes, out.n};
}

static void add_speech(struct hearth_data_reader *r, struct ht_text text)
{
    text = ht_data_trim(text);
    if (r->format == HEARTH_DATA_DAILY_DETOK)
        text = detokenized(r, text);
    ht_data_add(r, r->n_turns % 2 ? HEARTH_ROLE_ASSISTANT : HEARTH_ROLE_USER, text);
}

static void end_dialog(struct hearth_data_reader *r, const json_t *meta)
{
    drop_last_question(r);
    if (r->n_turns < 2)
        ht_data_skip(r, HEARTH_DATA_SKIP_TOO_FEW_TURNS);
    else
        ht_data_emit(r, meta);
}

void ht_data_daily_line(struct hearth_data_reader *r, struct ht_text line)
{
    struct ht_text part;
    bool more = true;
    ht_data_begin(r);
    while (more) {
        more = part_before(&line, "__eou__", &part);
        if (more || !ht_data_blank(part))
            add_speech(r, part);
    }
    end_dialog(r, NULL);
}

void ht_data_daily(struct hearth_data_reader *r, const json_t *value)
{
    const json_t *dialog = json_object_get(value, "dialog"), *speech;
    size_t i;
    ht_data_begin(r);
    json_array_foreach(dialog, i, speech)
    {
        struct ht_text text = ht_data_text_of(speech);
        if (!text.bytes) {
            ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
            return;
        }
        add_speech(r, text);
    }
    if (!json_is_array(dialog))
        ht_data_skip(r, HEARTH_DATA_SKIP_MISSING_FIELD);
    else
        end_dialog(r, value);
}
