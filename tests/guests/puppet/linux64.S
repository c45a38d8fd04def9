/* Entry of the 64-bit puppet: the Linux 64-bit protocol leaves us in long mode, %rsi at the zero page. */

    .text
    .globl _start
_start:
    mov $stack_top, %rsp
    cld
    mov 0x228(%rsi), %edi           /* setup_header.cmd_line_ptr */
    call puppet

    .section .note.GNU-stack, "", @progbits
