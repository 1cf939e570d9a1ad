// SPDX-License-Identifier: Apache-2.0
// Training data: every importer on small files, cleaning rules, masks of several templates, splitting, duplicates, the
// split, packing, and every allocation made to fail. Damaged files: data_files.c.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "engine/learn.h"
#include "tests/check/fault.h"

static char folder[64];
static struct hearth_engine *engine;
static const char *const model = "tests/golden/tiny-llama.gguf";

static void use_template(const char *name)
{
    struct hearth_error err = {0};
    hearth_engine_close(&engine);
    const struct hearth_engine_params params = {.model_path = model, .vocab_only = true, .chat_template = name};
    if (hearth_engine_open(&engine, &params, &err))
        fail_msg("%s: %s", name, err.text);
}

static int set_up(void **state)
{
    (void)state;
    check_folder_make(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    hearth_engine_close(&engine);
    check_folder_remove(folder);
    return 0;
}

static const char *file_of(const char *name, const char *text)
{
    return check_file_make(folder, name, text);
}

// Reads a file whole; the first record's turns as "role=text|" in `out`.
static struct hearth_data_counts read_file(const char *path, enum hearth_data_format want, char *out, size_t capacity)
{
    static const char roles[] = "?suatTc";
    struct hearth_data_reader *reader;
    struct hearth_data_counts counts;
    const struct hearth_data_record *r;
    struct hearth_error err = {0};
    const struct hearth_data_reader_params params = {.path = path};
    if (hearth_data_open(&reader, &params, &err))
        fail_msg("%s: %s", path, err.text);
    assert_int_equal(hearth_data_get_format(reader), want);
    size_t n = 0;
    if (out)
        out[0] = '\0';
    for (;;) {
        if (hearth_data_next(reader, &r, &err))
            fail_msg("%s: %s", path, err.text);
        if (!r)
            break;
        for (size_t i = 0; i < r->n_turns && out && !r->pair_only; i++)
            n += (size_t)snprintf(out + n, capacity - n, "%c=%.*s%s%.*s|", roles[r->turns[i].role],
                                  (int)r->turns[i].len_bytes, r->turns[i].text, r->turns[i].input ? "+" : "",
                                  (int)r->turns[i].input_len_bytes, r->turns[i].input ? r->turns[i].input : "");
        for (size_t i = 0; i < r->n_rejected && out; i++)
            n += (size_t)snprintf(out + n, capacity - n, "%zu!%.*s|", r->n_shared, (int)r->rejected[i].len_bytes,
                                  r->rejected[i].text);
    }
    hearth_data_get_counts(reader, &counts);
    hearth_data_close(&reader);
    return counts;
}

struct import {
    enum hearth_data_format format;
    const char *text, *turns;
    unsigned n_records, n_pairs;
};
#define H(text) "{\"from\":\"human\",\"value\":\"" text "\"}"
#define G(text) "{\"from\":\"gpt\",\"value\":\"" text "\"}"
#define TOLD(text) "{\"from\":\"observation\",\"value\":\"" text "\"}"
#define CALL                                                                                                    \
    "{\"from\":\"function_call\",\"value\":\"{\\\"name\\\":\\\"f\\\",\\\"arguments\\\":{\\\"x\\\":0.1}}\"}"
#define CALLED(id) "[{\"name\": \"f\", \"arguments\": {\"x\": 0.1}, \"id\": \"" id "\"}]"
#define NODE(id, parent, children, role, text)                                                                  \
    "\"" id "\":{\"parent\":" parent ",\"children\":[" children "],\"message\":{\"author\":{\"role\":\"" role     \
    "\"},\"content\":{\"content_type\":\"text\",\"parts\":[\"" text "\"]}}}"

static const struct import imports[] = {
    {HEARTH_DATA_ALPACA, "[{\"instruction\":\"Add\",\"input\":\"1 2\",\"output\":\"3\"},\n{\"instruction\":\"x\"}]",
     "u=Add+1 2|a=3|", 1, 0},
    {HEARTH_DATA_ALPACA, "{\"input\":\"Q\",\"target\":\"A\"}\n", "u=Q|a=A|", 1, 0},
    {HEARTH_DATA_ALPACA, "{\"user_input\":\"Q\",\"completion_a\":\"good\",\"completion_b\":\"bad\"}",
     "u=Q|a=good|1!bad|", 1, 1},
    {HEARTH_DATA_ALPACA, "{\"instruction\":\"I\",\"instances\":[{\"input\":\"\",\"output\":\"A\"}]}", "u=I|a=A|", 1, 0},
    {HEARTH_DATA_DOLLY,
     "{\"instruction\":\"I\",\"context\":\"C[12] d[x]\",\"response\":\"R\",\"category\":\"open_qa\"}\n",
     "u=I+C d[x]|a=R|", 1, 0},
    {HEARTH_DATA_SHAREGPT,
     "[{\"id\":\"a\",\"conversations\":[{\"from\":\"human\",\"value\":\"What is two and two?\"},"
     "{\"from\":\"gpt\",\"value\":\"Four.\"}]}]",
     "u=What is two and two?|a=Four.|", 1, 0},
    {HEARTH_DATA_DAILY, "Hi , Tom . __eou__ Hello . How ' s it ? __eou__ Bye __eou__\n",
     "u=Hi , Tom .|a=Hello . How ' s it ?|", 1, 0},
    {HEARTH_DATA_DAILY, "{\"dialog\":[\"a\",\"b\"],\"act\":[1,2]}", "u=a|a=b|", 1, 0},
    {HEARTH_DATA_MESSAGES,
     "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\","
     "\"text\":\"a\"},{\"type\":\"image_url\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\","
     "\"content\":\"A\"}]}",
     "s=S|u=a\nb|a=A|", 1, 0},
    {HEARTH_DATA_MESSAGES,
     "{\"input\":{\"messages\":[{\"role\":\"user\",\"content\":\"Q\"}]},\"preferred_output\":[{\"role\":\"assistant\","
     "\"content\":\"good\"}],\"non_preferred_output\":[{\"role\":\"assistant\",\"content\":\"bad\"}]}",
     "u=Q|a=good|1!bad|", 1, 1},
    {HEARTH_DATA_MESSAGES,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"Q\"},{\"role\":\"assistant\",\"content\":null,\"tool_calls\":"
     "[{\"id\":\"1\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}}]}]}",
     "u=Q|c=[{\"name\": \"f\", \"arguments\": {\"x\": 1}, \"id\": \"1\"}]|", 1, 0},
    {HEARTH_DATA_CHATGPT,
     "[{\"conversation_id\":\"c\",\"current_node\":\"4\",\"mapping\":{\"0\":{\"parent\":null,\"children\":[\"1\"],"
     "\"message\":null}," NODE("1", "\"0\"", "\"2\",\"3\"", "user", "Q") ","
     NODE("2", "\"1\"", "", "assistant", "old") "," NODE("3", "\"1\"", "\"4\"", "assistant", "new") ","
     NODE("4", "\"3\"", "", "assistant", "more") "}}]",
     "u=Q|a=new\n\nmore|1!old|", 1, 1},
    {HEARTH_DATA_OASST,
     "{\"message_tree_id\":\"t\",\"prompt\":{\"role\":\"prompter\",\"text\":\"Q\",\"replies\":[{\"role\":\"assistant\","
     "\"text\":\"worse\",\"rank\":1,\"replies\":[]},{\"role\":\"assistant\",\"text\":\"best\",\"rank\":0}]}}",
     "u=Q|a=best|1!worse|", 1, 1},
    {HEARTH_DATA_OASST,
     "{\"message_id\":\"1\",\"message_tree_id\":\"t\",\"parent_id\":null,\"role\":\"prompter\",\"text\":\"Q\"}\n"
     "{\"message_id\":\"2\",\"message_tree_id\":\"t\",\"parent_id\":\"1\",\"role\":\"assistant\",\"text\":\"A\"}\n"
     "{\"message_id\":\"8\",\"message_tree_id\":\"t\",\"parent_id\":\"9\",\"role\":\"assistant\",\"text\":\"x\"}\n"
     "{\"message_id\":\"9\",\"message_tree_id\":\"t\",\"parent_id\":\"8\",\"role\":\"assistant\",\"text\":\"y\"}\n",
     "u=Q|a=A|", 1, 0},
    {HEARTH_DATA_PREFERENCE,
     "{\"chosen\":\"\\n\\nHuman: Q\\n\\nAssistant: yes\",\"rejected\":\"\\n\\nHuman: Q\\n\\nAssistant: no\"}",
     "u=Q|a=yes|1!no|", 1, 1},
    {HEARTH_DATA_PREFERENCE, "{\"prompt\":\"Q\",\"chosen\":\"yes\",\"rejected\":\"no\"}", "u=Q|a=yes|1!no|", 1, 1},
    {HEARTH_DATA_ALPACA,
     "{\"instruction\":\"Q\",\"output\":\"A\",\"system\":\"S\",\"history\":[[\"Q0\",\"A0\"],[\"Q1\",\"A1\"]]}\n"
     "{\"instruction\":\"Q\",\"output\":\"A\",\"history\":[[\"Q0\"]]}\n",
     "s=S|u=Q0|a=A0|u=Q1|a=A1|u=Q|a=A|", 1, 0},
    {HEARTH_DATA_PREFERENCE, "{\"system\":\"S\",\"question\":\"Q\",\"chosen\":\"yes\",\"rejected\":\"no\"}",
     "s=S|u=Q|a=yes|2!no|", 1, 1},
    {HEARTH_DATA_SHAREGPT,
     "{\"system\":\"S\",\"tools\":\"[{\\\"name\\\":\\\"f\\\"}]\",\"conversations\":[" H("a question") "," CALL ","
     TOLD("<b>4</b>") "," TOLD("5") "," G("an answer, <b>then</b>") "," H("again?") "," CALL "," TOLD("6") "]}",
     "T=[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]|s=S|u=a question|"
     "c=" CALLED("837186877") "|t=<b>4</b>|t=5|"
     "a=an answer, **then**|u=again?|c=" CALLED("183309539") "|", 1, 0},
    {HEARTH_DATA_MESSAGES,
     "{\"messages\":[{\"role\":\"user\",\"content\":\"Q\"},{\"role\":\"assistant\",\"content\":null,"
     "\"function_call\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":0.1}\"}},{\"role\":\"function\",\"content\":\"4\"},"
     "{\"role\":\"assistant\",\"content\":\"A\"}]}",
     "u=Q|c=" CALLED("271315265") "|t=4|a=A|", 1, 0},
    {HEARTH_DATA_ALPACA,
     "{\"version\":1, \"data\": [\n {\"input\":\"Q\",\"target\":\"A\"},\n {\"input\":\"P\",\"target\":\"B\"}\n]\n}\n",
     "u=Q|a=A|u=P|a=B|", 2, 0},
    {HEARTH_DATA_EXPORT,
     "{\"id\":\"x\",\"title\":\"t\",\"turns\":[{\"role\":\"user\",\"text\":\"Q\"},{\"role\":\"assistant\",\"text\":"
     "\"A\",\"finished\":true}]}",
     "u=Q|a=A|", 1, 0},
    {HEARTH_DATA_TEXT, "One line.\n\nAnother.\n", "a=One line.\n\nAnother.\n|", 1, 0},
    {HEARTH_DATA_BAIZE, // T9: the open question and the odd turn go
     "[{\"topic\":\"t\",\"input\":\"The conversation between human and AI assistant.\\n[|Human|] Q1\\n[|AI|] A1\\n"
     "[|Human|] Q2\\n[|AI|] A2\\n[|Human|] open\"}]",
     "u=Q1|a=A1|u=Q2|a=A2|", 1, 0},
};

