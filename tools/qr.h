// SPDX-License-Identifier: Apache-2.0
// QR codes for terminals. Main thread.
#ifndef HEARTH_TOOLS_QR_H
#define HEARTH_TOOLS_QR_H
#include <stdbool.h>

// Draws the text with half blocks, two rows a line, light modules as blocks (right on dark terminals, and on
// light ones when colours may be used). False if it cannot be encoded.
bool qr_print(const char *text, bool color);

#endif
