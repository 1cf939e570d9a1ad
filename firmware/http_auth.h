// SPDX-License-Identifier: Apache-2.0
// Who asks over HTTP, and may they. Loop thread only.
#ifndef HD_HTTP_AUTH_H
#define HD_HTTP_AUTH_H
#include "firmware/http.h"

// Origin, Authorization, scope, rate: fills exchange->device, or the refusal.
void hd_http_authorise(struct hd_exchange *exchange);
// 43 digits of base64url, with or without '=' → 32 bytes, and back.
bool hd_token_from_text(uint8_t token[HD_SECRET_BYTES], const char *text);
enum { HD_TOKEN_TEXT_BYTES = 44 };
void hd_token_to_text(char text[HD_TOKEN_TEXT_BYTES], const uint8_t token[HD_SECRET_BYTES]);

#endif