static void importers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof imports / sizeof *imports; i++) {
        char turns[512];
        struct hearth_data_counts c =
            read_file(file_of("import", imports[i].text), imports[i].format, turns, sizeof turns);
        if (strcmp(turns, imports[i].turns) != 0 || c.n_records != imports[i].n_records ||
            c.n_pairs != imports[i].n_pairs)
            fail_msg("import %zu: %s, not %s", i, turns, imports[i].turns);
    }
}

// A turn's own weight is 0 to 1000; what is none counts for nothing, and above all not without end.
static void weights(void **state)
{
    (void)state;
    static const char *const written[] = {"0.25", "1000", "1001", "-1", "1e300", "\"2\""};
    static const float want[] = {0.25f, 1000, 0, 0, 0, 1};
    for (int messages = 0; messages < 2; messages++)
        for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
            struct hearth_data_reader *reader;
            const struct hearth_data_record *r;
            const char *turns = messages ? "messages" : "turns", *text = messages ? "content" : "text";
            char line[256];
            snprintf(line, sizeof line, "{\"%s\":[{\"role\":\"user\",\"%s\":\"Q\"},{\"role\":\"assistant\","
                     "\"%s\":\"A\",\"weight\":%s}]}\n", turns, text, text, written[i]);
            const struct hearth_data_reader_params params = {.path = file_of("weights", line)};
            assert_int_equal(hearth_data_open(&reader, &params, NULL), HEARTH_OK);
            assert_int_equal(hearth_data_next(reader, &r, NULL), HEARTH_OK);
            assert_true(r && r->n_turns == 2 && r->turns[0].weight == 0);
            if (r->turns[1].weight != want[i])
                fail_msg("%s: %s weighs %g", turns, written[i], (double)r->turns[1].weight);
            hearth_data_close(&reader);
        }
}

