/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * An allocator that fails where a library of uktls asks it, and nowhere else.
 */
#ifndef UKTLS_TEST_FAILING_H
#define UKTLS_TEST_FAILING_H

/* Of the allocations that the library makes from now on, each `every`-th fails; none if it is 0. */
void fail_every(unsigned long every);
/* The `nth` fails, and all behind it. */
void fail_from(unsigned long nth);
/* How many of them have failed, ever. */
unsigned long failures(void);

#endif
