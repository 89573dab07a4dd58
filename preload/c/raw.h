/* System calls by their instruction (syscall.S). The function of the C library is interposed by us and may be by
 * others (torsocks), who call functions of ours in it. */
#ifndef UKTLS_RAW_H
#define UKTLS_RAW_H

#include <sys/syscall.h>

/* As syscall(2): -1 and errno for an error. */
__attribute__((visibility("hidden"))) long uktls_syscall(long number, ...);

/* The same by the next library that has a syscall(2), which may be another one than the C library. */
__attribute__((visibility("hidden"))) long uktls_next_syscall(long number, ...);

#endif