#define C(id, turns) "{\"id\":\"" id "\",\"conversations\":[" turns "]},\n"

static void cleaning_rules(void **state) // T4
{
    (void)state;
    static const char text[] = "[" C("1", H("only one turn here, and no answer"))
        C("2", H("who takes turns here?") "," H("nobody, it seems") "," G("right"))
        C("3", H("who made you, tell me please") "," G("I was made by OpenAI."))
        C("4", H("a question of some length") "," G("!Too many requests in 1 hour. Try again later."))
        C("5", H("hi") "," G("ho"))
        C("6", H("This one is kept, first of all") "," G("<div class=x>It <b>is</b></div>") "," H("?") "," G(""))
        C("6", H("The same id as before, so it goes") "," G("Yes indeed."))
        "{\"id\":\"7\",\"plugins\":[\"p\"],\"conversations\":[" H("uses a plugin for this") "," G("Yes.") "]},\n"
        C("8", H("This one is kept, first of all") "," G("It **is**"))
        C("9", H("the list, if you please") "," G("So:\\n1. a\\n1. b"))
        C("10", H("what number is it then?") "," G("It is 111111111 exactly."))
        C("11", G("A greeting first") "," H("This one is kept as well") "," G("```c Copy codeint x;```") "," H("open"))
        "{\"id\":\"12\"}]";
    static const enum hearth_data_skip reasons[] = {
        HEARTH_DATA_SKIP_TOO_FEW_TURNS, HEARTH_DATA_SKIP_NOT_ALTERNATING, HEARTH_DATA_SKIP_FOREIGN_NAME,
        HEARTH_DATA_SKIP_RATE_LIMIT,    HEARTH_DATA_SKIP_TOO_SHORT,       HEARTH_DATA_SKIP_SAME_ID,
        HEARTH_DATA_SKIP_PLUGINS,       HEARTH_DATA_SKIP_SAME_FIRST_PAIR, HEARTH_DATA_SKIP_BROKEN_LIST,
        HEARTH_DATA_SKIP_REPEATED_DIGITS, HEARTH_DATA_SKIP_MISSING_FIELD};
    char turns[512];
    struct hearth_data_counts c = read_file(file_of("share", text), HEARTH_DATA_SHAREGPT, turns, sizeof turns);
    assert_string_equal(turns, "u=This one is kept, first of all|a=It **is**|u=This one is kept as well|"
                               "a=```c\nint x;\n```|");
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (c.skipped[reasons[i]] != 1)
            fail_msg("%s: %llu", hearth_data_skip_text(reasons[i]), (unsigned long long)c.skipped[reasons[i]]);
    assert_int_equal(c.fixed[HEARTH_DATA_FIX_LEADING], 1);
    assert_int_equal(c.fixed[HEARTH_DATA_FIX_TRAILING], 1);
    assert_int_equal(c.fixed[HEARTH_DATA_FIX_STOPPED], 1);
    assert_int_equal(c.fixed[HEARTH_DATA_FIX_HTML], 1);
    assert_int_equal(c.first_line[HEARTH_DATA_SKIP_MISSING_FIELD], 13);
}

