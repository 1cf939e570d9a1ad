// SPDX-License-Identifier: Apache-2.0
// Chat formats: the exact strings models were trained on, who wrote which byte, recognition, orders of roles.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/text/chat.h"
#include "engine/text/chat_format.h"

enum { MAX_TEXT = 8192, MAX_SEGMENTS = 256 };

#define S(t)                                                                                                 \
    {                                                                                                        \
        .role = HT_ROLE_SYSTEM, .text = t, .len_bytes = sizeof t - 1                                         \
    }
#define U(t)                                                                                                 \
    {                                                                                                        \
        .role = HT_ROLE_USER, .text = t, .len_bytes = sizeof t - 1                                           \
    }
#define A(t)                                                                                                 \
    {                                                                                                        \
        .role = HT_ROLE_ASSISTANT, .text = t, .len_bytes = sizeof t - 1                                      \
    }
#define N(list) (sizeof(list) / sizeof(list)[0])

static const struct ht_chat_message two_turns[] = {U("Q1"), A("A1"), U("Q2")};
static const struct ht_chat_message with_system[] = {S("S"), U("Q1"), A("A1"), U("Q2")};
static const struct ht_chat_message closed[] = {U("Q1"), A("A1")};

static struct ht_chat named(const char *name)
{
    struct ht_chat chat;
    assert_int_equal(ht_chat_init(&chat, name, NULL, 0, NULL, NULL), HEARTH_OK);
    return chat;
}

// The rendered text; `marks`, when given, gets one letter for each byte: t s u a, capital for a target.
static void render(const struct ht_chat *chat, const struct ht_chat_message *messages, size_t n,
                   bool generation, char *text, char *marks)
{
    struct ht_segment segments[MAX_SEGMENTS];
    struct hearth_error err = {0};
    size_t count, used = 0;
    enum hearth_status status =
        ht_chat_render(chat, messages, n, generation, segments, MAX_SEGMENTS, &count, &err);
    if (status != HEARTH_OK)
        fail_msg("%s: %s", ht_chat_name(chat), err.text);
    assert_true(count <= ht_chat_max_segments(n));
    for (size_t i = 0; i < count; i++) {
        assert_true(segments[i].len_bytes > 0 && used + segments[i].len_bytes < MAX_TEXT);
        memcpy(text + used, segments[i].bytes, segments[i].len_bytes);
        char letter = segments[i].origin == HT_ORIGIN_TEMPLATE ? 't'
                      : segments[i].origin == HT_ORIGIN_SYSTEM ? 's'
                      : segments[i].origin == HT_ORIGIN_USER   ? 'u'
                                                               : 'a';
        if (marks)
            memset(marks + used, segments[i].target ? letter - 32 : letter, segments[i].len_bytes);
        used += segments[i].len_bytes;
    }
    text[used] = '\0';
    if (marks)
        marks[used] = '\0';
}

static void expect(const char *name, const struct ht_chat_message *messages, size_t n, bool generation,
                   const char *expected)
{
    char text[MAX_TEXT];
    struct ht_chat chat = named(name);
    render(&chat, messages, n, generation, text, NULL);
    if (strcmp(text, expected) != 0)
        fail_msg("%s renders\n%s\nnot\n%s", name, text, expected);
}

#define BELOW     "Below is an instruction that describes a task"
#define COMPLETES "Write a response that appropriately completes the request.\n\n"
#define CURIOUS(who)                                                                                         \
    "A chat between a curious " who                                                                          \
    " and an artificial intelligence assistant. The assistant gives helpful, detailed, "                     \
    "and polite answers to the " who "'s questions."
#define BAIZE_INTRO                                                                                          \
    "The following is a conversation between a human and an AI assistant named Baize (named after a "        \
    "mythical creature "                                                                                     \
    "in Chinese folklore). Baize is an open-source AI assistant developed by UCSD and Sun Yat-Sen "          \
    "University. The "                                                                                       \
    "human and the AI assistant take turns chatting. Human statements start with [|Human|] and AI "          \
    "assistant "                                                                                             \
    "statements start with [|AI|]. The AI assistant always provides responses in as much detail as "         \
    "possible, and in "                                                                                      \
    "Markdown format. The AI assistant always declines to engage with topics, questions and instructions "   \
    "related to "                                                                                            \
    "unethical, controversial, or sensitive issues. Complete the transcript in exactly that format.\n"

