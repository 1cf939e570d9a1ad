// SPDX-License-Identifier: Apache-2.0
// Numbers between bounds, as decimal digits. Without bounds: up to 16 digits, 16 behind the point, an exponent of two
// digits, so that every answer is a number that double and int64 hold. Owned by one thread.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/grammar_schema.h"

enum { MAX_DIGITS = 16, PRECISE_DIGITS = 15, PADDING = 3 }; // PADDING: zeros that change no value

ht_expr ht_schema_digits(struct ht_schema_reader *r, char from, char to, uint32_t min, uint32_t max)
{
    struct ht_char_range range = {(unsigned char)from, (unsigned char)to};
    return from > to ? ht_expr_nothing(&r->b)
                     : ht_expr_repeat(&r->b, ht_expr_chars(&r->b, &range, 1, false), min, max);
}

static ht_expr seq(struct ht_schema_reader *r, ht_expr a, ht_expr b)
{
    return ht_expr_seq(&r->b, a, b);
}

static ht_expr alt(struct ht_schema_reader *r, ht_expr a, ht_expr b)
{
    return ht_expr_alt(&r->b, a, b);
}

static ht_expr any_digits(struct ht_schema_reader *r, uint32_t n)
{
    return ht_schema_digits(r, '0', '9', n, n);
}

// One digit in [from, to], then n of any kind.
static ht_expr digit_then(struct ht_schema_reader *r, char from, char to, uint32_t n)
{
    return from > to ? ht_expr_nothing(&r->b) : seq(r, ht_schema_digits(r, from, to, 1, 1), any_digits(r, n));
}

// ---- whole numbers: n digits at least low, at most high (NULL: no bound)

static ht_expr fixed(struct ht_schema_reader *r, const char *low, const char *high, uint32_t n)
{
    if (low && strspn(low, "0") >= n)
        low = NULL;
    if (high && strspn(high, "9") >= n)
        high = NULL;
    if (!n || (!low && !high))
        return any_digits(r, n);
    char a = low ? *low : '0', z = high ? *high : '9';
    if (a == z)
        return seq(r, ht_schema_digits(r, a, a, 1, 1),
                   fixed(r, low ? low + 1 : NULL, high ? high + 1 : NULL, n - 1));
    ht_expr all = digit_then(r, (char)(a + (low != NULL)), (char)(z - (high != NULL)), n - 1);
    if (low)
        all = alt(r, all, seq(r, ht_schema_digits(r, a, a, 1, 1), fixed(r, low + 1, NULL, n - 1)));
    if (high)
        all = alt(r, all, seq(r, ht_schema_digits(r, z, z, 1, 1), fixed(r, NULL, high + 1, n - 1)));
    return all;
}

// [low, high] without leading zeros.
static ht_expr whole(struct ht_schema_reader *r, uint64_t low, uint64_t high)
{
    ht_expr all = ht_expr_nothing(&r->b);
    if (low > high)
        return all;
    char from[24], to[24];
    if (low == 0) {
        all = ht_expr_text(&r->b, "0");
        low = 1;
    }
    uint64_t least = 1;
    for (uint32_t n = 1; n <= 20 && low <= high; n++) {
        uint64_t most = n < 20 ? least * 10 - 1 : UINT64_MAX, end = high < most ? high : most;
        if (low <= end) {
            snprintf(from, sizeof from, "%llu", (unsigned long long)low);
            snprintf(to, sizeof to, "%llu", (unsigned long long)end);
            if (low == least && end == most) // [1-9] and n - 1 digits
                all = alt(r, all, digit_then(r, '1', '9', n - 1));
            else
                all = alt(r, all, fixed(r, from, to, n));
            if (end == UINT64_MAX)
                break;
            low = end + 1;
        }
        least *= 10;
    }
    return all;
}

// [low, high] with a sign.
static ht_expr between(struct ht_schema_reader *r, int64_t low, int64_t high)
{
    ht_expr all = ht_expr_nothing(&r->b);
    if (high >= 0)
        all = whole(r, low > 0 ? (uint64_t)low : 0, (uint64_t)high);
    if (low < 0) {
        uint64_t least = high < 0 ? (uint64_t) - (high + 1) + 1 : 1, most = (uint64_t) - (low + 1) + 1;
        all = alt(r, all, seq(r, ht_expr_text(&r->b, "-"), whole(r, least, most)));
    }
    return all;
}

