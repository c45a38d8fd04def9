/* The smallest guest that shows that it runs: one byte on the serial line, then it halts for good. PVH, 32 bits, in a
   64-bit file. */

    .section .note.pvh, "a"
    .balign 4
    .long 4, 4, 18                  /* lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long _start

    .text
    .code32
    .globl _start
_start:
    mov $0x3f8, %edx
    mov $'S', %al
    out %al, %dx
halt:
    cli
    hlt
    jmp halt

    .section .note.GNU-stack, "", @progbits
