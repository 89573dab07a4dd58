/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * ../test_edges.c for programs that call the C library.
 */
#include "preload.h"

#define EDGE_SPLICE splice
#define EDGE_RUN(tests) RUN_PRELOADED("test_edges", tests)
#include "../test_edges.c"
