// SPDX-License-Identifier: Apache-2.0
// The guard at the door: connection caps, back-off per address, Host and Origin lists, frame rates, and which
// addresses count as local.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "firmware/guard.h"
#include "firmware/limits.h"

static struct hd_address address(const char *text)
{
    struct hd_address out;
    assert_true(hd_address_parse(&out, text));
    return out;
}

static void connections_are_capped(void **state)
{
    (void)state;
    struct hd_guard *guard = hd_guard_new();
    struct hd_address a = address("192.168.1.2"), b = address("192.168.1.3");
    for (int i = 0; i < HD_MAX_CONNECTIONS_PER_ADDRESS; i++)
        assert_true(hd_guard_connect(guard, &a));
    assert_false(hd_guard_connect(guard, &a));
    assert_true(hd_guard_connect(guard, &b));
    hd_guard_disconnect(guard, &a);
    assert_true(hd_guard_connect(guard, &a));
    // addresses of one IPv6 network are one neighbour
    struct hd_address six = address("fd00:1:2:3::1");
    for (int i = 0; i < HD_MAX_CONNECTIONS_PER_ADDRESS; i++) {
        six.b[8] = six.b[15] = (uint8_t)i;
        assert_true(hd_guard_connect(guard, &six));
    }
    six.b[15] = 0xff;
    assert_false(hd_guard_connect(guard, &six));
    struct hd_address near = address("fd00:1:2:3::1"), far = address("fd00:1:2:4::1");
    assert_true(hd_guard_is_neighbour(&six, &near));
    assert_false(hd_guard_is_neighbour(&six, &far));
    assert_false(hd_guard_is_neighbour(&a, &b));
    struct hd_address loopback = address("::1"), other = address("::2");
    assert_false(hd_guard_is_neighbour(&loopback, &other));
    int n = 0;
    for (int i = 0; i < HD_MAX_CONNECTIONS; i++) {
        char text[32];
        snprintf(text, sizeof text, "10.0.%d.1", i);
        struct hd_address c = address(text);
        n += hd_guard_connect(guard, &c);
    }
    assert_int_equal(n, HD_MAX_CONNECTIONS - 2 * HD_MAX_CONNECTIONS_PER_ADDRESS - 1);
    assert_int_equal(hd_guard_connections(guard), HD_MAX_CONNECTIONS);
    hd_guard_free(&guard);
    assert_null(guard);
}

// Twenty neighbours who begin handshakes as fast as they can, for ten seconds; one who comes after them, and every
// tenth of a second again, known (a device has shown its token from there) or not. The most that begin from each time
// that this one comes until it has begun, itself included.
static size_t longest_wait(bool known)
{
    enum { N = 20, SECONDS = 10 };
    struct hd_guard *guard = hd_guard_new();
    struct hd_address honest = address("192.168.1.2");
    size_t places[N + 1], begun[N + 1] = {0}, before = 0, longest = 0, total = 0, n = N;
    for (int i = 0; i < N; i++) {
        char text[32];
        snprintf(text, sizeof text, "10.0.%d.1", i);
        struct hd_address c = address(text);
        assert_true(hd_guard_connect(guard, &c));
        places[i] = hd_guard_place(guard, &c);
    }
    assert_true(hd_guard_connect(guard, &honest));
    places[N] = hd_guard_place(guard, &honest);
    assert_false(hd_guard_is_known(guard, &honest));
    if (known)
        hd_guard_know(guard, &honest);
    assert_int_equal(hd_guard_is_known(guard, &honest), known);
    assert_int_equal(hd_guard_handshake(guard, NULL, 0, 1000000), 0);
    for (int64_t ms = 0; ms < SECONDS * 1000; ms++) {
        n = ms % 100 == 50 ? N + 1 : n;
        for (size_t next; (next = hd_guard_handshake(guard, places, n, 1000000 + ms)) < n; total++) {
            begun[next]++;
            before = n > N ? before + 1 : 0;
            longest = before > longest ? before : longest;
            before = next == N ? 0 : before;
            n = next == N ? N : n;
        }
    }
    for (int i = 0; i < N; i++)
        assert_in_range(begun[i], begun[0] - 1, begun[0] + 1);
    assert_in_range(begun[N], known ? 10 * SECONDS : 2 * SECONDS, 10 * SECONDS);
    assert_in_range(total, HD_HANDSHAKES_BURST + (SECONDS - 1) * HD_HANDSHAKES_PER_SECOND,
                    HD_HANDSHAKES_BURST + SECONDS * HD_HANDSHAKES_PER_SECOND);
    hd_guard_free(&guard);
    return longest;
}