static bool has_bounds(const json_t *schema)
{
    return json_object_get(schema, "minimum") || json_object_get(schema, "maximum") ||
           json_object_get(schema, "exclusiveMinimum") || json_object_get(schema, "exclusiveMaximum");
}

static const int64_t FAR = 9999999999999999; // 16 digits

// The smallest (sign 1) or, negated, largest (sign -1) integer that a bound allows.
static bool integer_bound(struct ht_schema_reader *r, const json_t *bound, bool exclusive, int sign,
                          int64_t *out)
{
    if (json_is_integer(bound)) {
        json_int_t v = json_integer_value(bound);
        if (exclusive && v == (sign > 0 ? INT64_MAX : INT64_MIN))
            return ht_schema_fail(r, HEARTH_INVALID, "no integer is within the bounds"), false;
        *out = v + (exclusive ? sign : 0);
        return true;
    }
    double v = json_real_value(bound), edge = sign > 0 ? ceil(v) : floor(v);
    if (exclusive && edge == v)
        edge += sign;
    if (!json_is_real(bound) || !(fabs(edge) < 9e15))
        return ht_schema_fail(r, json_is_real(bound) ? HEARTH_UNSUPPORTED : HEARTH_INVALID,
                              "a bound is no number below 9e15"),
               false;
    *out = (int64_t)edge;
    return true;
}

ht_expr ht_schema_integer(struct ht_schema_reader *r, const json_t *schema)
{
    if (!has_bounds(schema)) {
        if (!r->integer) {
            r->integer = ht_rule_new(&r->b, "integer", 7);
            ht_rule_set(&r->b, r->integer, between(r, -FAR, FAR));
        }
        return ht_expr_rule(&r->b, r->integer);
    }
    static const struct {
        const char *keyword;
        bool exclusive;
        int sign;
    } bounds[] = {{"minimum", false, 1},
                  {"exclusiveMinimum", true, 1},
                  {"maximum", false, -1},
                  {"exclusiveMaximum", true, -1}};
    int64_t low = 0, high = 0, value;
    bool has_low = false, has_high = false;
    for (int i = 0; i < 4; i++) {
        const json_t *bound = json_object_get(schema, bounds[i].keyword);
        if (!bound)
            continue;
        if (!integer_bound(r, bound, bounds[i].exclusive, bounds[i].sign, &value))
            return 0;
        if (bounds[i].sign > 0) {
            low = has_low && low > value ? low : value;
            has_low = true;
        } else {
            high = has_high && high < value ? high : value;
            has_high = true;
        }
    }
    if (!has_low)
        low = high < -FAR ? INT64_MIN : -FAR;
    if (!has_high)
        high = low > FAR ? INT64_MAX : FAR;
    if (low > high)
        return ht_schema_fail(r, HEARTH_INVALID, "no integer is within the bounds");
    return between(r, low, high);
}

// ---- numbers with a fraction

struct bound { // of a magnitude: whole.fraction; %g leaves no zeros at its end
    uint64_t whole;
    char fraction[24];
    bool exclusive;
};

void ht_schema_print_real(double value, char *text, size_t capacity)
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, capacity, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            return;
    }
}

// |value| as digits. False: too large, or too fine.
static bool split(double value, bool exclusive, struct bound *out)
{
    char text[64];
    value = fabs(value);
    if (!(value < 1e15) || (value != 0 && value < 1e-6))
        return false;
    ht_schema_print_real(value, text, sizeof text);
    const char *power = strchr(text, 'e');
    if (power) { // "1.5e-05", from 1e-6 to 1e-4
        char digits[32];
        size_t n = 0;
        for (const char *c = text; c < power && n < sizeof digits - 1; c++)
            if (*c != '.')
                digits[n++] = *c;
        digits[n] = 0;
        snprintf(text, sizeof text, "0.%.*s%s", (int)-strtol(power + 1, NULL, 10) - 1, "00000000", digits);
    }
    const char *point = strchr(text, '.');
    out->whole = strtoull(text, NULL, 10);
    out->exclusive = exclusive;
    out->fraction[0] = 0;
    if (point)
        snprintf(out->fraction, sizeof out->fraction, "%.22s", point + 1);
    return true;
}

