/*
 * Entry of the bench guest: from PVH's 32-bit protected mode to 64-bit code in ring 3.
 *
 * Ring 3, because a host that emulates ring 0 runs that instruction by instruction, and ring 3 natively. Ports and devices
 * are open to it: the task segment permits all ports, and the lower 4 GiB are mapped for it, each address to itself.
 * Nothing is done here that a table prepared by the assembler could do. There is no interrupt and no handler: an
 * exception ends the machine.
 */

    .section .note.pvh, "a"
    .balign 4
    .long 4, 4, 18                  /* lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long _start

    .set PRESENT_WRITE_USER, 7
    .set LARGE, 1 << 7

    .data
    .balign 4096
top:
    .quad middle + PRESENT_WRITE_USER
    .fill 511, 8, 0
middle:
    .quad pages + PRESENT_WRITE_USER
    .quad pages + 0x1000 + PRESENT_WRITE_USER
    .quad pages + 0x2000 + PRESENT_WRITE_USER
    .quad pages + 0x3000 + PRESENT_WRITE_USER
    .fill 508, 8, 0
pages:                              /* 2 MiB each */
    .set address, 0
    .rept 2048
    .quad address + LARGE + PRESENT_WRITE_USER
    .set address, address + 0x200000
    .endr

task:
    .fill 102, 1, 0
    .word ports - task              /* one bit for each port, 0 for those that are open */
ports:
    .fill 8193, 1, 0
task_end:

    .set CODE, 8
    .set USER_DATA, 16 | 3
    .set USER_CODE, 24 | 3
    .set TASK, 32
segments:
    .quad 0
    .quad 0x00af9b000000ffff        /* 64-bit code, ring 0 */
    .quad 0x00cff3000000ffff        /* data, ring 3 */
    .quad 0x00affb000000ffff        /* 64-bit code, ring 3 */
task_segment:                       /* the base is filled in, for no relocation has its pieces */
    .word task_end - task - 1, 0
    .byte 0, 0x89, 0, 0
    .quad 0
segments_end:
segments_register:
    .word segments_end - segments - 1
    .long segments

    .text
    .code32
    .globl _start
_start:
    mov $stack_top, %esp
    mov 24(%ebx), %edi              /* hvm_start_info.cmdline_paddr, lower half */
    mov $top, %eax
    mov %eax, %cr3
    mov $0x620, %eax                /* PAE, and SSE for string operations of the compiler */
    mov %eax, %cr4
    mov $0xc0000080, %ecx           /* EFER: long mode, no-execute is left alone */
    mov $0x100, %eax
    xor %edx, %edx
    wrmsr
    mov $0x80000001, %eax           /* paging, protection */
    mov %eax, %cr0
    mov $task, %eax
    mov %ax, task_segment + 2
    shr $16, %eax
    mov %al, task_segment + 4
    lgdt segments_register
    ljmp $CODE, $long_mode
    .code64
long_mode:
    mov $TASK, %eax
    ltr %ax
    mov $USER_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    pushq $USER_DATA
    pushq $stack_top - 8
    pushq $2                        /* flags: no interrupts */
    pushq $USER_CODE
    pushq $bench
    iretq

    .section .note.GNU-stack, "", @progbits
