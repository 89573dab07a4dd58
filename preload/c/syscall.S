/* Functions that must leave no frame behind: syscall(2), through which a program may make a vfork, a clone with a
 * stack of its own or a return from a signal handler, and dlopen(3), which looks at who has called it.
 *
 * syscall          exported. Numbers of uktls_served are looked at by uktls_serve; it may change the arguments.
 * uktls_next_syscall   the next library's, with registers and stack as they came
 * uktls_syscall    the instruction alone. The linker turns calls of syscall(2) in our own code into it
 *                  (--wrap=syscall): they come from the Rust library, for one.
 */
#include "indices.h"

#define SERVED_NUMBERS 512 /* uktls_served has as many */
#define RTLD_DEEPBIND 8

        .text
        .hidden uktls_next
        .hidden uktls_served
        .hidden uktls_serve
        .hidden uktls_resolve
        .hidden uktls_deepbind

#define FUNCTION(name)                                                                                                 \
        .type name, %function;                                                                                         \
        .p2align 4;                                                                                                    \
name:
#define HIDDEN(name)                                                                                                   \
        .globl name;                                                                                                   \
        .hidden name;                                                                                                  \
        FUNCTION(name)
#define END(name) .size name, . - name

#if defined(__x86_64__)

        .globl syscall
FUNCTION(syscall)
        .cfi_startproc
        endbr64
        cmpl $SERVED_NUMBERS, %edi
        jae uktls_next_syscall
        leaq uktls_served(%rip), %r11
        movl %edi, %r10d
        cmpb $0, (%r11,%r10)
        je uktls_next_syscall
        /* struct call of syscall.c */
        subq $72, %rsp
        .cfi_adjust_cfa_offset 72
        movq %rdi, (%rsp)
        movq %rsi, 8(%rsp)
        movq %rdx, 16(%rsp)
        movq %rcx, 24(%rsp)
        movq %r8, 32(%rsp)
        movq %r9, 40(%rsp)
        movq 80(%rsp), %rax
        movq %rax, 48(%rsp)
        movq 72(%rsp), %rax
        movq %rax, 56(%rsp)
        movq %rsp, %rdi
        call uktls_serve
        testb %al, %al
        jz 1f
        movq 64(%rsp), %rax
        addq $72, %rsp
        .cfi_remember_state
        .cfi_adjust_cfa_offset -72
        ret
        .cfi_restore_state
1:      movq (%rsp), %rdi
        movq 8(%rsp), %rsi
        movq 16(%rsp), %rdx
        movq 24(%rsp), %rcx
        movq 32(%rsp), %r8
        movq 40(%rsp), %r9
        addq $72, %rsp
        .cfi_adjust_cfa_offset -72
        jmp uktls_next_syscall
        .cfi_endproc
END(syscall)

HIDDEN(uktls_next_syscall)
        .cfi_startproc
        movq uktls_next+8*INDEX_syscall(%rip), %r11
        testq %r11, %r11
        /* Nobody has been looked for yet, which cannot be done here. */
        jz uktls_syscall
        /* None of the variable arguments is in a vector register. */
        xorl %eax, %eax
        jmp *%r11
        .cfi_endproc
END(uktls_next_syscall)

        .globl __wrap_syscall
        .hidden __wrap_syscall
        .set __wrap_syscall, uktls_syscall
HIDDEN(uktls_syscall)
        .cfi_startproc
        movq %rdi, %rax
        movq %rsi, %rdi
        movq %rdx, %rsi
        movq %rcx, %rdx
        movq %r8, %r10
        movq %r9, %r8
        movq 8(%rsp), %r9
        syscall
        cmpq $-4095, %rax
        jae 1f
        ret
1:      pushq %rax
        .cfi_adjust_cfa_offset 8
        call __errno_location@PLT
        popq %rcx
        .cfi_adjust_cfa_offset -8
        negl %ecx
        movl %ecx, (%rax)
        movq $-1, %rax
        ret
        .cfi_endproc
END(uktls_syscall)

        .globl dlopen
FUNCTION(dlopen)
        .cfi_startproc
        endbr64
        movq uktls_next+8*INDEX_dlopen(%rip), %r11
        testq %r11, %r11
        jz 1f
        testl $RTLD_DEEPBIND, %esi
        jnz 1f
        jmp *%r11
1:      subq $24, %rsp
        .cfi_adjust_cfa_offset 24
        movq %rdi, (%rsp)
        movq %rsi, 8(%rsp)
        testl $RTLD_DEEPBIND, %esi
        jz 2f
        andl $~RTLD_DEEPBIND, 8(%rsp)
        call uktls_deepbind