static void handshakes_take_turns(void **state)
{
    (void)state;
    assert_in_range(longest_wait(false), 3, 21); // its turn
    assert_in_range(longest_wait(true), 1, 2);
}

// Every other time the longest wait counts alone: who is known does not keep the others out.
static void who_is_known_leaves_room(void **state)
{
    (void)state;
    enum { TIMES = 100 };
    struct hd_guard *guard = hd_guard_new();
    struct hd_address known = address("192.168.1.2"), unknown = address("192.168.1.3");
    assert_true(hd_guard_connect(guard, &known));
    assert_true(hd_guard_connect(guard, &unknown));
    hd_guard_know(guard, &known);
    const size_t places[] = {hd_guard_place(guard, &unknown), hd_guard_place(guard, &known)};
    int begun[2] = {0};
    for (int i = 0; i < TIMES; i++)
        begun[hd_guard_handshake(guard, places, 2, 1000000 + 1000 * i)]++;
    assert_int_equal(begun[0], TIMES / 2);
    assert_int_equal(begun[1], TIMES / 2);
    hd_guard_free(&guard);
}

// Others come and go: as many as are remembered.
static void crowd(struct hd_guard *guard, bool wrong, int64_t now_ms)
{
    for (int i = 0; i < HD_MAX_ADDRESSES; i++) {
        char text[32];
        snprintf(text, sizeof text, "10.%d.%d.1", i / 250, i % 250);
        struct hd_address c = address(text);
        assert_true(hd_guard_connect(guard, &c));
        if (wrong)
            (void)hd_guard_wrong_try(guard, &c, now_ms);
        hd_guard_disconnect(guard, &c);
    }
}

// Where all places are taken, who was wrong is remembered before who was not, and of those the latest.
static void who_was_wrong_is_remembered(void **state)
{
    (void)state;
    int64_t now = hd_now_ms();
    for (int with_wrong = 0; with_wrong < 2; with_wrong++) {
        struct hd_guard *guard = hd_guard_new();
        struct hd_address a = address("192.168.1.2");
        for (int i = 0; i < HD_WRONG_TRIES_PER_MINUTE; i++)
            (void)hd_guard_wrong_try(guard, &a, now + 1000);
        crowd(guard, with_wrong, now);
        assert_int_equal(hd_guard_wrong_try(guard, &a, now + 1000), HD_TRY_WAIT);
        hd_guard_free(&guard);
    }
}

// A crowd of addresses that never begin a handshake does not make the box forget who had a turn.
static void turns_are_remembered(void **state)
{
    (void)state;
    struct hd_guard *guard = hd_guard_new();
    struct hd_address idle = address("192.168.1.1"), a = address("192.168.1.2"), b = address("192.168.1.3");
    assert_true(hd_guard_connect(guard, &idle));
    assert_true(hd_guard_connect(guard, &a));
    hd_guard_disconnect(guard, &idle);
    size_t places[] = {hd_guard_place(guard, &a), 0};
    assert_int_equal(hd_guard_handshake(guard, places, 1, 1000000), 0);
    assert_int_equal(hd_guard_handshake(guard, places, 1, 1000001), 0);
    hd_guard_disconnect(guard, &a);
    crowd(guard, false, 0);
    assert_true(hd_guard_connect(guard, &a));
    assert_true(hd_guard_connect(guard, &b));
    places[0] = hd_guard_place(guard, &a);
    places[1] = hd_guard_place(guard, &b);
    assert_int_equal(hd_guard_handshake(guard, places, 2, 1000002), 1);
    hd_guard_free(&guard);
}

// A crowd of addresses that come and go does not make the box forget whom it knows.
static void who_is_known_stays_known(void **state)
{
    (void)state;
    struct hd_guard *guard = hd_guard_new();
    struct hd_address owner = address("192.168.1.2");
    assert_true(hd_guard_connect(guard, &owner));
    hd_guard_know(guard, &owner);
    hd_guard_disconnect(guard, &owner);
    for (int i = 0; i < 2 * HD_MAX_ADDRESSES; i++) {
        char text[32];
        snprintf(text, sizeof text, "10.%d.%d.1", i / 250, i % 250);
        struct hd_address c = address(text);
        assert_true(hd_guard_connect(guard, &c));
        (void)hd_guard_wrong_try(guard, &c, hd_now_ms());
        hd_guard_disconnect(guard, &c);
    }
    assert_true(hd_guard_is_known(guard, &owner));
    hd_guard_free(&guard);
}