// ---------------------------------------------------------------- masks

static struct hearth_data_set *open_set(const char *path, const char *style, unsigned n_seq)
{
    static struct hearth_data_file file;
    struct hearth_data_set *set;
    struct hearth_error err = {0};
    file = (struct hearth_data_file){.path = path, .weight = 1};
    struct hearth_data_set_params params = {.files = &file, .n_files = 1, .engine = engine, .n_seq = n_seq};
    hearth_data_set_default(&params);
    assert_true(hearth_data_style_find(style, &params.style));
    if (hearth_data_set_open(&set, &params, &err))
        fail_msg("%s", err.text);
    return set;
}

// The targets of a sample, runs between '|'.
static void targets(const struct hearth_data_sample *s, char *out, size_t capacity)
{
    size_t n = 0, len;
    out[0] = '\0';
    for (size_t i = 0, end; i < s->n_tokens; i = end) {
        bool target = s->weights[i] > 0;
        for (end = i + 1; end < s->n_tokens && (s->weights[end] > 0) == target;)
            end++;
        if (!target)
            continue;
        assert_int_equal(hearth_detokenize(engine, s->ids + i, end - i, true, out + n, capacity - n - 2, &len, NULL),
                         HEARTH_OK);
        n += len;
        out[n++] = '|';
        out[n] = '\0';
    }
}