struct fraction { // what is asked of the digits behind the point; NULL = no bound
    const char *low, *high;
    bool low_exclusive, high_exclusive;
    uint32_t most; // digits, roughly
};

static bool over(const char *bound) // no digits of it are left
{
    return !bound || !*bound;
}

// May the digits end here, all so far being equal to the bounds'?
static bool may_end(const struct fraction *f)
{
    return (!f->low || (!*f->low && !f->low_exclusive)) && (!f->high || *f->high || !f->high_exclusive);
}

static const char *rest_of(const char *bound)
{
    return bound && *bound ? bound + 1 : bound;
}

// Digits from place i on.
static ht_expr fraction_digits(struct ht_schema_reader *r, struct fraction f, uint32_t i)
{
    uint32_t left = i < f.most ? f.most - i : 0;
    ht_expr end = i && may_end(&f) ? 0 : ht_expr_nothing(&r->b);
    bool ended = over(f.low) && over(f.high);
    if (!f.low && !f.high)
        return ht_schema_digits(r, '0', '9', !i, left > !i ? left : !i);
    if (ended && f.high) { // only zeros, where equal is allowed (a low bound that is over holds by equality)
        bool equal = !f.high_exclusive && !(f.low && f.low_exclusive);
        return equal ? ht_schema_digits(r, '0', '0', !i, PADDING) : end;
    }
    if (ended && !f.low_exclusive)
        return ht_schema_digits(r, '0', '9', !i, left > !i ? left : !i);
    if (ended) // above the low bound: some digit is not zero
        return seq(r, ht_schema_digits(r, '0', '0', 0, PADDING),
                   seq(r, ht_schema_digits(r, '1', '9', 1, 1), ht_schema_digits(r, '0', '9', 0, PADDING)));
    char a = f.low && *f.low ? *f.low : '0', z = f.high ? (*f.high ? *f.high : '0') : '9';
    struct fraction on_low = f, on_high = f;
    on_low.low = rest_of(f.low);
    on_high.high = rest_of(f.high);
    if (f.low && f.high && a == z) {
        on_low.high = on_high.high;
        return alt(r, end, seq(r, ht_schema_digits(r, a, a, 1, 1), fraction_digits(r, on_low, i + 1)));
    }
    ht_expr free_digits = ht_schema_digits(r, '0', '9', 0, left > 1 ? left - 1 : 0);
    char from = (char)(a + (f.low != NULL)), to = (char)(z - (f.high != NULL));
    ht_expr all =
        from > to ? ht_expr_nothing(&r->b) : seq(r, ht_schema_digits(r, from, to, 1, 1), free_digits);
    on_low.high = NULL;
    on_high.low = NULL;
    if (f.low)
        all = alt(r, all, seq(r, ht_schema_digits(r, a, a, 1, 1), fraction_digits(r, on_low, i + 1)));
    if (f.high)
        all = alt(r, all, seq(r, ht_schema_digits(r, z, z, 1, 1), fraction_digits(r, on_high, i + 1)));
    return alt(r, end, all);
}

// ".digits", or nothing where .0 is within the bounds.
static ht_expr fraction(struct ht_schema_reader *r, struct fraction f)
{
    ht_expr some = fraction_digits(r, f, 0);
    if (ht_expr_is_nothing(&r->b, some))
        return may_end(&f) ? 0 : some;
    some = seq(r, ht_expr_text(&r->b, "."), some);
    return may_end(&f) ? ht_expr_optional(&r->b, some) : some;
}

// Magnitudes in [low, high]; high NULL: no bound.
static ht_expr magnitude(struct ht_schema_reader *r, const struct bound *low, const struct bound *high)
{
    char digits[24];
    uint64_t last = high ? high->whole : 1000000000000000;
    int n = snprintf(digits, sizeof digits, "%llu", (unsigned long long)(high ? last : low->whole));
    uint32_t most = n < PRECISE_DIGITS ? (uint32_t)(PRECISE_DIGITS - n) : 1;
    ht_expr all = ht_expr_nothing(&r->b);
    if (low->whole > last)
        return all;
    struct fraction free_one = {.most = most}, f = free_one;
    f.low = low->fraction;
    f.low_exclusive = low->exclusive;
    if (high && low->whole == high->whole) {
        f.high = high->fraction;
        f.high_exclusive = high->exclusive;
    }
    ht_expr edge = fraction(r, f);
    if (!ht_expr_is_nothing(&r->b, edge))
        all = seq(r, whole(r, low->whole, low->whole), edge);
    if (last > low->whole + 1)
        all = alt(r, all, seq(r, whole(r, low->whole + 1, last - 1), fraction(r, free_one)));
    if (high && high->whole > low->whole) {
        f = free_one;
        f.high = high->fraction;
        f.high_exclusive = high->exclusive;
        edge = fraction(r, f);
        if (!ht_expr_is_nothing(&r->b, edge))
            all = alt(r, all, seq(r, whole(r, high->whole, high->whole), edge));
    }
    return all;
}