static void wrong_tries_are_told_to_wait(void **state)
{
    (void)state;
    struct hd_guard *guard = hd_guard_new();
    struct hd_address a = address("192.168.1.2"), b = address("192.168.1.3");
    int64_t now = 1000000;
    for (int i = 1; i < HD_WRONG_TRIES_PER_MINUTE; i++)
        assert_int_equal(hd_guard_wrong_try(guard, &a, now + i), HD_TRY_WRONG);
    assert_int_equal(hd_guard_wrong_try(guard, &a, now + 10), HD_TRY_WAIT_TOLD);
    assert_int_equal(hd_guard_wrong_try(guard, &a, now + 11), HD_TRY_WAIT);
    assert_int_equal(hd_guard_wrong_try(guard, &b, now + 11), HD_TRY_WRONG);
    assert_int_equal(hd_guard_wrong_try(guard, &a, now + 60000), HD_TRY_WAIT);
    assert_int_equal(hd_guard_wrong_try(guard, &a, now + 60001), HD_TRY_WRONG); // a minute after the first
    for (int i = 0; i < HD_WRONG_TRIES_PER_MINUTE; i++)
        hd_guard_wrong_try(guard, &a, now + 62000);
    assert_int_equal(hd_guard_wrong_try(guard, &a, now - 3600000), HD_TRY_WRONG); // the clock was put back
    hd_guard_free(&guard);
}

// Wrong tries from more addresses than are remembered: the log names a few, and who comes new finds a place.
static void a_crowd_keeps_nobody_out(void **state)
{
    (void)state;
    struct hd_guard *guard = hd_guard_new();
    struct hd_address owner = address("192.168.1.2");
    int64_t now = hd_now_ms();
    int told = 0;
    assert_true(hd_guard_connect(guard, &owner));
    for (int i = 0; i < 2 * HD_MAX_ADDRESSES; i++) {
        char text[32];
        snprintf(text, sizeof text, "10.%d.%d.1", i / 250, i % 250);
        struct hd_address c = address(text);
        for (int k = 0; k < HD_WRONG_TRIES_PER_MINUTE; k++)
            told += hd_guard_wrong_try(guard, &c, now) == HD_TRY_WAIT_TOLD;
    }
    assert_int_equal(told, HD_TOLD_PER_MINUTE);
    struct hd_address unknown = address("10.99.99.99");
    assert_int_equal(hd_guard_wrong_try(guard, &unknown, now + 1), HD_TRY_WRONG);
    assert_true(hd_guard_connect(guard, &unknown));
    assert_true(hd_guard_connect(guard, &owner)); // what is connected is not forgotten
    assert_int_equal(hd_guard_connections(guard), 3);
    hd_guard_disconnect(guard, &owner);
    hd_guard_disconnect(guard, &owner);
    hd_guard_disconnect(guard, &owner);
    assert_int_equal(hd_guard_connections(guard), 1);
    hd_guard_free(&guard);
}

static void hosts_and_origins(void **state)
{
    (void)state;
    struct hd_names names = {.dns = {"box.local", "localhost", "home.example"}, .n_dns = 3};
    names.ip[names.n_ip++] = address("127.0.0.1");
    names.ip[names.n_ip++] = address("::1");
    names.ip[names.n_ip++] = address("192.168.1.2");
    static const char *const good[] = {"box.local:8443",   "BOX.local:8443", "box.local.:8443",
                                       "localhost:8443",   "127.0.0.1:8443", "[::1]:8443",
                                       "192.168.1.2:8443", "[0:0::1]:8443",  "home.example:8443"};
    static const char *const bad[] = {"",
                                      ":8443",
                                      "box.local",
                                      "box.local:443",
                                      "box.local:84430",
                                      "box.local:",
                                      "box.local:8443 ",
                                      "box.local:0x20fb",
                                      "box.local:843=",
                                      "evil.example:8443",
                                      "box.local.evil.example:8443",
                                      "xbox.local:8443",
                                      "::1:8443",
                                      "[::1:8443",
                                      "[::2]:8443",
                                      "192.168.1.3:8443",
                                      "192.168.1.2.evil:8443",
                                      "user@box.local:8443"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        char origin[300];
        snprintf(origin, sizeof origin, "https://%s", good[i]);
        assert_true(hd_host_allowed(&names, 8443, good[i]));
        assert_true(hd_origin_allowed(&names, 8443, origin));
        snprintf(origin, sizeof origin, "http://%s", good[i]);
        assert_false(hd_origin_allowed(&names, 8443, origin));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char origin[300];
        snprintf(origin, sizeof origin, "https://%s", bad[i]);
        if (hd_host_allowed(&names, 8443, bad[i]) || hd_origin_allowed(&names, 8443, origin))
            fail_msg("'%s' was let in", bad[i]);
    }
    assert_false(hd_origin_allowed(&names, 8443, "null"));
    assert_false(hd_origin_allowed(&names, 8443, "httpx://box.local:8443"));
    assert_true(hd_host_allowed(&names, 443, "box.local"));
    assert_true(hd_host_allowed(&names, 443, "[::1]"));
    assert_false(hd_host_allowed(&names, 443, "[::1]x"));
    assert_false(hd_host_allowed(&names, 443, "box.local:"));
    assert_false(hd_host_allowed(&names, 443, "box.local:0"));
    char longest[HD_HOST_BYTES + 1] = "";
    memset(longest, 'a', HD_HOST_BYTES - 1);
    memcpy(names.dns[0], longest, HD_HOST_BYTES);
    assert_true(hd_host_allowed(&names, 443, longest));
    longest[HD_HOST_BYTES - 1] = '.';
    assert_false(hd_host_allowed(&names, 443, longest));
}

