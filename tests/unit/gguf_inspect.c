// SPDX-License-Identifier: Apache-2.0
// What inspection prints: JSON that a JSON library reads back, text that no terminal obeys.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "engine/base/utf8.h"
#include "engine/engine.h"
#include "tests/check/fault.h"
#include "tests/check/image.h"

static char folder[64];

static int make_folder(void **state)
{
    (void)state;
    check_folder_make(folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    check_folder_remove(folder);
    return 0;
}

static bool collect(void *user, const char *text, size_t len)
{
    image_bytes(user, text, len);
    return true;
}

static struct image inspected(struct image *image, bool json)
{
    struct image out = {0};
    struct hearth_error err = {0};
    check_file_write(check_path(folder, "i.gguf"), image->data, image->len);
    assert_int_equal(hearth_gguf_inspect(check_path(folder, "i.gguf"), json, collect, &out, &err), HEARTH_OK);
    image_u8(&out, 0);
    return out;
}

static json_t *value_of(json_t *root, const char *key)
{
    json_t *entry = json_object_get(json_object_get(root, "keys"), key);
    assert_non_null(entry);
    return json_object_get(entry, "value");
}

static void json_reads_back(void **state)
{
    (void)state;
    struct image image = {0};
    image_valid(&image);
    struct image out = inspected(&image, true);
    json_error_t error;
    json_t *root = json_loads((const char *)out.data, JSON_REJECT_DUPLICATES, &error);
    assert_non_null(root);
    assert_int_equal(json_integer_value(json_object_get(root, "version")), 3);
    assert_int_equal(json_integer_value(json_object_get(root, "file_bytes")), image.len);
    assert_int_equal(json_integer_value(json_object_get(root, "n_params")), 16 + 96 + 256);
    assert_int_equal(json_integer_value(json_object_get(root, "n_tensors")), 3);
    assert_int_equal(json_integer_value(json_object_get(root, "tensor_bytes")), 64 + 102 + 144);
    assert_int_equal(json_object_size(json_object_get(root, "keys")), 17);
    assert_string_equal(json_string_value(value_of(root, "general.architecture")), "llama");
    assert_int_equal(json_integer_value(value_of(root, "k.i8")), -5);
    assert_int_equal(json_integer_value(value_of(root, "k.i64")), INT64_MIN);
    assert_true(json_is_true(value_of(root, "k.true")));
    assert_true(json_real_value(value_of(root, "k.f64")) == 2.5);
    json_t *strings = value_of(root, "a.strings");
    assert_int_equal(json_array_size(strings), 3);
    assert_string_equal(json_string_value(json_array_get(strings, 2)), "\xEF\xBF\xBDtwo"); // was not UTF-8
    assert_int_equal(json_array_size(value_of(root, "a.empty")), 0);
    json_t *tensor = json_array_get(json_object_get(root, "tensors"), 1);
    assert_string_equal(json_string_value(json_object_get(tensor, "name")), "t.q8_0");
    assert_string_equal(json_string_value(json_object_get(tensor, "type")), "Q8_0");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(tensor, "shape"), 1)), 3);
    json_t *types = json_object_get(json_object_get(root, "types"), "Q4_K");
    assert_int_equal(json_integer_value(json_object_get(types, "bytes")), 144);
    json_decref(root);
    image_free(&out);
    image_free(&image);
}

// Names and strings of quotes, control characters and broken UTF-8; long arrays; a type that we do not
// compute with.
static void hostile_names(struct image *image)
{
    image_head(image, 3, 1, 5);
    image_key_str(image, "quote\"back\\slash",
                  "line\nbreak \x1B[31mred\x7F \xC2\x9B"
                  "2J");
    image_key_str(image, "esc\x1B]0;title\a", "\xFF\xFE");
    image_key(image, "long", 9), image_u32(image, 4), image_u64(image, 65);
    for (unsigned i = 0; i < 65; i++)
        image_u32(image, i);
    image_key(image, "short", 9), image_u32(image, 4), image_u64(image, 64);
    for (unsigned i = 0; i < 64; i++)
        image_u32(image, i);
    image_key(image, "nan", 6), image_u32(image, 0x7FC00000);
    image_tensor(image, "t\t\x1B[2J\"", 256, 0, 17, 0); // IQ2_XS
    image_pad(image, 32);
    for (unsigned i = 0; i < 74; i++)
        image_u8(image, 0);
}

static void escapes(void **state)
{
    (void)state;
    struct image image = {0};
    hostile_names(&image);
    for (int json = 0; json < 2; json++) {
        struct image out = inspected(&image, json);
        assert_true(ht_utf8_valid(out.data, out.len - 1));
        for (size_t i = 0; i + 1 < out.len; i++) {
            assert_true(out.data[i] == '\n' || (out.data[i] >= 0x20 && out.data[i] != 0x7F));
            assert_false(out.data[i] == 0xC2 && out.data[i + 1] < 0xA0);
        }
        if (json) {
            json_error_t error;
            json_t *root = json_loads((const char *)out.data, JSON_REJECT_DUPLICATES, &error);
            assert_non_null(root);
            assert_string_equal(json_string_value(value_of(root, "quote\"back\\slash")),
                                "line\nbreak \x1B[31mred\x7F \xC2\x9B"
                                "2J");
            assert_int_equal(json_integer_value(json_object_get(value_of(root, "long"), "count")), 65);
            assert_int_equal(json_array_size(json_object_get(value_of(root, "long"), "first")), 8);
            assert_int_equal(json_array_size(value_of(root, "short")), 64);
            assert_true(json_is_null(value_of(root, "nan")));
            json_decref(root);
        } else {
            assert_non_null(strstr((const char *)out.data, "IQ2_XS"));
            assert_non_null(strstr((const char *)out.data, "(65 values)"));
        }
        image_free(&out);
    }
    image_free(&image);
}

static bool stop_at_once(void *user, const char *text, size_t len)
{
    (void)text;
    (void)len;
    ++*(unsigned *)user;
    return false;
}

static void stops_and_fails(void **state)
{
    (void)state;
    struct image image = {0};
    struct hearth_error err = {0};
    unsigned calls = 0;
    image_valid(&image);
    check_file_write(check_path(folder, "i.gguf"), image.data, image.len);
    assert_int_equal(hearth_gguf_inspect(check_path(folder, "i.gguf"), true, stop_at_once, &calls, &err),
                     HEARTH_CANCELED);
    assert_int_equal(calls, 1);
    assert_int_equal(hearth_gguf_inspect(NULL, true, collect, NULL, &err), HEARTH_INVALID);
    assert_int_equal(hearth_gguf_inspect("x", true, NULL, NULL, &err), HEARTH_INVALID);
    assert_int_equal(hearth_gguf_inspect(check_path(folder, "none"), true, collect, NULL, &err),
                     HEARTH_NOT_FOUND);
    image_free(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_reads_back),
        cmocka_unit_test(escapes),
        cmocka_unit_test(stops_and_fails),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
