// SPDX-License-Identifier: Apache-2.0
// JSON schemas: which texts hold, byte by byte; what is refused, and with which words; schemas made to hurt.
#include "tests/unit/grammar_check.h"

#include <jansson.h>
#include <time.h>

#include "engine/base/mem.h"
#include "engine/text/grammar_match.h"
#include "tests/check/fault.h"

struct schema_case {
    const char *schema, *accepted[10], *refused[10];
};

static const struct schema_case texts[] = {
    {"{\"allOf\":[{\"type\":\"integer\",\"minimum\":2},{\"minimum\":5,\"maximum\":9},{\"maximum\":7}]}",
     {"5", "7"},
     {"4", "8"}},
    {"{\"properties\":{\"a\\n\":{},\"q\\\"\":{}},\"additionalProperties\":true}",
     {"{\"a\":1}", "{\"a\\n\":1,\"q\":2}"},
     {"{\"a\nb\":1}", "{\"q\"\":1}"}},
    {"", {"1", "{\"a\":[true,null,-1.5e3]}", "\"x\"", "[]", "{}"}, {"", "01", "[1,]", "{a:1}", " 1", "1 "}},
    {"{}", {"null", "[ 1, {\"a\": 2} ]", "{\n\"a\":\n1\n}"}, {"[  1]", "nul", "\"\t\"", "{\"a\":1,}"}},
    {"true", {"false"}, {"x"}},
    {"{\"type\":\"boolean\",\"title\":\"t\",\"description\":\"d\"}", {"true", "false"}, {"1", "null"}},
    {"{\"type\":[\"null\",\"boolean\"]}", {"null", "true"}, {"0"}},
    {"{\"type\":\"string\"}",
     {"\"\"", "\"é€😀\"", "\"\\n\\\"\\\\\\/\\u00e9\\uD83D\\uDE00\""},
     {"\"", "\"\\u0000\"", "\"\\ud800\"", "\"\\udc00\"", "\"\n\"", "\"\\x\"", "\"\\ud83d\\u0041\""}},
    {"{\"type\":\"string\",\"minLength\":1,\"maxLength\":2}",
     {"\"a\"", "\"é€\"", "\"\\uD83D\\uDE00a\""},
     {"\"\"", "\"abc\""}},
    {"{\"minLength\":3}", {"\"abcd\""}, {"\"ab\"", "1"}},
    {"{\"type\":\"string\",\"pattern\":\"^a[bc]+$\"}",
     {"\"ab\"", "\"acb\""},
     {"\"a\"", "\"xab\"", "\"abx\""}},
    {"{\"type\":\"string\",\"pattern\":\"a\\\\d|^b\"}",
     {"\"xa1y\"", "\"bz\"", "\"a0\""},
     {"\"xb\"", "\"a\""}},
    {"{\"type\":\"string\",\"pattern\":\"^.\\\\s\\\\w\\\\W\\\\D\\\\S$\"}",
     {"\"\\\" a-x!\""},
     {"\"a  -x!\"", "\"\\n a-x!\""}},
    {"{\"type\":\"string\",\"pattern\":\"^(?:x|y{2,3}?)*\\\\.[^\\\\n\\\\]a-]{0,2}\\\\u0041$\"}",
     {"\".A\"", "\"xyyyyx.bcA\""},
     {"\"y.A\"", "\".aA\"", "\".]A\""}},
    {"{\"type\":\"string\",\"pattern\":\"^\\\"\\\\t$\"}", {"\"\\\"\\t\""}, {"\"\"\t\"", "\"\\\"\""}},
    {"{\"type\":\"string\",\"format\":\"date\"}",
     {"\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\""},
     {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-04-31\"", "\"2024-13-01\"", "\"2024-1-1\""}},
    {"{\"type\":\"string\",\"format\":\"time\"}",
     {"\"23:59:59Z\"", "\"00:00:00.5+01:30\""},
     {"\"24:00:00Z\"", "\"12:00\"", "\"12:60:00Z\""}},
    {"{\"format\":\"date-time\"}", {"\"2024-05-06T07:08:09.123Z\""}, {"\"2024-05-06 07:08:09Z\""}},
    {"{\"format\":\"uuid\"}", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567\""}},
    {"{\"type\":\"integer\"}",
     {"0", "-12", "9999999999999999", "1000000000000000"},
     {"1.0", "01", "-0", "10000000000000000"}},
    {"{\"type\":\"integer\",\"minimum\":-7,\"maximum\":123}",
     {"-7", "-1", "0", "9", "10", "99", "100", "119", "123"},
     {"-8", "124", "200", "1000", "-10", "-0", "05"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":99,\"exclusiveMaximum\":1001}",
     {"100", "999", "1000"},
     {"99", "1001", "-100"}},
    {"{\"type\":\"integer\",\"minimum\":9223372036854775800}",
     {"9223372036854775807", "9223372036854775800"},
     {"9223372036854775808", "9223372036854775799"}},
    {"{\"type\":\"integer\",\"maximum\":-9223372036854775807}",
     {"-9223372036854775807", "-9223372036854775808"},
     {"-9223372036854775809", "-9223372036854775806"}},
    {"{\"type\":\"integer\",\"minimum\":1.5,\"exclusiveMaximum\":3.0}", {"2"}, {"1", "3"}},
    {"{\"type\":\"integer\",\"minimum\":5}", {"5", "10", "9999999999999999"}, {"4", "-5"}},
    {"{\"type\":\"number\"}",
     {"0", "-1.25", "1e5", "3E-07", "1.5e+10"},
     {"1.", ".5", "1e", "1e100", "+1", "00"}},
    {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}",
     {"0", "1", "0.5", "0.0", "1.0", "0.999"},
     {"1.1", "-0.1", "2", "1.01"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":1}",
     {"0.1", "0.01"},
     {"0", "1", "0.0", "1.0"}},
    {"{\"type\":\"number\",\"minimum\":-1.25,\"maximum\":2.5}",
     {"-1.25", "-1.2", "-0.5", "2.5", "2.49", "1.999"},
     {"-1.26", "2.51", "-1.3", "-2", "3"}},
    {"{\"type\":\"number\",\"minimum\":0.1,\"exclusiveMaximum\":0.13}",
     {"0.1", "0.10", "0.12", "0.1299"},
     {"0.13", "0.09", "0", "0.2"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":748.203,\"exclusiveMaximum\":748.204}",
     {"748.2035", "748.20301"},
     {"748.204", "748.203", "748.2030"}},
    {"{\"type\":\"number\",\"exclusiveMinimum\":1.5}",
     {"1.51", "2", "15.5", "1.6"},
     {"1.5", "1.50", "1", "0"}},
    {"{\"type\":\"number\",\"maximum\":-0.00001}", {"-0.00001", "-1", "-0.1"}, {"0", "-0.000001", "1"}},
    {"{\"enum\":[\"a\",1,null,{\"x\":[1.5]},\"q\\\"\"]}",
     {"\"a\"", "1", "null", "{\"x\":[1.5]}", "\"q\\\"\""},
     {"\"b\"", "2"}},
    {"{\"type\":\"integer\",\"enum\":[\"a\",1,2.5]}", {"1"}, {"\"a\"", "2.5"}},
    {"{\"const\":0.1}", {"0.1"}, {"0.2"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"}},"
     "\"required\":[\"a\"]}",
     {"{\"a\":1}", "{\"a\":1,\"b\":null}", "{ \"a\": 1, \"b\": null }"},
     {"{}", "{\"b\":null}", "{\"b\":null,\"a\":1}", "{\"a\":1,}", "{\"a\":1,\"c\":2}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2},\"c\":{\"const\":3}}}",
     {"{}", "{ }", "{\"a\":1}", "{\"b\":2}", "{\"c\":3}", "{\"a\":1,\"c\":3}", "{\"a\":1,\"b\":2,\"c\":3}"},
     {"{,}", "{\"a\":1 \"b\":2}", "{\"c\":3,\"a\":1}", "{  }"}},
    {"{\"properties\":{\"a\":{\"const\":1},\"b\":{\"const\":2}},\"required\":[\"b\"]}",
     {"{\"b\":2}", "{\"a\":1,\"b\":2}"},
     {"{}", "{\"a\":1}"}},
    {"{\"type\":\"object\"}", {"{}", "{\"a\":{\"b\":[]}}"}, {"[]"}},
    {"{\"type\":\"object\",\"additionalProperties\":false}", {"{}", "{\n}"}, {"{\"a\":1}"}},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{}", "{\"a\":1,\"b\":2}"},
     {"{\"a\":\"x\"}"}},
    {"{\"properties\":{\"ab\":{\"const\":1},\"é\":{\"const\":2}},\"additionalProperties\":{\"type\":"
     "\"null\"}}",
     {"{}", "{\"ab\":1,\"a\":null}", "{\"abc\":null,\"\":null}", "{\"ab\":1,\"é\":2,\"x\":null}",
      "{\"ê\":null}"},
     {"{\"ab\":null}", "{\"x\":null,\"ab\":1}", "{\"é\":null}", "{\"\\u0061b\":null}"}},
    {"{\"required\":[\"z\"],\"properties\":{\"a\":{\"const\":1}}}",
     {"{\"z\":[]}", "{\"a\":1,\"z\":2}"},
     {"{\"a\":1}"}},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}",
     {"[]", "[1]", "[1, 2]", "[ 1\n]"},
     {"[\"a\"]", "[1,]", "[  ]"}},
    {"{\"items\":{\"const\":1},\"minItems\":2,\"maxItems\":3}",
     {"[1,1]", "[1,1,1]"},
     {"[]", "[1]", "[1,1,1,1]"}},
    {"{\"items\":{\"const\":1},\"maxItems\":0}", {"[]"}, {"[1]", "[[]]"}},
    {"{\"prefixItems\":[{\"const\":1},{\"const\":2}]}", {"[]", "[1]", "[1,2]"}, {"[2]", "[1,2,3]"}},
    {"{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"items\":{\"const\":3},\"minItems\":1,\"maxItems\":"
     "4}",
     {"[1]", "[1,2]", "[1,2,3,3]"},
     {"[]", "[1,3]", "[1,2,3,3,3]"}},
    {"{\"items\":[{\"const\":1}],\"additionalItems\":{\"const\":2}}", {"[1,2,2]"}, {"[2]"}},
    {"{\"anyOf\":[{\"const\":1},{\"type\":\"string\"}]}", {"1", "\"x\""}, {"2"}},
    {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", {"1", "\"x\""}, {"null"}},
    {"{\"oneOf\":[{\"properties\":{\"t\":{\"const\":\"a\"}},\"required\":[\"t\"]},"
     "{\"properties\":{\"t\":{\"enum\":[\"b\",\"c\"]},\"n\":{\"const\":1}},\"required\":[\"t\"]}]}",
     {"{\"t\":\"a\"}", "{\"t\":\"c\",\"n\":1}"},
     {"{\"t\":\"a\",\"n\":1}"}},
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1}},\"anyOf\":[{\"required\":[\"a\"]},{"
     "\"properties\":{\"b\":{\"const\":2}}}]}",
     {"{\"a\":1}", "{}", "{\"b\":2}"},
     {"{\"c\":2}"}},
    {"{\"allOf\":[{\"properties\":{\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"]},"
     "{\"properties\":{\"a\":{\"minimum\":5},\"b\":{\"const\":1}},\"required\":[\"b\"]}]}",
     {"{\"a\":5,\"b\":1}"},
     {"{\"a\":4,\"b\":1}", "{\"a\":5}"}},
    {"{\"allOf\":[{\"type\":[\"integer\",\"string\"]},{\"type\":[\"number\",\"null\"]},{\"maximum\":3}],"
     "\"minimum\":2}",
     {"2", "3"},
     {"1", "4", "\"a\""}},
    {"{\"$ref\":\"#/$defs/"
     "n\",\"$defs\":{\"n\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
     "\"next\":{\"anyOf\":[{\"$ref\":\"#/$defs/"
     "n\"},{\"type\":\"null\"}]}},\"required\":[\"v\",\"next\"]}}}",
     {"{\"v\":1,\"next\":null}", "{\"v\":1,\"next\":{\"v\":2,\"next\":null}}"},
     {"{\"v\":1}", "{\"v\":1,\"next\":{}}"}},
    {"{\"properties\":{\"c\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}}}",
     {"{}", "{\"c\":[{},{\"c\":[]}]}"},
     {"{\"c\":[1]}"}},
    {"{\"$ref\":\"#/definitions/a~1b~0c\",\"definitions\":{\"a/"
     "b~c\":{\"const\":7}},\"type\":\"integer\"}",
     {"7"},
     {"8"}},
    {"{\"enum\":[1,2,3],\"const\":2}", {"2"}, {"1", "3"}},
    {"{\"required\":[\"z\"],\"additionalProperties\":{\"type\":\"integer\"}}",
     {"{\"z\":1}"},
     {"{\"z\":\"a\"}", "{}"}},
    {"{\"allOf\":[{\"additionalProperties\":false},{\"additionalProperties\":true}]}", {"{}"}, {"{\"a\":1}"}},
    {"{\"allOf\":[{\"additionalProperties\":true},{\"additionalProperties\":false}]}", {"{}"}, {"{\"a\":1}"}},
    {"{\"allOf\":[{\"additionalProperties\":{\"const\":1}},{\"additionalProperties\":true}]}",
     {"{\"a\":1}"},
     {"{\"a\":2}"}},
    {"{\"allOf\":[{\"additionalProperties\":true},{\"additionalProperties\":{\"const\":1}}]}",
     {"{\"a\":1}"},
     {"{\"a\":2}"}},
    {"{\"allOf\":[{\"title\":\"a\",\"type\":\"null\"},{\"title\":\"b\"}]}", {"null"}, {"1"}},
    {"{\"pattern\":\"^[^a]$\"}",
     {"\"b\"", "\"\\\\\""},
     {"\"\\\"", "\"a\""}},
    {"{\"pattern\":\"^[\\u0010-\\u001f]$\"}",
     {"\"\\u001a\"", "\"\\u0010\""},
     {"\"\\u000a\"", "\"\\u0005\""}},
    {"{\"pattern\":\"^a$|^b$\"}",
     {"\"a\"", "\"b\""},
     {"\"ab\"", "\"xb\"", "\"ax\""}},
    {"{\"pattern\":\"^.$\"}",
     {"\"a\""},
     {"\"\xE2\x80\xA8\"", "\"\""}},
    {"{\"type\":\"string\",\"title\":\"halves\"}",
     {"\"\\ud83d\\ude00\""},
     {"\"\\ud83d\\uda00\"", "\"\\ud83d\""}},
    {"{\"type\":\"integer\",\"minimum\":5,\"exclusiveMinimum\":2,\"maximum\":7,\"exclusiveMaximum\":9}",
     {"5", "7"},
     {"3", "4", "8"}},
    {"{\"type\":\"integer\",\"minimum\":2,\"exclusiveMinimum\":5,\"maximum\":9,\"exclusiveMaximum\":7}",
     {"6"},
     {"5", "7", "2"}},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":1.5,\"exclusiveMaximum\":3.5}",
     {"2", "3"},
     {"1", "4"}},
    {"{\"type\":\"number\",\"minimum\":5,\"exclusiveMinimum\":5,\"maximum\":7,\"exclusiveMaximum\":7}",
     {"5.5", "6"},
     {"5", "7", "5.0"}},
    {"{\"type\":\"number\",\"minimum\":-1,\"maximum\":1}",
     {"-1", "0", "-0.5"},
     {"-0", "-1.5"}},
    {"{\"maxLength\":70000}", {"\"a\""}, {"1"}},
    {"{\"items\":{\"const\":1},\"minItems\":65536,\"maxItems\":65536}", {NULL}, {"[]", "[1]"}},
    {"{\"prefixItems\":[{\"const\":1},{\"const\":2}],\"maxItems\":1}", {"[]", "[1]"}, {"[1,2]"}},
    {"{\"type\":\"integer\",\"minimum\":2,\"anyOf\":[{\"maximum\":5},{\"minimum\":10}]}",
     {"2", "5", "10"},
     {"1", "6", "4.5"}},
    {"{\"allOf\":[{\"type\":\"number\"},{\"type\":\"integer\"}]}", {"1"}, {"1.5"}},
    {"{\"$ref\":\"#/$defs/n\",\"minimum\":5,\"$defs\":{\"n\":{\"type\":\"integer\"}}}", {"5"}, {"4", "5.5"}},
    {"{\"prefixItems\":[{\"const\":1}],\"minItems\":2}", {"[1,\"x\"]", "[1,2,3]"}, {"[1]", "[]"}},
};