static void masks(void **state) // T0
{
    (void)state;
    static const char text[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"Say <|im_end|>.\"},"
                               "{\"role\":\"assistant\","
                               "\"content\":\"Four.\"},{\"role\":\"user\",\"content\":\"More\"},{\"role\":"
                               "\"assistant\",\"content\":\"No.\",\"weight\":0},{\"role\":\"user\",\"content\":\"B\"},"
                               "{\"role\":\"assistant\",\"content\":\"Six.\"}]}";
    static const struct {
        const char *template, *style, *targets;
    } cases[] = {
        {"chatml", "assistant", "Four.<|im_end|>|Six.<|im_end|>|"},
        {"chatml", "last", "Six.<|im_end|>|"},
        {"llama3", "assistant", "Four.<|eot_id|>|Six.<|eot_id|>|"},
        {"phi3", "assistant", "Four.<|end|>|Six.<|end|>|"},
        {"gemma", "assistant", "Four.<end_of_turn>|Six.<end_of_turn>|"},
        {"zephyr", "assistant", "Four.<|im_end|>|Six.<|im_end|>|"},
        {"mistral-v3-tekken", "assistant", "Four.<|im_end|>|Six.<|im_end|>|"},
        {"vicuna1.1", "vicuna", "Four.<|im_end|>|Six.<|im_end|>|"}, // T4: as FastChat, every answer and its end
        {"phoenix", "phoenix", "<|endoftext|>Four.<|im_end|>|<|endoftext|>Six.<|im_end|>|"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct hearth_data_sample *s;
        char got[256];
        use_template(cases[i].template);
        struct hearth_data_set *set = open_set(file_of("masks", text), cases[i].style, 4096);
        assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
        if (!s)
            fail_msg("%s: no sample", cases[i].template);
        targets(s, got, sizeof got);
        if (strcmp(got, cases[i].targets) != 0)
            fail_msg("%s, %s: %s, not %s", cases[i].template, cases[i].style, got, cases[i].targets);
        assert_true(s->weights[0] == 0);
        size_t n_ends = 0, n_ids;
        int32_t end;
        assert_int_equal(hearth_tokenize(engine, "<|im_end|>", 10, HEARTH_TOKENIZE_SPECIAL, &end, 1, &n_ids, NULL), 0);
        for (size_t k = 0; k < s->n_tokens; k++)
            n_ends += s->ids[k] == end;
        if (!strcmp(cases[i].template, "chatml"))
            assert_int_equal(n_ends, 6); // one a turn: what a person spelt is text
        hearth_data_set_close(&set);
    }
}

// Calls are learned as the model's template writes them. One without a form for tools learns what calls none, and says
// what it left out.
static void tools(void **state)
{
    (void)state;
    static const char text[] =
        "[{\"tools\":[{\"name\":\"f\"}],\"conversations\":[" H("a question to f") "," CALL "," TOLD("4") ","
        G("It is 4.") "]},{\"tools\":[{\"name\":\"f\"}],\"conversations\":[" H("a question to nobody") ","
        G("No tool tells.") "]},{\"conversations\":[" H("a question") ",{\"from\":\"function_call\",\"value\":\"f()\"},"
        G("a call that is none") "]},{\"conversations\":[" H("a question") "," TOLD("4") "," G("Nobody asked f.") "]}]";
    static const struct {
        const char *template, *targets[2];
    } cases[] = {{"chatml", {"No tool tells.<|im_end|>|", NULL}},
                 {"qwen2.5", {"<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 0.1}}\n</tool_call><|im_end|>|"
                              "It is 4.<|im_end|>|", "No tool tells.<|im_end|>|"}}};
    for (size_t i = 0; i < 2; i++) {
        const struct hearth_data_sample *s;
        struct hearth_data_counts counts;
        enum hearth_data_format format;
        char got[256];
        use_template(cases[i].template);
        struct hearth_data_set *set = open_set(file_of("tools", text), "assistant", 4096);
        for (size_t k = 0; k < 2 && cases[i].targets[k]; k++) {
            assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
            assert_non_null(s);
            targets(s, got, sizeof got);
            assert_string_equal(got, cases[i].targets[k]);
        }
        assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
        assert_null(s);
        hearth_data_set_get_counts(set, 0, &counts, &format);
        assert_int_equal(counts.skipped[HEARTH_DATA_SKIP_TOOLS], !i);
        assert_int_equal(counts.fixed[HEARTH_DATA_FIX_TOOLS], !i);
        assert_int_equal(counts.skipped[HEARTH_DATA_SKIP_MISSING_FIELD], 1);
        assert_int_equal(counts.skipped[HEARTH_DATA_SKIP_NOT_ALTERNATING], 1);
        hearth_data_set_close(&set);
    }
}

// T9: Baize learns its transcripts whole, the opened turn after the last answer too; an odd turn does not come in.
static void transcripts(void **state)
{
    (void)state;
    static const char text[] = "[{\"topic\":\"t\",\"input\":\"The conversation between human and AI assistant.\\n"
                               "[|Human|] Q1\\n[|AI|] A1\\n[|Human|] Q2\\n[|AI|] A2\\n[|Human|] open\"}]";
    const struct hearth_data_sample *s;
    char got[512];
    use_template("baize-train");
    struct hearth_data_set *set = open_set(file_of("transcripts", text), "baize", 512);
    assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    assert_non_null(s);
    assert_int_equal(s->n_targets, s->n_tokens - 1);
    targets(s, got, sizeof got);
    assert_string_equal(got, "he conversation between human and AI assistant.\n[|Human|] Q1\n[|AI|] A1\n[|Human|] Q2\n"
                             "[|AI|] A2\n[|Human|] |");
    hearth_data_set_close(&set);
}

// Both sides of a pair, each with its own answer as target; a side that is too long takes the pair, not the answer.
static void both_sides(void **state)
{
    (void)state;
    static const char text[] = "{\"prompt\":\"Q\",\"chosen\":\"yes\",\"rejected\":\"no, never\"}\n"
                               "{\"prompt\":\"P\",\"chosen\":\"short\",\"rejected\":\"a longer answer that goes on and "
                               "on and on and on and on and on and on and on and on and on and on and on\"}\n"
                               "{\"instruction\":\"x\"}\n";
    const struct hearth_data_sample *s;
    struct hearth_data_sample other;
    char got[256];
    use_template("chatml");
    struct hearth_data_set *set = open_set(file_of("pairs", text), "assistant", 96);
    assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    assert_true(s && s->record->n_rejected == 1 && s->n_rejected_tokens > 0);
    targets(s, got, sizeof got);
    assert_string_equal(got, "yes<|im_end|>|");
    other = *s;
    other.ids = s->rejected_ids;
    other.weights = s->rejected_weights;
    other.n_tokens = s->n_rejected_tokens;
    targets(&other, got, sizeof got);
    assert_string_equal(got, "no, never<|im_end|>|");
    size_t same = 0;
    while (s->ids[same] == s->rejected_ids[same])
        same++;
    assert_true(same >= s->n_tokens - s->n_targets - 2); // one question: what is before the answers is one
    size_t n_targets = 0;
    for (size_t i = 0; i < s->n_rejected_tokens; i++)
        n_targets += s->rejected_weights[i] > 0;
    assert_true(n_targets == s->n_rejected_targets && s->rejected_weights[0] == 0);
    assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    assert_non_null(s);
    assert_true(s->record->n_rejected == 0 && !s->rejected_ids && !s->n_rejected_tokens && s->n_targets > 0);
    assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    assert_null(s);
    struct hearth_data_counts counts;
    enum hearth_data_format format;
    hearth_data_set_get_counts(set, 0, &counts, &format);
    assert_true(counts.n_pairs == 1 && counts.n_records == 2 && counts.skipped[HEARTH_DATA_SKIP_TOO_LONG] == 1);
    hearth_data_set_close(&set);
}

static void styles(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum hearth_data_mask mask;
        enum hearth_data_long too_long;
        unsigned n_seq;
    } rows[] = {
        {"alpaca", HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_RIGHT, 512},
        {"alpaca-lora", HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_RIGHT, 256},
        {"llmtune", HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_LEFT, 256},
        {"zh-alpaca", HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_RIGHT, 512},
        {"vicuna", HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_SPLIT, 2048},
        {"dolly", HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_DROP, 0},
        {"baize", HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_RIGHT, 512},
        {"phoenix", HEARTH_DATA_MASK_LEAD, HEARTH_DATA_LONG_SPLIT, 2048},
        {"chimera", HEARTH_DATA_MASK_LEAD, HEARTH_DATA_LONG_SPLIT, 2048},
        {"wizardlm", HEARTH_DATA_MASK_ASSISTANT, HEARTH_DATA_LONG_RIGHT, 2048},
        {"qlora", HEARTH_DATA_MASK_ALL, HEARTH_DATA_LONG_RIGHT, 528},
    };
    struct hearth_data_style style;
    size_t n = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(hearth_data_style_find(rows[i].name, &style));
        assert_true(style.mask == rows[i].mask && style.too_long == rows[i].too_long && style.n_seq == rows[i].n_seq);
    }
    for (const char *const *name = hearth_data_style_names(); *name; name++, n++)
        assert_true(hearth_data_style_find(*name, &style));
    assert_int_equal(n, 3 + sizeof rows / sizeof *rows);
    assert_false(hearth_data_style_find("", &style));
}

