/* Entry of the 32-bit puppet: the PVH protocol leaves us in flat protected mode, %ebx at the start info. */

    .section .note.pvh, "a"
    .balign 4
    .long 4, 4, 18                  /* lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long _start

    .text
    .globl _start
_start:
    mov $stack_top, %esp
    cld
    pushl 24(%ebx)                  /* hvm_start_info.cmdline_paddr, lower half */
    call puppet

    .section .note.GNU-stack, "", @progbits
