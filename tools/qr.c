// SPDX-License-Identifier: Apache-2.0
// QR codes out of half blocks. With colours the field is black on white whatever the terminal's own colours
// are. Main thread.
#include "tools/qr.h"

#include <qrencode.h>
#include <stdio.h>

enum {
    QUIET = 2
}; // modules of white around; the norm's four do not fit small terminals, scanners accept two

static bool dark(const QRcode *code, int x, int y)
{
    if (x < 0 || y < 0 || x >= code->width || y >= code->width)
        return false;
    return code->data[y * code->width + x] & 1;
}

bool qr_print(const char *text, bool color)
{
    QRcode *code = QRcode_encodeString8bit(text, 0, QR_ECLEVEL_L);
    if (!code)
        return false;
    for (int y = -QUIET; y < code->width + QUIET; y += 2) {
        fputs(color ? "\033[97;40m" : "", stdout);
        for (int x = -QUIET; x < code->width + QUIET; x++) {
            bool upper = !dark(code, x, y), lower = y + 1 < code->width + QUIET && !dark(code, x, y + 1);
            fputs(upper && lower ? "█" : upper ? "▀" : lower ? "▄" : " ", stdout);
        }
        fputs(color ? "\033[0m\n" : "\n", stdout);
    }
    QRcode_free(code);
    return true;
}