static void all_but_the_first(void **state)
{
    (void)state;
    const struct hearth_data_sample *s;
    use_template("chatml");
    struct hearth_data_set *set = open_set(file_of("all", imports[0].text), "all", 4096);
    assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    assert_int_equal(s->n_targets, s->n_tokens - 1);
    hearth_data_set_close(&set);
    set = open_set(file_of("all", imports[0].text), "llmtune", 9); // the beginning is cut off
    assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    assert_int_equal(s->n_tokens, 9);
    assert_true(s->weights[0] == 0 && s->n_targets == 8);
    hearth_data_set_close(&set);
}

// ---------------------------------------------------------------- splitting

static void pieces_are_the_whole(void **state)
{
    (void)state;
    static char text[8192];
    size_t n = (size_t)snprintf(text, sizeof text, "[{\"id\":\"long\",\"conversations\":[");
    for (int i = 0; i < 30; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s" H("question %d") "," G("answer %d"), i ? "," : "", i, i);
    snprintf(text + n, sizeof text - n, "]}]");
    use_template("chatml");
    for (unsigned n_seq = 60; n_seq < 400; n_seq += 37) {
        struct hearth_data_set *set = open_set(file_of("long", text), "assistant", n_seq);
        const struct hearth_data_sample *s;
        char want[64];
        int turn = 0;
        for (unsigned piece = 0;; piece++) {
            assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
            if (!s)
                break;
            assert_int_equal(s->piece, piece);
            assert_true(s->n_tokens <= n_seq && s->n_targets > 0 && s->record->n_turns % 2 == 0);
            for (size_t i = 0; i < s->record->n_turns; i++, turn++) {
                snprintf(want, sizeof want, "%s %d", turn % 2 ? "answer" : "question", turn / 2);
                assert_int_equal(s->record->turns[i].len_bytes, strlen(want));
                assert_memory_equal(s->record->turns[i].text, want, strlen(want));
            }
        }
        assert_int_equal(turn, 60);
        hearth_data_set_close(&set);
    }
}

static void text_windows(void **state)
{
    (void)state;
    const struct hearth_data_sample *s;
    size_t n_targets = 0, whole = 0;
    static char text[3000];
    for (size_t i = 0; i + 1 < sizeof text; i++)
        text[i] = i % 61 == 60 ? '\n' : (char)('a' + i * 7 % 26);
    for (int pass = 0; pass < 2; pass++) {
        struct hearth_data_set *set = open_set(file_of("text", text), "assistant", pass ? 64 : 4096);
        for (;;) {
            assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
            if (!s)
                break;
            *(pass ? &n_targets : &whole) += s->n_targets;
        }
        hearth_data_set_close(&set);
    }
    assert_true(whole > 500);
    assert_int_equal(n_targets, whole); // each token is a target once
}

// A book in one record: its tokens are made once, not for each of its thousands of windows.
static void a_long_text(void **state)
{
    (void)state;
    enum { BYTES = 400000 };
    const struct hearth_data_sample *s;
    size_t n_windows = 0;
    clock_t start = clock();
    char *text = malloc(BYTES + 1);
    size_t n = (size_t)snprintf(text, BYTES, "{\"text\":\"");
    for (; n < BYTES - 2; n++)
        text[n] = n % 61 == 60 ? ' ' : (char)('a' + n * 7 % 26);
    memcpy(text + n, "\"}", 3);
    struct hearth_data_set *set = open_set(file_of("book", text), "assistant", 64);
    free(text);
    do {
        assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
        assert_true(!s || (s->piece == n_windows++ && s->weights[0] == 0 && s->n_targets == s->n_tokens - 1));
        assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 60); // less than one of them
    } while (s);
    assert_true(n_windows > 1000);
    hearth_data_set_close(&set);
}