static void texts_of_schemas(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (int kind = 0; kind < 2; kind++)
            for (int k = 0; k < 10 && (kind ? texts[i].refused[k] : texts[i].accepted[k]); k++) {
                const char *text = kind ? texts[i].refused[k] : texts[i].accepted[k];
                struct hearth_error err;
                struct ht_matcher *m = grammar_open(texts[i].schema, strlen(texts[i].schema), true, &err);
                if (!m)
                    fail_msg("%s: %s", texts[i].schema, err.text);
                bool complete;
                size_t n = grammar_read(m, text, strlen(text), &complete);
                if ((n == strlen(text) && complete) == kind)
                    fail_msg("%s\n%s: read %zu bytes, %s", texts[i].schema, text, n,
                             complete ? "complete" : "not complete");
                ht_matcher_destroy(&m);
            }
}

// However an answer goes on, it can go on to an end.
static void answers_never_run_into_a_dead_end(void **state)
{
    (void)state;
    uint32_t random = 7, mask[TINY_WORDS];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        for (int run = 0; run < 12; run++) {
            struct hearth_error err;
            struct ht_matcher *m = grammar_open(texts[i].schema, strlen(texts[i].schema), true, &err);
            for (int n = 0; n < 60; n++) {
                enum ht_allowed allowed;
                assert_int_equal(ht_matcher_mask(m, NULL, 0, mask, &allowed, &err), HEARTH_OK);
                if (allowed == HT_ALLOWED_NOTHING)
                    fail_msg("%s: a dead end after %d tokens", texts[i].schema, n);
                if (allowed == HT_ALLOWED_END)
                    break;
                random = random * 1664525 + 1013904223;
                int32_t id = (int32_t)((random >> 8) % TINY_N_VOCAB);
                while (!has(mask, id) || ht_tokenizer_is_end(tiny_tokenizer, id))
                    id = (id + 1) % TINY_N_VOCAB;
                assert_true(ht_matcher_take(m, id));
            }
            ht_matcher_destroy(&m);
        }
}

