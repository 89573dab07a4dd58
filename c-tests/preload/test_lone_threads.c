/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * ../test_lone_threads.c by the names of the C library.
 */
#include "preload.h"

#define RUN_LONE RUN_PRELOADED
#include "../test_lone_threads.c"