// Only what was cut counts as split.
static void split_is_counted(void **state)
{
    (void)state;
    static const char text[] = "[" C("a", H("question") "," G("an answer of some words to split") "," H("next") ","
                                     G("and another answer of some words"))
                               "{\"id\":\"b\",\"conversations\":[" H("alone") ","
                               G("an answer that is too long for a sequence, because it has a great many words in it, "
                                 "more than sixty of any tokens that a tokenizer could make of them") "]}]";
    const struct hearth_data_sample *s;
    struct hearth_data_counts counts;
    enum hearth_data_format format;
    use_template("chatml");
    struct hearth_data_set *set = open_set(file_of("cut", text), "assistant", 60);
    do
        assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    while (s);
    hearth_data_set_get_counts(set, 0, &counts, &format);
    assert_int_equal(counts.n_records, 1);
    assert_int_equal(counts.fixed[HEARTH_DATA_FIX_SPLIT], 1);
    assert_int_equal(counts.skipped[HEARTH_DATA_SKIP_PAIR_TOO_LONG], 1);
    hearth_data_set_close(&set);
}

// ---------------------------------------------------------------- duplicates, split

static void duplicates(void **state)
{
    (void)state;
    static const char text[] =
        "{\"instruction\":\"Tell me about the sea\",\"output\":\"The sea is deep and blue and very wide, and many "
        "fish swim in it every day and every night of the year without a rest.\"}\n"
        "{\"instruction\":\"Tell me about the sea\",\"output\":\"The sea is deep and blue and very wide, and many "
        "fish swim in it every day and every night of the year without a rest.\"}\n"
        "{\"instruction\":\"tell me about the sea!\",\"output\":\"The sea is deep and blue and very wide, and many "
        "fish swim in it every day and every night of the year without any rest.\"}\n"
        "{\"instruction\":\"Tell me about the hill\",\"output\":\"Hills are low mountains, round and green, where "
        "sheep graze through the summer and shepherds sing in the evening.\"}\n";
    const struct hearth_data_sample *s;
    struct hearth_data_counts counts;
    enum hearth_data_format format;
    use_template("chatml");
    struct hearth_data_set *set = open_set(file_of("twice", text), "assistant", 4096);
    do
        assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
    while (s);
    hearth_data_set_get_counts(set, 0, &counts, &format);
    assert_int_equal(counts.n_records, 2);
    assert_int_equal(counts.skipped[HEARTH_DATA_SKIP_DUPLICATE], 1);
    assert_int_equal(counts.skipped[HEARTH_DATA_SKIP_NEAR_DUPLICATE], 1);
    assert_int_equal(counts.first_line[HEARTH_DATA_SKIP_NEAR_DUPLICATE], 3);
    hearth_data_set_close(&set);
}

// Pairs that differ in the answer that was not chosen are two, however alike the rest is.
static void pairs_apart(void **state)
{
    (void)state;
    static const char rest[] = "{\"prompt\":\"Tell me about the sea\",\"chosen\":\"The sea is deep and blue and very "
                               "wide, and many fish swim in it every day and every night of the year.\",\"rejected\":";
    const struct hearth_data_sample *s;
    char text[1024];
    unsigned n = 0;
    snprintf(text, sizeof text, "%s\"no\"}\n%s\"never\"}\n%s\"no\"}\n", rest, rest, rest);
    use_template("chatml");
    struct hearth_data_set *set = open_set(file_of("pairs", text), "assistant", 4096);
    do {
        assert_int_equal(hearth_data_set_next(set, &s, NULL), HEARTH_OK);
        n += s && s->n_rejected_tokens;
    } while (s);
    assert_int_equal(n, 2);
    hearth_data_set_close(&set);
}

static void split_by_id(void **state)
{
    (void)state;
    unsigned held = 0, moved = 0, sum = 0;
    for (int i = 0; i < 10000; i++) {
        char id[16];
        snprintf(id, sizeof id, "c%d", i);
        bool here = hearth_data_is_held_out(id, 1, 0.1);
        held += here;
        sum += here ? (unsigned)i : 0;
        assert_int_equal(here, hearth_data_is_held_out(id, 1, 0.1));
        assert_true(!here || hearth_data_is_held_out(id, 1, 0.2)); // a larger share takes more, drops none
        moved += here != hearth_data_is_held_out(id, 2, 0.1);
    }
    assert_in_range(held, 850, 1150); // 5 sigma
    assert_true(moved > 1000);
    assert_int_equal(sum, 4954451); // what is held out once stays so, in every version to come
}

// ---------------------------------------------------------------- packing