static const struct {
    const char *schema;
    enum hearth_status status;
    const char *words;
} refusals[] = {
    {"{\"type\":\"string\"", HEARTH_INVALID, "line 1, column 16: this is no valid JSON"},
    {"{\"type\":\"integer\",\n\"type\":\"string\"}", HEARTH_INVALID, "line 2"},
    {"[1]", HEARTH_INVALID, "neither an object nor true"},
    {"false", HEARTH_INVALID, "never comes to an end"},
    {"{\"type\":\"float\"}", HEARTH_INVALID, "unknown `type`"},
    {"{\"type\":[]}", HEARTH_INVALID, "`type` lists none"},
    {"{\"not\":{}}", HEARTH_UNSUPPORTED, "`not`"},
    {"{\"properties\":{\"a\":{},\"secret\":{\"items\":{\"multipleOf\":3}}}}", HEARTH_UNSUPPORTED,
     "at #/properties[1]/items: keyword `multipleOf` is not supported"},
    {"{\"if\":{},\"then\":{}}", HEARTH_UNSUPPORTED, "`if`"},
    {"{\"patternProperties\":{}}", HEARTH_UNSUPPORTED, "`patternProperties`"},
    {"{\"mininum\":3}", HEARTH_UNSUPPORTED, "unknown keyword `mininum`"},
    {"{\"a secret sentence\":3}", HEARTH_UNSUPPORTED, "an unknown keyword"},
    {"{\"uniqueItems\":true,\"type\":\"array\"}", HEARTH_UNSUPPORTED, "`uniqueItems`"},
    {"{\"format\":\"email\"}", HEARTH_UNSUPPORTED, "format \"email\""},
    {"{\"format\":\"my own\"}", HEARTH_UNSUPPORTED, "this `format`"},
    {"{\"pattern\":\"(?=a)\"}", HEARTH_UNSUPPORTED, "looking around"},
    {"{\"pattern\":\"(a)\\\\1\"}", HEARTH_UNSUPPORTED, "this escape"},
    {"{\"pattern\":\"a\\\\b\"}", HEARTH_UNSUPPORTED, "this escape"},
    {"{\"pattern\":\"(^a)\"}", HEARTH_UNSUPPORTED, "at the ends only"},
    {"{\"pattern\":\"(a\"}", HEARTH_INVALID, "no `)`"},
    {"{\"pattern\":\"a)\"}", HEARTH_INVALID, "without its"},
    {"{\"pattern\":\"[b-a]\"}", HEARTH_INVALID, "backwards"},
    {"{\"pattern\":\"*\"}", HEARTH_INVALID, "cannot stand here"},
    {"{\"pattern\":\"a\",\"maxLength\":3}", HEARTH_UNSUPPORTED, "only one of"},
    {"{\"minLength\":3,\"maxLength\":2}", HEARTH_INVALID, "below"},
    {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", HEARTH_INVALID, "no integer"},
    {"{\"type\":\"number\",\"minimum\":3,\"exclusiveMaximum\":3}", HEARTH_INVALID, "no number"},
    {"{\"type\":\"number\",\"minimum\":1e300}", HEARTH_UNSUPPORTED, "bounds"},
    {"{\"type\":\"integer\",\"minimum\":\"3\"}", HEARTH_INVALID, "bound"},
    {"{\"enum\":[]}", HEARTH_INVALID, "no value is allowed"},
    {"{\"enum\":[1],\"minimum\":3}", HEARTH_UNSUPPORTED, "beside other"},
    {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", HEARTH_UNSUPPORTED,
     "`oneOf` whose schemas 0 and 1"},
    {"{\"anyOf\":[]}", HEARTH_INVALID, "`anyOf`"},
    {"{\"allOf\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", HEARTH_INVALID, "no value holds"},
    {"{\"allOf\":[{\"pattern\":\"a\"},{\"pattern\":\"b\"}]}", HEARTH_UNSUPPORTED, "two different values"},
    {"{\"$ref\":\"#/nowhere\"}", HEARTH_INVALID, "points to nothing"},
    {"{\"$ref\":\"http://example.org/x\"}", HEARTH_UNSUPPORTED, "only a `$ref`"},
    {"{\"$ref\":\"#n\",\"$defs\":{}}", HEARTH_UNSUPPORTED, "only a `$ref`"},
    {"{\"$ref\":\"#\"}", HEARTH_INVALID, "rule # never comes to an end"},
    {"{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b\"},\"b\":{\"$ref\":\"#/$defs/a\"}},\"$ref\":\"#/$defs/"
     "a\",\"type\":\"null\"}",
     HEARTH_LIMIT, "lead on"},
    {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", HEARTH_INVALID,
     "never comes to an end"},
    {"{\"required\":[\"a\"],\"additionalProperties\":false}", HEARTH_INVALID, "not allowed"},
    {"{\"minItems\":3,\"items\":false}", HEARTH_INVALID, "more items"},
    {"{\"minItems\":-1}", HEARTH_INVALID, "`minItems` is no count"},
    {"{\"minItems\":1e30}", HEARTH_LIMIT, "`minItems`"},
    {"{\"oneOf\":[{\"const\":1},{\"const\":1.0}]}", HEARTH_UNSUPPORTED,
     "`oneOf` whose schemas 0 and 1"},
    {"{\"oneOf\":[{\"const\":[1]},{\"const\":[1.0]}]}", HEARTH_UNSUPPORTED,
     "`oneOf` whose schemas 0 and 1"},
    {"{\"oneOf\":[{\"required\":[\"t\"],\"properties\":{\"t\":{\"const\":1}}},"
     "{\"properties\":{\"u\":{\"const\":1}}}]}",
     HEARTH_UNSUPPORTED, "`oneOf` whose schemas 0 and 1"},
    {"{\"oneOf\":[{\"type\":[\"object\",\"null\"],\"required\":[\"t\"],\"properties\":{\"t\":{\"const\":1}}},"
     "{\"type\":[\"object\",\"null\"],\"required\":[\"t\"],\"properties\":{\"t\":{\"const\":2}}}]}",
     HEARTH_UNSUPPORTED, "`oneOf` whose schemas 0 and 1"},
    {"{\"$defs\":{\"n\":{\"required\":[\"x\"],\"properties\":{\"x\":{\"$ref\":\"#/$defs/n\"}}}},"
     "\"oneOf\":[{\"$ref\":\"#/$defs/n\"},{\"$ref\":\"#/$defs/n\"}]}",
     HEARTH_UNSUPPORTED, "`oneOf` whose schemas 0 and 1"},
    {"{\"allOf\":[{\"properties\":{\"a\":{}},\"additionalProperties\":false},{\"properties\":{\"b\":{}}}]}",
     HEARTH_UNSUPPORTED, "properties of another schema"},
    {"{\"allOf\":[{\"properties\":{\"b\":{}}},{\"properties\":{\"a\":{}},\"additionalProperties\":false}]}",
     HEARTH_UNSUPPORTED, "properties of another schema"},
    {"{\"pattern\":\"\\\\01\"}", HEARTH_UNSUPPORTED, "this escape"},
    {"{\"pattern\":\"[a-\\\\d]\"}", HEARTH_INVALID, "backwards"},
    {"{\"pattern\":\"a{3,2}\"}", HEARTH_INVALID, "malformed"},
    {"{\"pattern\":\"\\\\ud800\"}", HEARTH_UNSUPPORTED, "half of a character"},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":9223372036854775807}", HEARTH_INVALID, "no integer"},
    {"{\"type\":\"integer\",\"minimum\":1e16}", HEARTH_UNSUPPORTED, "9e15"},
    {"{\"type\":\"number\",\"minimum\":1e-7}", HEARTH_UNSUPPORTED, "1e-6"},
    {"{\"minLength\":70000}", HEARTH_LIMIT, "`minLength`"},
    {"{\"minItems\":65537}", HEARTH_LIMIT, "`minItems`"},
    {"{\"minItems\":1.5}", HEARTH_INVALID, "`minItems` is no count"},
};