// Question, answer, question: what the model gets to answer the second one.
static const struct {
    const char *name, *text;
} prompts[] = {
    {"chatml",
     "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"smollm2",
     "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
     "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"qwen", "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n"
             "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"},
    {"qwen2.5",
     "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
     "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"qwen3",
     "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
     "<|im_start|>assistant\n"},
    {"qwen3-nothink", "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n"
                      "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"},
    {"phi3", "<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nQ2<|end|>\n<|assistant|>\n"},
    {"phi4", "<|im_start|>user<|im_sep|>Q1<|im_end|><|im_start|>assistant<|im_sep|>A1<|im_end|>"
             "<|im_start|>user<|im_sep|>Q2<|im_end|><|im_start|>assistant<|im_sep|>"},
    {"zephyr", "<|user|>\nQ1</s>\n<|assistant|>\nA1</s>\n<|user|>\nQ2</s>\n<|assistant|>\n"},
    {"llama3", "<s><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
               "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"llama3.1", "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
                 "Today Date: 26 Jul 2024\n\n<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"llama2", "<s>[INST] Q1 [/INST] A1 </s><s>[INST] Q2 [/INST]"},
    {"mistral-v1", "<s> [INST] Q1 [/INST] A1</s> [INST] Q2 [/INST]"},
    {"mistral-v3", "<s>[INST] Q1[/INST] A1</s>[INST] Q2[/INST]"},
    {"mistral-v3-tekken", "<s>[INST]Q1[/INST]A1</s>[INST]Q2[/INST]"},
    {"mistral-v7", "<s>[INST] Q1[/INST] A1</s>[INST] Q2[/INST]"},
    {"gemma", "<s><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
              "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n"},
    {"chatglm2", "[Round 1]\n\n问：Q1\n\n答：A1\n\n[Round 2]\n\n问：Q2\n\n答："},
    {"chatglm3", "[gMASK]sop<|user|>\n Q1<|assistant|>\n A1<|user|>\n Q2<|assistant|>"},
    {"glm4", "[gMASK]<sop><|user|>\nQ1<|assistant|>\nA1<|user|>\nQ2<|assistant|>"},
    {"alpaca", BELOW ". " COMPLETES "### Instruction:\nQ1\n\n### Response:A1</s>\n\n### Instruction:\nQ2\n\n"
                     "### Response:"},
    {"alpaca-lora",
     BELOW ". " COMPLETES "### Instruction:\nQ1\n\n### Response:\nA1</s>\n\n### Instruction:\nQ2\n\n"
           "### Response:\n"},
    {"llmtune", BELOW ", paired with an input that provides further context. " COMPLETES
                      "### Instruction:\nQ1\n\n### Input:\n\n\n### Response:\nA1</s>\n\n"
                      "### Instruction:\nQ2\n\n### Input:\n\n\n### Response:\n"},
    {"zh-alpaca",
     BELOW ". " COMPLETES "### Instruction:\nQ1\n\n### Response: A1</s>\n\n### Instruction:\nQ2\n\n"
           "### Response: "},
    {"dolly",
     BELOW ". " COMPLETES "### Instruction:\nQ1\n\n### Response:\nA1\n\n### End\n\n### Instruction:\nQ2\n\n"
           "### Response:\n"},
    {"wizardlm-7b", "Q1\n\n### Response:A1</s>\n\nQ2\n\n### Response:"},
    {"self-instruct", "Q1\n\nA1</s>\n\nQ2\n\n"},
    {"vicuna1.1", CURIOUS("user") " USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:"},
    {"vicuna0", CURIOUS("human") "\n### Human: Q1\n### Assistant: A1\n### Human: Q2\n### Assistant:"},
    {"airoboros", "A chat.\nUSER: Q1\nASSISTANT: A1</s>USER: Q2\nASSISTANT:"},
    {"baize", BAIZE_INTRO "[|Human|]Hello!\n[|AI|]Hi!\n[|Human|]Q1\n[|AI|]A1\n[|Human|]Q2\n[|AI|]"},
    {"baize-train",
     "The conversation between human and AI assistant.\n[|Human|] Q1\n[|AI|] A1\n[|Human|] Q2\n[|AI|]"},
    {"phoenix", CURIOUS("human") "\n\nHuman: <s>Q1</s>Assistant: <s>A1</s>Human: <s>Q2</s>Assistant: <s>"},
    {"koala", "BEGINNING OF CONVERSATION: USER: Q1 GPT:A1</s>USER: Q2 GPT:"},
    {"guanaco", "### Human: Q1### Assistant: A1### Human: Q2### Assistant:"},
    {"belle-bloom", "Human: Q1\n\nAssistant:A1</s>\n\nHuman: Q2\n\nAssistant:"},
    {"moss", "<|Human|>: Q1<eoh>\n<|MOSS|>: A1<eom>\n<|Human|>: Q2<eoh>\n<|MOSS|>:"},
    {"oasst", "<|prompter|>Q1</s><|assistant|>A1</s><|prompter|>Q2</s><|assistant|>"},
    {"ultralm", "User: Q1</s>\nAssistant: A1</s>\nUser: Q2</s>\nAssistant:"},
};

static void exact_prompts(void **state)
{
    (void)state;
    for (size_t i = 0; i < N(prompts); i++)
        expect(prompts[i].name, two_turns, N(two_turns), true, prompts[i].text);
    assert_int_equal(N(prompts), ht_chat_n_formats);
}

// The same with a system text of the user's.
static void exact_system(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
    } cases[] = {
        {"smollm2",
         "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1"
         "<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n"},
        {"phi3", "<|system|>\nS<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n<|user|>\nQ2<|end|>\n"
                 "<|assistant|>\n"},
        {"zephyr",
         "<|system|>\nS</s>\n<|user|>\nQ1</s>\n<|assistant|>\nA1</s>\n<|user|>\nQ2</s>\n<|assistant|>\n"},
        {"llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ1 [/INST] A1 </s><s>[INST] Q2 [/INST]"},
        {"llama3", "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
                   "<|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>"
                   "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"mistral-v1", "<s> [INST] S\n\nQ1 [/INST] A1</s> [INST] Q2 [/INST]"},
        {"mistral-v7", "<s>[SYSTEM_PROMPT] S[/SYSTEM_PROMPT][INST] Q1[/INST] A1</s>[INST] Q2[/INST]"},
        {"gemma", "<s><start_of_turn>user\nS\n\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
                  "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n"},
        {"chatglm3", "[gMASK]sop<|system|>\n S<|user|>\n Q1<|assistant|>\n A1<|user|>\n Q2<|assistant|>"},
        {"vicuna1.1", "S USER: Q1 ASSISTANT: A1</s>USER: Q2 ASSISTANT:"},
        {"airoboros", "S\nUSER: Q1\nASSISTANT: A1</s>USER: Q2\nASSISTANT:"},
    };
    for (size_t i = 0; i < N(cases); i++)
        expect(cases[i].name, with_system, N(with_system), true, cases[i].text);
}

static void exact_input(void **state)
{
    (void)state;
    const struct ht_chat_message m[] = {
        {.role = HT_ROLE_USER, .text = "Q1", .len_bytes = 2, .input = "X", .input_len_bytes = 1}};
    expect("alpaca", m, 1, true,
           BELOW ", paired with an input that provides further context. " COMPLETES
                 "### Instruction:\nQ1\n\n### Input:\nX\n\n### Response:");
    expect("alpaca-lora", m, 1, true,
           BELOW ", paired with an input that provides further context. " COMPLETES
                 "### Instruction:\nQ1\n\n### Input:\nX\n\n### Response:\n");
    expect("dolly", m, 1, true, BELOW ". " COMPLETES "### Instruction:\nQ1\n\nInput:\nX\n\n### Response:\n");
    expect("zh-alpaca", m, 1, true, BELOW ". " COMPLETES "### Instruction:\nQ1\nX\n\n### Response: ");
    expect("self-instruct", m, 1, true, "Q1\n\nX\n\n");
    expect("koala", m, 1, true, "BEGINNING OF CONVERSATION: USER: Q1\n\nX GPT:");
}

// Marks in runs: "t17 u2 A2 T10".
static void expand(const char *runs, char *marks)
{
    size_t n = 0;
    for (char *end; *runs; runs = *end == ' ' ? end + 1 : end) {
        char letter = *runs;
        for (unsigned long count = strtoul(runs + 1, &end, 10); count; count--)
            marks[n++] = letter;
    }
    marks[n] = '\0';
}

// System texts behind other messages, with and without one at the beginning.
static void late_systems(void **state)
{
    (void)state;
    static const struct ht_chat_message late[] = {S("S"), U("Q1"), A("A1"), S(" T "), U("Q2")};
    static const struct {
        const char *name, *text;
    } cases[] = {
        {"chatml", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1"
                   "<|im_end|>\n<|im_start|>system\n T <|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n"
                   "<|im_start|>assistant\n"},
        {"phi4", "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>Q1<|im_end|>"
                 "<|im_start|>assistant<|im_sep|>A1<|im_end|><|im_start|>system<|im_sep|> T <|im_end|>"
                 "<|im_start|>user<|im_sep|>Q2<|im_end|><|im_start|>assistant<|im_sep|>"},
        {"phi3", "<|system|>\nS<|end|>\n<|user|>\nQ1<|end|>\n<|assistant|>\nA1<|end|>\n<|system|>\n T <|end|>\n"
                 "<|user|>\nQ2<|end|>\n<|assistant|>\n"},
        {"zephyr", "<|system|>\nS</s>\n<|user|>\nQ1</s>\n<|assistant|>\nA1</s>\n<|system|>\n T </s>\n<|user|>\nQ2"
                   "</s>\n<|assistant|>\n"},
        {"llama3.1",
         "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul "
         "2024\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nQ1<|eot_id|><|start_header_id|>assistant"
         "<|end_header_id|>\n\nA1<|eot_id|><|start_header_id|>system<|end_header_id|>\n\nT<|eot_id|>"
         "<|start_header_id|>user<|end_header_id|>\n\nQ2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"glm4", "[gMASK]<sop><|system|>\nS<|user|>\nQ1<|assistant|>\nA1<|system|>\n T <|user|>\nQ2<|assistant|>"},
    };
    for (size_t i = 0; i < N(cases); i++)
        expect(cases[i].name, late, N(late), true, cases[i].text);
    expect("qwen2.5", &late[1], 3, true, // the default one at the beginning, and a system message at the end
           "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
           "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>system\n T <|im_end|>\n"
           "<|im_start|>assistant\n");
    struct ht_chat chat = named("chatml");
    char text[MAX_TEXT], marks[MAX_TEXT];
    render(&chat, late, N(late), true, text, marks);
    char *at = strstr(text, " T ");
    assert_memory_equal(marks + (at - text) - 1, "tssst", 5);
}

// Templates that refuse or drop such a text are not asked to take it.
static void late_systems_of_templates(void **state)
{
    (void)state;
    static const struct {
        const char *jinja;
        bool takes;
    } cases[] = {
        {"{{ '<|im_start|>' + message['role'] }}", true},
        {"{{ '<|im_start|>' }}{{ raise_exception('System message must be at the beginning.') }}", false},
        {"<|im_start|>{% if enable_thinking %}", false},
        {"<|im_start|>{% if enable_thinking %}{% if message.role == \"system\" and not loop.first %}", true},
        {"<|start_header_id|>", true},
        {"<start_of_turn>", false},
    };
    for (size_t i = 0; i < N(cases); i++) {
        struct ht_chat chat;
        assert_int_equal(ht_chat_init(&chat, NULL, cases[i].jinja, strlen(cases[i].jinja), NULL, NULL), HEARTH_OK);
        if (chat.late_system != cases[i].takes)
            fail_msg("%s", cases[i].jinja);
    }
}

// What closes the last answer, and who wrote what: t template, s system, u user, a assistant; capitals are
// learned.
static void closed_turns(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *marks;
    } cases[] = {
        {"chatml", "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n",
         "t17 u2 t33 A2 T10 t1"},
        {"smollm2",
         "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
         "Face<|im_end|>\n"
         "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n",
         "t19 s68 t28 u2 t33 A2 T10 t1"},
        {"llama2", "<s>[INST] Q1 [/INST] A1 </s>", "t10 u2 t9 A2 T5"},
        {"gemma", "<s><start_of_turn>user\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n",
         "t23 u2 t35 A2 T13 t1"},
        {"guanaco", "### Human: Q1### Assistant: A1</s>", "t11 u2 t15 A2 T4"},
        {"chatglm2", "[Round 1]\n\n问：Q1\n\n答：A1</s>", "t17 u2 t8 A2 T4"},
        {"koala", "BEGINNING OF CONVERSATION: USER: Q1 GPT:A1</s>", "t33 u2 t5 A2 T4"},
        {"baize-train",
         "The conversation between human and AI assistant.\n[|Human|] Q1\n[|AI|] A1\n[|Human|] ",
         "s48 t11 u2 t8 A2 T11"},
        {"vicuna0", CURIOUS("human") "\n### Human: Q1\n### Assistant: A1\n### ", "s156 t12 u2 t16 A2 T5"},
    };
    for (size_t i = 0; i < N(cases); i++) {
        char text[MAX_TEXT], marks[MAX_TEXT], expected[MAX_TEXT];
        struct ht_chat chat = named(cases[i].name);
        render(&chat, closed, N(closed), false, text, marks);
        assert_string_equal(text, cases[i].text);
        expand(cases[i].marks, expected);
        assert_string_equal(marks, expected);
    }
}

static void turns_and_trimming(void **state)
{
    (void)state;
    const struct ht_chat_message padded[] = {S(" S\n"), U("\t Q1 \xC2\xA0"), A("\nA1\x1C"), U(" Q2")};
    expect("gemma", padded, N(padded), true,
           "<s><start_of_turn>user\n S\n\n\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
           "<start_of_turn>user\nQ2<end_of_turn>\n<start_of_turn>model\n");
    expect("llama2", padded, N(padded), true,
           "<s>[INST] <<SYS>>\n S\n\n<</SYS>>\n\n\t Q1 [/INST] A1 </s><s>[INST] Q2 [/INST]");
    expect(
        "llama3", padded, 2, true,
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>"
        "\n\nQ1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
    expect("phi3", padded + 1, 1, true, "<|user|>\n\t Q1 \xC2\xA0<|end|>\n<|assistant|>\n");
    const struct ht_chat_message blank[] = {U(" \n ")};
    expect("gemma", blank, 1, true, "<s><start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\n");

    struct ht_segment segments[MAX_SEGMENTS];
    size_t n;
    struct ht_chat chat = named("chatml");
    assert_int_equal(ht_chat_render(&chat, with_system, 4, true, segments, MAX_SEGMENTS, &n, NULL),
                     HEARTH_OK);
    uint32_t turn = 0;
    for (size_t i = 0; i < n; i++) { // never goes back; contents belong to their message
        assert_true(segments[i].turn >= turn);
        turn = segments[i].turn;
        if (segments[i].origin != HT_ORIGIN_TEMPLATE)
            assert_ptr_equal(segments[i].bytes, with_system[turn].text);
    }
    assert_int_equal(turn, 4);
}

static void thoughts(void **state)
{
    (void)state;
    const struct ht_chat_message m[] = {U("Q1"), A("<think>\nx\n</think>\n\nA1"), U("Q2"),
                                        A("<think>y</think>A2")};
    expect("qwen3", m, 3, true,
           "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nQ2<|im_"
           "end|>\n"
           "<|im_start|>assistant\n");
    expect("qwen3", m + 2, 2, false,
           "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n<think>y</think>A2<|im_end|>\n");
    expect("qwen3", closed, 2, false,
           "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nA1<|im_end|>\n");
    const struct ht_chat_message padded[] = {U("Q1"), A("\n\nA1"), U("Q2")};
    expect("qwen3", padded, 3, true,
           "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\n\n\nA1<|im_end|>\n"
           "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n");
}

static void recognised(void **state)
{
    (void)state;
    static const struct {
        const char *jinja, *name, *system;
    } cases[] = {
        {"{{ '<|im_start|>' + message['role'] }}", "chatml", ""},
        {"{{ '<|im_start|>system\nYou are A.<|im_end|>\n' }}", "chatml", "You are A."},
        {"{{ \"<|im_start|>system\\nYou\\'re \\\"B\\\"\\nhere<|im_end|>\\n\" }}", "chatml",
         "You're \"B\"\nhere"},
        {"{{ '<|im_start|>system\n' + s + '<|im_end|>' }}{{ '<|im_start|>system\nC<|im_end|>' }}", "chatml",
         "C"},
        {"<|im_start|>system\n{{ s }}<|im_end|>", "chatml", ""},
        {"<|im_start|>system\nD<|im_end|>\n{{ m }}", "chatml", "D"},
        {"<|im_start|>{{ r }}<|im_sep|>", "phi4", ""},
        {"<|im_start|>{% if enable_thinking %}", "qwen3", ""},
        {"[INST] <<SYS>>", "llama2", ""},
        {"[SYSTEM_PROMPT] [INST]", "mistral-v7", ""},
        {"' [INST] ' + x", "mistral-v1", ""},
        {"{{ \"[INST]\" + x }}", "mistral-v3-tekken", ""},
        {"{{ \"[INST] \" + x }}", "mistral-v3", ""},
        {"<|user|><|assistant|><|end|>", "phi3", ""},
        {"[gMASK]<sop><|user|>", "glm4", ""},
        {"<|user|>\n<|endoftext|><|assistant|>", "zephyr", ""},
        {"{{ '<|user|>\n' + m + eos_token }}", "zephyr", ""},
        {"<start_of_turn>", "gemma", ""},
        {"USER: x ASSISTANT: y", "vicuna1.1", CURIOUS("user")},
        {"<|start_header_id|>", "llama3", ""},
        {"<|start_header_id|>Cutting Knowledge Date: December 2023", "llama3.1", ""},
        {"[gMASK]sop<|user|>", "chatglm3", ""},
    };
    for (size_t i = 0; i < N(cases); i++) {
        struct ht_chat chat;
        struct hearth_error err = {0};
        if (ht_chat_init(&chat, NULL, cases[i].jinja, strlen(cases[i].jinja), NULL, &err))
            fail_msg("%s: %s", cases[i].jinja, err.text);
        assert_string_equal(ht_chat_name(&chat), cases[i].name);
        assert_string_equal(chat.system, cases[i].system);
        assert_int_equal(chat.system_len_bytes, strlen(cases[i].system));
    }
}

static void not_recognised(void **state)
{
    (void)state;
    struct ht_chat chat;
    struct hearth_error err = {0};
    assert_int_equal(ht_chat_init(&chat, NULL, "{{ x }}", 7, NULL, &err), HEARTH_UNSUPPORTED);
    assert_non_null(strstr(err.text, "--template"));
    assert_int_equal(ht_chat_init(&chat, "no-such", NULL, 0, NULL, &err), HEARTH_NOT_FOUND);
    assert_non_null(strstr(err.text, "no-such"));
    assert_int_equal(ht_chat_init(&chat, "gemma", "{{ x }}", 7, NULL, &err), HEARTH_OK); // a name wins
    static const char *const completion[] = {"none", "raw", NULL};
    size_t n;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(ht_chat_init(&chat, completion[i], NULL, 0, NULL, &err), HEARTH_OK);
        assert_string_equal(ht_chat_name(&chat), "none");
        assert_null(ht_chat_stops(&chat)[0]);
        assert_int_equal(ht_chat_render(&chat, two_turns, 1, true, NULL, 0, &n, &err), HEARTH_UNSUPPORTED);
    }
    static char long_text[HT_CHAT_SYSTEM_BYTES + 64] = "<|im_start|>system\n";
    memset(long_text + 19, 'x', sizeof long_text - 19);
    memcpy(long_text + sizeof long_text - 10, "<|im_end|>", 10);
    assert_int_equal(ht_chat_init(&chat, NULL, long_text, sizeof long_text, NULL, &err), HEARTH_LIMIT);
    assert_int_equal(ht_chat_init(&chat, NULL, long_text, 100, NULL, &err),
                     HEARTH_OK); // it never ends: no text
    assert_int_equal(chat.system_len_bytes, 0);
    assert_string_equal(chat.system, "");
}

static void refuse(const char *name, const struct ht_chat_message *messages, size_t n, bool generation,
                   const char *word)
{
    struct ht_segment segments[MAX_SEGMENTS];
    struct hearth_error err = {0};
    struct ht_chat chat = named(name);
    size_t count = 1;
    assert_int_equal(ht_chat_render(&chat, messages, n, generation, segments, MAX_SEGMENTS, &count, &err),
                     HEARTH_INVALID);
    assert_int_equal(count, 0);
    if (!strstr(err.text, word))
        fail_msg("'%s' lacks '%s'", err.text, word);
}

static void orders_of_roles(void **state)
{
    (void)state;
    const struct ht_chat_message two_systems[] = {S("S"), S("T"), U("Q")};
    const struct ht_chat_message late_system[] = {U("Q"), A("A"), S("S"), U("Q")};
    const struct ht_chat_message assistant_first[] = {A("A"), U("Q")};
    const struct ht_chat_message two_users[] = {U("Q1"), U("Q2")};
    const struct ht_chat_message only_system[] = {S("S")};
    const struct ht_chat_message odd[] = {{.role = (enum ht_role)7, .text = "x", .len_bytes = 1}};
    const struct ht_chat_message no_text[] = {{.role = HT_ROLE_USER, .text = NULL, .len_bytes = 1}};
    refuse("vicuna1.1", two_systems, 3, true, "message 1 is a system message");
    refuse("gemma", late_system, 4, true, "message 2 is a system message");
    refuse("mistral-v7", late_system, 4, true, "only the first");
    refuse("gemma", assistant_first, 2, true, "gemma");
    refuse("llama2", two_users, 2, true, "llama2");
    refuse("koala", with_system, 4, true, "no place for a system");
    refuse("gemma", only_system, 1, true, "user message");
    refuse("chatml", closed, 2, true, "nothing to answer");
    refuse("chatml", NULL, 0, true, "no message");
    refuse("chatml", odd, 1, true, "role");
    refuse("chatml", no_text, 1, true, "text");
    expect("chatml", two_users, 2, true, // this one can express it
           "<|im_start|>user\nQ1<|im_end|>\n<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n");
    expect("llama3", assistant_first, 1, false,
           "<s><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>");
    struct ht_segment segments[2];
    struct ht_chat chat = named("chatml");
    size_t n;
    assert_int_equal(ht_chat_render(&chat, two_turns, 3, true, segments, 2, &n, NULL), HEARTH_LIMIT);
}

static void names_and_stops(void **state)
{
    (void)state;
    size_t n = 0;
    for (const char *const *name = ht_chat_names(); *name; name++, n++)
        assert_string_equal(*name, ht_chat_formats[n].name);
    assert_int_equal(n, ht_chat_n_formats);
    static const struct {
        const char *name, *stop;
    } cases[] = {{"vicuna0", "###"},       {"baize", "[|Human|]"}, {"baize-train", "[|Human|]"},
                 {"guanaco", "### Human"}, {"dolly", "### End"},   {"chatml", NULL}};
    for (size_t i = 0; i < N(cases); i++) {
        struct ht_chat chat = named(cases[i].name);
        if (cases[i].stop)
            assert_string_equal(ht_chat_stops(&chat)[0], cases[i].stop);
        else
            assert_null(ht_chat_stops(&chat)[0]);
    }
    for (size_t i = 0; i < ht_chat_n_formats; i++) { // room in ht_chat_max_segments for the longest turns
        struct ht_chat chat = named(ht_chat_formats[i].name);
        char text[MAX_TEXT];
        struct ht_chat_message m[] = {U("Q"), A("A"), U("Q")};
        m[0].input = m[2].input = "X";
        m[0].input_len_bytes = m[2].input_len_bytes = 1;
        render(&chat, m, 3, true, text, NULL);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_prompts),      cmocka_unit_test(exact_system),
        cmocka_unit_test(exact_input),        cmocka_unit_test(closed_turns),
        cmocka_unit_test(thoughts),           cmocka_unit_test(recognised),
        cmocka_unit_test(turns_and_trimming), cmocka_unit_test(not_recognised),
        cmocka_unit_test(orders_of_roles),    cmocka_unit_test(names_and_stops),
        cmocka_unit_test(late_systems),       cmocka_unit_test(late_systems_of_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
