// SPDX-License-Identifier: Apache-2.0
// Memory kept for the moment when there is none. libwebsockets and its TLS wrapper do not survive every failed
// allocation in the middle of a connection; so hearthd is linked with malloc, calloc and realloc wrapped (Makefile),
// and an allocation that fails uses up the reserve and tries again. Until it is filled again nobody new is let in.
// Any thread.
#ifndef HD_RESERVE_H
#define HD_RESERVE_H
#include <stdbool.h>

// Fills the reserve if it is empty; false when there is no memory for it: let no new connection in.
bool hd_reserve_refill(void);
// Gives it back, at the end.
void hd_reserve_free(void);

#endif