static void schemas_that_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct hearth_error err = {.text = ""};
        struct ht_matcher *m = grammar_open(refusals[i].schema, strlen(refusals[i].schema), true, &err);
        if (m || err.code != refusals[i].status || !strstr(err.text, refusals[i].words) ||
            strstr(err.text, "secret"))
            fail_msg("%s: %d %s", refusals[i].schema, err.code, err.text);
    }
}

static bool accepts(struct ht_matcher *m, const char *text)
{
    uint32_t begin = m->current;
    bool complete;
    bool all = grammar_read(m, text, strlen(text), &complete) == strlen(text);
    m->current = begin;
    return all && complete;
}

static uint32_t random_below(uint32_t n)
{
    static uint32_t random = 5;
    random = random * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)(random >> 8) * n >> 24);
}

// Of numbers in steps of 1 / unit those that are within the bounds, and no others.
static void check_bounds(const char *type, int unit, int low, int high, bool low_exclusive, bool high_exclusive)
{
    char schema[200], text[32];
    struct hearth_error err;
    snprintf(schema, sizeof schema, "{\"type\":\"%s\",\"%s\":%.10g,\"%s\":%.10g}", type,
             low_exclusive ? "exclusiveMinimum" : "minimum", (double)low / unit,
             high_exclusive ? "exclusiveMaximum" : "maximum", (double)high / unit);
    struct ht_matcher *m = grammar_open(schema, strlen(schema), true, &err);
    if (!m)
        fail_msg("%s: %s", schema, err.text);
    for (int i = low - 130; i <= high + 130; i++) {
        bool in = i >= low + low_exclusive && i <= high - high_exclusive;
        snprintf(text, sizeof text, "%.10g", (double)i / unit);
        if (accepts(m, text) != in)
            fail_msg("%s: %s is %s", schema, text, in ? "refused" : "accepted");
        if (unit > 1 && i) {
            snprintf(text, sizeof text, "%.3f", (double)i / unit); // with zeros at its end
            if (accepts(m, text) != in)
                fail_msg("%s: %s is %s", schema, text, in ? "refused" : "accepted");
        }
    }
    ht_matcher_destroy(&m);
}