2:      movl $INDEX_dlopen, %edi
        call uktls_resolve
        movq %rax, %r11
        movq (%rsp), %rdi
        movq 8(%rsp), %rsi
        addq $24, %rsp
        .cfi_adjust_cfa_offset -24
        jmp *%r11
        .cfi_endproc
END(dlopen)

#elif defined(__aarch64__)

/* A branch may come here from a pointer (BTI); elsewhere it does nothing. */
#define LANDING hint #34

        .globl syscall
FUNCTION(syscall)
        .cfi_startproc
        LANDING
        cmp w0, #SERVED_NUMBERS
        b.hs uktls_next_syscall
        adrp x16, uktls_served
        add x16, x16, #:lo12:uktls_served
        ldrb w16, [x16, w0, uxtw]
        cbz w16, uktls_next_syscall
        stp x29, x30, [sp, #-96]!
        .cfi_adjust_cfa_offset 96
        .cfi_rel_offset x29, 0
        .cfi_rel_offset x30, 8
        mov x29, sp
        /* struct call of syscall.c */
        stp x0, x1, [sp, #16]
        stp x2, x3, [sp, #32]
        stp x4, x5, [sp, #48]
        stp x6, x30, [sp, #64]
        add x0, sp, #16
        bl uktls_serve
        tst w0, #0xff
        b.eq 1f
        ldr x0, [sp, #80]
        ldp x29, x30, [sp], #96
        .cfi_remember_state
        .cfi_restore x29
        .cfi_restore x30
        .cfi_adjust_cfa_offset -96
        ret
        .cfi_restore_state
1:      ldp x0, x1, [sp, #16]
        ldp x2, x3, [sp, #32]
        ldp x4, x5, [sp, #48]
        ldr x6, [sp, #64]
        ldp x29, x30, [sp], #96
        .cfi_restore x29
        .cfi_restore x30
        .cfi_adjust_cfa_offset -96
        b uktls_next_syscall
        .cfi_endproc
END(syscall)

HIDDEN(uktls_next_syscall)
        .cfi_startproc
        adrp x16, uktls_next+8*INDEX_syscall
        ldr x16, [x16, #:lo12:uktls_next+8*INDEX_syscall]
        /* Nobody has been looked for yet, which cannot be done here. */
        cbz x16, uktls_syscall
        br x16
        .cfi_endproc
END(uktls_next_syscall)

        .globl __wrap_syscall
        .hidden __wrap_syscall
        .set __wrap_syscall, uktls_syscall
HIDDEN(uktls_syscall)
        .cfi_startproc
        uxtw x8, w0
        mov x0, x1
        mov x1, x2
        mov x2, x3
        mov x3, x4
        mov x4, x5
        mov x5, x6
        svc #0
        cmn x0, #4095
        b.hs 1f
        ret
1:      stp x29, x30, [sp, #-32]!
        .cfi_adjust_cfa_offset 32
        .cfi_rel_offset x29, 0
        .cfi_rel_offset x30, 8
        mov x29, sp
        str x0, [sp, #16]
        bl __errno_location
        ldr x1, [sp, #16]
        neg w1, w1
        str w1, [x0]
        mov x0, #-1
        ldp x29, x30, [sp], #32
        .cfi_restore x29
        .cfi_restore x30
        .cfi_adjust_cfa_offset -32
        ret
        .cfi_endproc
END(uktls_syscall)

        .globl dlopen
FUNCTION(dlopen)
        .cfi_startproc
        LANDING
        adrp x16, uktls_next+8*INDEX_dlopen
        ldr x16, [x16, #:lo12:uktls_next+8*INDEX_dlopen]
        cbz x16, 1f
        tbnz w1, #3, 1f
        br x16
1:      stp x29, x30, [sp, #-32]!
        .cfi_adjust_cfa_offset 32
        .cfi_rel_offset x29, 0
        .cfi_rel_offset x30, 8
        mov x29, sp
        stp x0, x1, [sp, #16]
        tbz w1, #3, 2f
        and w1, w1, #~RTLD_DEEPBIND
        str x1, [sp, #24]
        bl uktls_deepbind
2:      mov w0, #INDEX_dlopen
        bl uktls_resolve
        mov x16, x0
        ldp x0, x1, [sp, #16]
        ldp x29, x30, [sp], #32
        .cfi_restore x29
        .cfi_restore x30
        .cfi_adjust_cfa_offset -32
        br x16
        .cfi_endproc
END(dlopen)

#else
#error "syscall and dlopen are written for x86-64 and arm64 only"
#endif

        .section .note.GNU-stack, "", %progbits
