/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Where are the keys, once they are set? In no memory that a core dump has: a program looks through its own,
 * for what every cipher and AEAD implementation has of them, while they are in use, after a rekey, in both
 * processes after a fork, and when the socket is closed.
 */
#ifndef UKTLS_TEST_KEY_SEARCH_H
#define UKTLS_TEST_KEY_SEARCH_H

#include "harness.h"

/* The test program runs itself with two arguments for a search; `main` answers with this. `has_openssl`: the
 * library's own choice may be OpenSSL. */
int search_for_keys(char **argv, bool has_openssl);

/* Searches with one AEAD implementation, for each suite. */
void expect_no_keys(const char *aead);
/* Whoever searches has to find, or the rest says nothing. */
void expect_a_copy_to_be_found(void);

#endif