struct interval {
    double low, high;
    bool low_exclusive, high_exclusive;
};

static bool read_interval(struct ht_schema_reader *r, const json_t *schema, struct interval *v)
{
    *v = (struct interval){-INFINITY, INFINITY, false, false};
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        const json_t *low = json_object_get(schema, exclusive ? "exclusiveMinimum" : "minimum"),
                     *high = json_object_get(schema, exclusive ? "exclusiveMaximum" : "maximum");
        if ((low && !json_is_number(low)) || (high && !json_is_number(high)))
            return ht_schema_fail(r, HEARTH_INVALID, "a bound is no number"), false;
        if (low && json_number_value(low) >= v->low) {
            v->low = json_number_value(low);
            v->low_exclusive = exclusive;
        }
        if (high && json_number_value(high) <= v->high) {
            v->high = json_number_value(high);
            v->high_exclusive = exclusive;
        }
    }
    return true;
}

static ht_expr any_number(struct ht_schema_reader *r)
{
    if (!r->number) {
        struct ht_builder *b = &r->b;
        struct ht_char_range e[] = {{'e', 'e'}, {'E', 'E'}}, sign[] = {{'+', '+'}, {'-', '-'}};
        r->number = ht_rule_new(b, "number", 6);
        ht_expr whole_part = ht_expr_alt(
            b, ht_expr_text(b, "0"),
            seq(r, ht_schema_digits(r, '1', '9', 1, 1), ht_schema_digits(r, '0', '9', 0, MAX_DIGITS - 1)));
        ht_expr part = seq(r, ht_expr_text(b, "."), ht_schema_digits(r, '0', '9', 1, MAX_DIGITS));
        ht_expr power =
            seq(r, ht_expr_chars(b, e, 2, false), ht_expr_optional(b, ht_expr_chars(b, sign, 2, false)));
        power = seq(r, power, ht_schema_digits(r, '0', '9', 1, 2));
        ht_expr all = seq(r, ht_expr_optional(b, ht_expr_text(b, "-")), whole_part);
        all = seq(r, seq(r, all, ht_expr_optional(b, part)), ht_expr_optional(b, power));
        ht_rule_set(b, r->number, all);
    }
    return ht_expr_rule(&r->b, r->number);
}

ht_expr ht_schema_number(struct ht_schema_reader *r, const json_t *schema)
{
    struct interval v;
    if (!has_bounds(schema))
        return any_number(r);
    if (!read_interval(r, schema, &v))
        return 0;
    struct bound zero = {0}, low = zero, high = zero;
    if ((v.low > -INFINITY && !split(v.low, v.low_exclusive, &low)) ||
        (v.high < INFINITY && !split(v.high, v.high_exclusive, &high)))
        return ht_schema_fail(r, HEARTH_UNSUPPORTED,
                              "bounds of a number beyond 1e15, or nearer to 0 than 1e-6");
    if (v.low > v.high || (v.low == v.high && (v.low_exclusive || v.high_exclusive)))
        return ht_schema_fail(r, HEARTH_INVALID, "no number is within the bounds");
    struct bound above_zero = {.exclusive = true};
    ht_expr all = ht_expr_nothing(&r->b);
    if (v.high >= 0)
        all = magnitude(r, v.low >= 0 ? &low : &zero, v.high < INFINITY ? &high : NULL);
    if (v.low < 0)
        all = alt(r, all,
                  seq(r, ht_expr_text(&r->b, "-"),
                      magnitude(r, v.high < 0 ? &high : &above_zero, v.low > -INFINITY ? &low : NULL)));
    return all;
}