static void packing(void **state)
{
    (void)state;
    enum { N = 500, SEQ = 128 };
    uint32_t lengths[N], used[N] = {0};
    static unsigned char taken[N][SEQ];
    struct hearth_data_place places[N], again[N];
    size_t n_rows, n_again, total = 0;
    for (size_t i = 0; i < N; i++)
        total += lengths[i] = 1 + (uint32_t)(i * 7919 % SEQ);
    assert_int_equal(hearth_data_pack(lengths, N, SEQ, places, &n_rows, NULL), HEARTH_OK);
    assert_int_equal(hearth_data_pack(lengths, N, SEQ, again, &n_again, NULL), HEARTH_OK);
    assert_memory_equal(places, again, sizeof places);
    for (size_t i = 0; i < N; i++) {
        assert_true(places[i].row < n_rows && places[i].start + lengths[i] <= SEQ);
        for (uint32_t k = 0; k < lengths[i]; k++)
            assert_int_equal(taken[places[i].row][places[i].start + k]++, 0);
        used[places[i].row] += lengths[i];
    }
    assert_true(n_rows <= total / SEQ * 11 / 9 + 6); // best fit decreasing
    const uint32_t six[] = {5, 7, 3, 5, 2, 2};
    assert_int_equal(hearth_data_pack(six, 6, 12, places, &n_rows, NULL), HEARTH_OK);
    assert_int_equal(n_rows, 2); // 7+5 and 5+3+2+2
    lengths[3] = SEQ + 1;
    assert_int_equal(hearth_data_pack(lengths, N, SEQ, places, &n_rows, NULL), HEARTH_INVALID);
}

static void rows_do_not_leak(void **state)
{
    (void)state;
    int32_t ids[8] = {0}, target[8] = {0};
    uint32_t pos[8] = {0}, seg_from[8] = {0};
    float weight[8] = {0};
    const struct hearth_data_row row = {ids, target, pos, seg_from, weight};
    const int32_t a[] = {11, 12, 13}, b[] = {21, 22, 23, 24};
    const float wa[] = {0, 0, 1}, wb[] = {0, 1, 1, 0.5f};
    assert_int_equal(hearth_data_row_put(&row, 8, 0, a, wa, 3, NULL), HEARTH_OK);
    assert_int_equal(hearth_data_row_put(&row, 8, 3, b, wb, 4, NULL), HEARTH_OK);
    assert_int_equal(hearth_data_row_put(&row, 8, 7, a, wa, 3, NULL), HEARTH_INVALID);
    assert_int_equal(hearth_data_row_put(&row, 8, 6, a, wa, 3, NULL), HEARTH_INVALID); // by one
    static const int32_t want_target[] = {12, 13, -1, 22, 23, 24, -1};
    static const uint32_t want_pos[] = {0, 1, 2, 0, 1, 2, 3}, want_from[] = {0, 0, 0, 3, 3, 3, 3};
    static const float want_weight[] = {0, 1, 0, 1, 1, 0.5f, 0};
    assert_memory_equal(target, want_target, sizeof want_target);
    assert_memory_equal(pos, want_pos, sizeof want_pos);
    assert_memory_equal(seg_from, want_from, sizeof want_from);
    assert_memory_equal(weight, want_weight, sizeof want_weight);
}

// ---------------------------------------------------------------- memory

static enum hearth_status whole_set(const char *path, unsigned n_seq)
{
    const struct hearth_data_file file = {.path = path, .weight = 1};
    struct hearth_data_set_params params = {.files = &file, .n_files = 1, .engine = engine, .n_seq = n_seq};
    struct hearth_data_set *set;
    const struct hearth_data_sample *s;
    struct hearth_error err = {0};
    hearth_data_set_default(&params);
    enum hearth_status status = hearth_data_set_open(&set, &params, &err);
    if (status)
        return status;
    do
        status = hearth_data_set_next(set, &s, &err);
    while (!status && s);
    hearth_data_set_close(&set);
    return status;
}

static void every_allocation_fails(void **state)
{
    (void)state;
    use_template("chatml");
    for (size_t i = 0; i < sizeof imports / sizeof *imports; i++) {
        const char *path = file_of("sweep", imports[i].text);
        unsigned long n = 0;
        fault_memory_begin(0);
        assert_int_equal(whole_set(path, 64), HEARTH_OK);
        assert_int_equal(fault_memory_end(&n), 0);
        assert_true(n > 5);
        for (unsigned long at = 1; at <= n; at++) {
            fault_memory_begin(at);
            enum hearth_status status = whole_set(path, 64);
            long left = fault_memory_end(NULL);
            if (status != HEARTH_NOMEM || left)
                fail_msg("import %zu, allocation %lu: %s, %ld left", i, at, hearth_status_text(status), left);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(importers),       cmocka_unit_test(cleaning_rules),
        cmocka_unit_test(masks),           cmocka_unit_test(all_but_the_first),
        cmocka_unit_test(tools),           cmocka_unit_test(transcripts),
        cmocka_unit_test(both_sides),      cmocka_unit_test(styles),
        cmocka_unit_test(text_windows),    cmocka_unit_test(pieces_are_the_whole),
        cmocka_unit_test(a_long_text),     cmocka_unit_test(split_is_counted),
        cmocka_unit_test(duplicates),      cmocka_unit_test(split_by_id),
        cmocka_unit_test(pairs_apart),
        cmocka_unit_test(packing),         cmocka_unit_test(rows_do_not_leak),
        cmocka_unit_test(weights),
        cmocka_unit_test(every_allocation_fails),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