static void bounds_of_numbers(void **state)
{
    (void)state;
    for (int i = 0; i < 120; i++) {
        int low = (int)random_below(2400) - 1200, high = low + 2 + (int)random_below(i % 2 ? 40 : 1400);
        check_bounds("integer", 1, low, high, i & 2, i & 4);
        check_bounds("number", i & 8 ? 1000 : 10, low, high, i & 2, i & 4);
        check_bounds("number", 100, low, high, i & 2, i & 4);
    }
    check_bounds("integer", 1, 15, 87, false, false);
    check_bounds("integer", 1, -987, -125, false, false);
    check_bounds("number", 1000, -1, 1, true, true);
    check_bounds("number", 1000, 0, 2, true, true);
    check_bounds("number", 1000, -2, 0, true, true);
}

static char *made[64];
static unsigned n_made;

static char *nested(const char *open, unsigned n, const char *middle, const char *close)
{
    size_t a = strlen(open), m = strlen(middle), z = strlen(close);
    char *all = malloc(n * (a + z) + m + 1), *at = all;
    assert_true(n_made < 64);
    made[n_made++] = all;
    for (unsigned i = 0; i < n; i++, at += a)
        memcpy(at, open, a);
    memcpy(at, middle, m);
    at += m;
    for (unsigned i = 0; i < n; i++, at += z)
        memcpy(at, close, z);
    *at = 0;
    return all;
}