static void rates(void **state)
{
    (void)state;
    struct hd_bucket bucket = {0};
    int64_t now = 1000;
    int n = 0;
    while (hd_bucket_take(&bucket, now, 10, 5))
        n++;
    assert_int_equal(n, 5);
    assert_false(hd_bucket_take(&bucket, now + 99, 10, 5));
    assert_true(hd_bucket_take(&bucket, now + 101, 10, 5));
    assert_false(hd_bucket_take(&bucket, now - 5000, 10, 5)); // a clock that steps back gives nothing
    assert_true(hd_bucket_take(&bucket, now - 4800, 10, 5)); // and takes nothing
    n = 0;
    while (hd_bucket_take(&bucket, now + 1000000, 10, 5))
        n++;
    assert_int_equal(n, 5);
}

static void a_device_has_one_rate(void **state)
{
    (void)state;
    struct hd_guard *guard = hd_guard_new();
    struct hd_id a = {{1}}, b = {{2}};
    int64_t now = 1000000;
    for (int i = 0; i < HD_FRAMES_BURST; i++)
        assert_false(hd_guard_too_fast(guard, &a, now));
    assert_true(hd_guard_too_fast(guard, &a, now));
    assert_false(hd_guard_too_fast(guard, &b, now));
    for (int i = 0; i < HD_MAX_RATES - 2; i++) { // as many others as there are places for
        struct hd_id other = {{3, (uint8_t)i, 1}};
        assert_false(hd_guard_too_fast(guard, &other, now + 1));
    }
    assert_true(hd_guard_too_fast(guard, &a, now + 1));
    assert_false(hd_guard_too_fast(guard, &a, now + 1000));
    // what was read counts
    struct hd_id reader = {{4}};
    now += 100000;
    assert_false(hd_guard_too_fast(guard, &reader, now));
    hd_guard_has_read(guard, &reader, 100 * (size_t)HD_READ_BYTES_PER_FRAME);
    for (int i = 0; i < HD_FRAMES_BURST - 101; i++)
        assert_false(hd_guard_too_fast(guard, &reader, now));
    assert_true(hd_guard_too_fast(guard, &reader, now));
    hd_guard_free(&guard);
}

static void local_addresses(void **state)
{
    (void)state;
    static const char *const local[] = {"127.0.0.1",      "127.9.9.9",   "10.0.0.1",    "172.16.0.1",
                                        "172.31.255.255", "192.168.0.1", "169.254.1.1", "::1",
                                        "fc00::1",        "fdff::1",     "fe80::1"};
    static const char *const other[] = {
        "8.8.8.8",     "11.0.0.1", "172.15.0.1", "172.32.0.1", "192.169.0.1", "0.0.0.0",
        "2001:db8::1", "::",       "fe00::1",    "fec0::1",    "::2"};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
        struct hd_address a = address(local[i]);
        assert_true(hd_address_is_local(&a));
    }
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        struct hd_address a = address(other[i]);
        assert_false(hd_address_is_local(&a));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(connections_are_capped),   cmocka_unit_test(handshakes_take_turns),
        cmocka_unit_test(who_is_known_leaves_room), cmocka_unit_test(who_was_wrong_is_remembered),
        cmocka_unit_test(turns_are_remembered),     cmocka_unit_test(who_is_known_stays_known),
        cmocka_unit_test(wrong_tries_are_told_to_wait),
        cmocka_unit_test(a_crowd_keeps_nobody_out), cmocka_unit_test(hosts_and_origins),
        cmocka_unit_test(rates),                    cmocka_unit_test(a_device_has_one_rate),
        cmocka_unit_test(local_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