static void hostile_schemas_are_bounded(void **state)
{
    (void)state;
    char *cases[] = {
        nested("{\"items\":", 20000, "{}", "}"),
        nested("[", 30000, "", "]"),
        nested("{\"allOf\":[{\"$ref\":\"#\"},{\"$ref\":\"#\"}]", 1, "", "}"),
        nested("{\"items\":{\"maxItems\":65536,\"items\":", 20, "{\"maxLength\":65536}",
               "},\"maxItems\":65536}"),
        nested("{\"anyOf\":[{\"minLength\":1},", 30, "{}", "]}"),
        nested("{\"oneOf\":[", 1, "{},{},{},{},{},{},{},{},{},{},{},{}", "]}"),
        nested("{\"enum\":[", 1, nested("\"aaaaaaaaaa\",", 15000, "1", ""), "]}"),
        nested("{\"required\":[", 1, nested("\"a\",", 60000, "\"b\"", ""), "]}"),
        nested("{\"pattern\":\"", 1, nested("(a|", 60, "b", ")*"), "\"}"),
        nested("{\"pattern\":\"", 1, nested("(", 5000, "b", ")"), "\"}"),
        nested("{\"type\":\"string\",\"pattern\":\"^(a?){60000}(a?){60000}a{60000}$", 1, "", "\"}"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hearth_error err = {.text = ""};
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        struct ht_matcher *m = grammar_open(cases[i], strlen(cases[i]), true, &err);
        if (m) {
            uint32_t mask[TINY_WORDS];
            enum ht_allowed allowed;
            if (ht_matcher_mask(m, NULL, 0, mask, &allowed, &err) == HEARTH_OK)
                assert_int_not_equal(allowed, HT_ALLOWED_NOTHING);
        } else {
            assert_true(err.code == HEARTH_LIMIT || err.code == HEARTH_UNSUPPORTED ||
                        err.code == HEARTH_INVALID);
        }
        ht_matcher_destroy(&m);
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (getenv("HEARTH_TEST_VERBOSE"))
            fprintf(stderr, "hostile %zu: %.3f s %s\n", i,
                    (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec), err.text);
        assert_true(b.tv_sec - a.tv_sec < 20);
    }
    while (n_made)
        free(made[--n_made]);
}

// {"properties":{"p0":{"const":1},"p1":{"const":1}, …} and `more`, with n of them.
static char *with_properties(unsigned n, const char *more)
{
    size_t capacity = 20 * n + 64, at;
    char *all = malloc(capacity);
    made[n_made++] = all;
    at = (size_t)snprintf(all, capacity, "{\"properties\":{");
    for (unsigned i = 0; i < n; i++)
        at += (size_t)snprintf(all + at, capacity - at, "%s\"p%u\":{\"const\":1}", i ? "," : "", i);
    snprintf(all + at, capacity - at, "}%s}", more);
    return all;
}

// What is allowed up to a limit is refused beyond it; a place that is too long to be told is cut.
static void limits_are_where_they_are_said(void **state)
{
    (void)state;
    const struct {
        char *schema;
        const char *words; // NULL: allowed
    } cases[] = {
        {nested("{\"prefixItems\":[", 1, nested("{},", 63, "{}", ""), "]}"), NULL},
        {nested("{\"prefixItems\":[", 1, nested("{},", 64, "{}", ""), "]}"), "more than 64 entries"},
        {nested("{\"oneOf\":[", 1, nested("{},", 256, "{}", ""), "]}"), "more than 256 schemas"},
        {with_properties(2048, ""), NULL},
        {with_properties(2049, ""), "more than 2048 properties"},
        {nested("{\"pattern\":\"^[", 1, nested("b", 128, "", ""), "]\"}"), NULL},
        {nested("{\"pattern\":\"^[", 1, nested("b", 129, "", ""), "]\"}"), "too many parts"},
        {nested("{\"pattern\":\"^[", 1, nested("\\\\x01-\\\\uffff", 128, "", ""), "]\"}"), NULL},
        {nested("{\"pattern\":\"", 1, nested("(", 64, "b", ")"), "\"}"), NULL},
        {nested("{\"pattern\":\"", 1, nested("(", 65, "b", ")"), "\"}"), "more than 64 deep"},
        {nested("{\"pattern\":\"", 1, nested("(b)", 100, "", ""), "\"}"), NULL},
        {with_properties(1024, ",\"additionalProperties\":true"), NULL},
        {with_properties(1025, ",\"additionalProperties\":true"), "more than 1024 properties"},
        {nested("{\"additionalProperties\":true,\"properties\":{\"", 1, nested("a", 128, "", ""), "\":{}}}"), NULL},
        {nested("{\"additionalProperties\":true,\"properties\":{\"", 1, nested("a", 129, "", ""), "\":{}}}"),
         "more than 128 bytes"},
        {nested("{\"type\":\"integer\",\"anyOf\":[", 1, nested("{\"minimum\":1},", 100, "{\"maximum\":1}", ""), "]}"),
         NULL}, // schemas put together one after the other are not nested
        {nested("{\"items\":", 63, "{\"const\":1}", "}"), NULL},
        {nested("{\"items\":", 64, "{\"const\":1}", "}"), "more than 64 deep"},
        {nested("{\"prefixItems\":[", 12, "{\"not\":{}}", "]}"),
         "at #/prefixItems[0]/prefixItems[0]/prefixItems[0]/prefixItems[0]/prefixItems[0]/prefixItems[0]: keyword"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct hearth_error err = {.text = ""};
        struct ht_matcher *m = grammar_open(cases[i].schema, strlen(cases[i].schema), true, &err);
        if (cases[i].words ? m || !strstr(err.text, cases[i].words) : !m)
            fail_msg("case %zu: %d %s", i, err.code, err.text);
        ht_matcher_destroy(&m);
    }
    while (n_made)
        free(made[--n_made]);
}

static void *json_alloc(size_t size_bytes)
{
    return ht_calloc(1, size_bytes);
}

static int setup(void **state)
{
    (void)state;
    json_set_alloc_funcs(json_alloc, ht_free); // so that its allocations are counted and fail, too
    grammar_setup();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    grammar_teardown();
    return 0;
}

// Every allocation fails once, jansson's too: a schema that lost a member of it would allow other answers.
static void every_allocation(void **state)
{
    (void)state;
    static const char *const schemas[] = {
        "{\"type\":\"object\",\"properties\":{\"a name of more than sixteen bytes\":{\"type\":\"integer\","
        "\"minimum\":1,\"maximum\":99}},\"required\":[\"a name of more than sixteen bytes\",\"b\"],"
        "\"additionalProperties\":{\"maxLength\":3,\"type\":\"string\"}}",
        "{\"allOf\":[{\"type\":[\"number\",\"null\",\"string\"],\"minLength\":1},{\"type\":[\"integer\",\"string\"],"
        "\"maximum\":7}]}",
        "{\"allOf\":[{\"enum\":[1,\"one\",\"two\",2,3,4,5,6,7,8]},{\"enum\":[\"two\",3,4,5,6,7,8,9,10,1]}]}",
        "{\"$ref\":\"#/$defs/x\",\"required\":[\"q\"],\"$defs\":{\"x\":{\"properties\":{\"p\":{\"minItems\":2},"
        "\"q\":{}},\"required\":[\"p\"],\"additionalProperties\":false}}}",
        " ",
    };
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++) {
        enum hearth_status status = HEARTH_NOMEM;
        unsigned long n, n_calls;
        for (n = 1; status != HEARTH_OK; n++) {
            struct ht_grammar *g;
            struct hearth_error err = {0};
            fault_memory_begin(n);
            status = ht_grammar_from_json_schema(&g, schemas[i], strlen(schemas[i]), &err);
            ht_grammar_destroy(&g);
            assert_int_equal(fault_memory_end(&n_calls), 0);
            if (status != (n <= n_calls ? HEARTH_NOMEM : HEARTH_OK))
                fail_msg("schema %zu, allocation %lu of %lu: %s", i, n, n_calls, hearth_status_text(status));
            assert_int_equal(err.code, status);
        }
        assert_true(n > 10);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_of_schemas), cmocka_unit_test(answers_never_run_into_a_dead_end),
        cmocka_unit_test(schemas_that_are_refused), cmocka_unit_test(hostile_schemas_are_bounded),
        cmocka_unit_test(limits_are_where_they_are_said), cmocka_unit_test(bounds_of_numbers),
        cmocka_unit_test(every_allocation)};
    return cmocka_run_group_tests_name("grammar_schema", tests, setup, teardown);
}
