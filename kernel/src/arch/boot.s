/* PVH entry to ring 3, and the ring-0 stub.
 *
 * Ring 0 does four things and no more: the mode switch below, faults (write the epitaph, power
 * off), the one table load (asked for by a trap, honoured once) and, in provoking images, breaking
 * its own stack. It is integer code only: on some hosts ring 0 is interpreted.
 *
 * Two pages, supervisor only once the kernel's page tables are loaded, at fixed addresses so that
 * every gate and the TSS descriptor are constants instead of code:
 *   RING0_TEXT  stubs, one every 16 bytes from the first byte; then the code
 *   RING0_DATA  IDT, GDT, TSS with an I/O bitmap of ports 0 to 0xfff, two small stacks
 *
 * State at entry (PVH): 32-bit protected mode, flat segments, paging off, ebx = start info.
 */
.set RING0_TEXT, 0x200000
.set RING0_DATA, 0x201000
.set IDT_AT, RING0_DATA
.set TSS_AT, RING0_DATA + 0x880
.set TSS_LEN, 0x68 + 0x200 + 1
.set DF_STACK, RING0_DATA + 0xd80
.set STACK0, RING0_DATA + 0x1000

.section .note.pvh,"a",@note
.align 4
.long 4, 8, 18
.asciz "Xen"
.quad pvh_start

.section .ring0.text,"ax",@progbits
.code64
/* Vectors 0 to 31. Each pushes an error code of 0 where the CPU pushes none, then its number. */
stubs:
.set v, 0
.rept 32
.align 16
  .if v == 6
    jmp invalid_opcode
  .endif
  .if (v == 8) || (v == 10) || (v == 11) || (v == 12) || (v == 13) || (v == 14) || (v == 17) || (v == 21) || (v == 29) || (v == 30)
  .else
    pushq $0
  .endif
    pushq $v
    jmp fault
  .set v, v + 1
.endr
/* Vector 6, `ud2` with rdx = SERVICE_*: how ring 3 asks. A trap rather than a software interrupt,
 * because not every KVM delivers those to a guest's own gates. Everything else is a fault. */
.set SERVICE_LOAD_TABLES, 0x6c6f6164
.set SERVICE_BREAK_STACK, 0x62726561
invalid_opcode:
    cmp $SERVICE_LOAD_TABLES, %rdx
    jne 1f
    /* rax = address of the kernel's own page tables. Once: then the tables are out of reach. */
    cmpb $0, tables_loaded(%rip)
    jne 2f
    movb $1, tables_loaded(%rip)
    mov %rax, %cr3
    addq $2, (%rsp)
    iretq
1:
.if PROVOKE
    cmp $SERVICE_BREAK_STACK, %rdx
    jne 2f
    movq $0, TSS_AT + 4             /* the next fault finds no stack */
    addq $2, (%rsp)
    iretq
.endif
2:  pushq $0
    pushq $6
    jmp fault

/* Stack: vector, error code, rip, cs, rflags, rsp, ss. Writes the epitaph and powers off. */
fault:
    mov $EPITAPH, %rdi
    mov (%rsp), %rax
    mov %eax, 4(%rdi)
    mov 8(%rsp), %rbx
    mov %rbx, 8(%rdi)
    mov 16(%rsp), %rbx
    mov %rbx, 16(%rdi)
    mov %cr2, %rbx
    mov %rbx, 24(%rdi)
    mov $1, %ecx                    /* Death::Fault */
    cmp $8, %eax
    je 2f
    testb $3, 24(%rsp)
    jnz 3f
2:  mov $2, %ecx                    /* Death::FaultInRing0 */
3:  mov %ecx, (%rdi)
    /* The one serial line for machines whose memory the launcher can't see. */
    cmpb $0, serial_wanted(%rip)
    je 5f
    mov $0x3f8, %edx
    mov $'!', %al
    outb %al, %dx
    xor %esi, %esi
4:  mov (%rdi,%rsi), %rbx           /* kind and vector, error code, rip, cr2 */
    call hex
    add $8, %esi
    cmp $32, %esi
    jb 4b
    mov $'\n', %al
    outb %al, %dx
5:  mov power_off_port(%rip), %dx
    mov power_off_value(%rip), %al
    outb %al, %dx
    lidt idt_none(%rip)             /* then a triple fault, for machines that know nothing else */
    ud2
hex:
    mov $16, %ecx
6:  rol $4, %rbx
    mov %bl, %al
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 7f
    add $39, %al
7:  outb %al, %dx
    dec %ecx
    jnz 6b
    mov $' ', %al
    outb %al, %dx
    ret

.code32
.globl pvh_start
pvh_start:
    cli
    cld
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0x620, %eax                /* PAE | OSFXSR | OSXMMEXCPT */
    mov %eax, %cr4
    mov $0xC0000080, %ecx           /* EFER: LME | NXE */
    rdmsr
    or $0x900, %eax
    wrmsr
    mov $0x80010033, %eax           /* PG WP NE ET MP PE */
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $0x08, $start64
.code64
start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $0x28, %eax
    ltr %ax
    lidt idt_pointer(%rip)
    mov $STACK0, %esp
    mov %ebx, %edi
    pushq $0x1b
    mov $STACK3, %eax
    pushq %rax
    pushq $2
    pushq $0x23
    lea instar_main(%rip), %rax
    pushq %rax
    iretq

gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 32 * 16 - 1
    .quad IDT_AT
idt_none:
    .word 0
    .quad 0

.section .ring0.data,"aw",@progbits
.macro GATE at, attributes, ist
    .word (\at) & 0xffff, 0x08, \ist | (\attributes << 8), (\at) >> 16
    .quad 0
.endm
/* IDT: 32 exception gates. */
.set v, 0
.rept 32
  .if v == 8
    GATE RING0_TEXT + v * 16, 0x8e, 1
  .else
    GATE RING0_TEXT + v * 16, 0x8e, 0
  .endif
  .set v, v + 1
.endr
.align 16
gdt: .quad 0
     .quad 0x00af9b000000ffff       /* 08 code, ring 0, 64-bit */
     .quad 0x00cf93000000ffff       /* 10 data, ring 0 */
     .quad 0x00cff3000000ffff       /* 18 data, ring 3 */
     .quad 0x00affb000000ffff       /* 20 code, ring 3, 64-bit */
     .word TSS_LEN - 1, TSS_AT & 0xffff
     .byte (TSS_AT >> 16) & 0xff, 0x89, 0, TSS_AT >> 24
     .quad 0                        /* 28 TSS */
gdt_end:
.org 0x880
     .long 0
     .quad STACK0, 0, 0, 0          /* rsp0 .. reserved */
     .quad DF_STACK                 /* IST 1: double faults */
     .fill 58, 1, 0
     .word 0x68
     .fill 0x200, 1, 0              /* I/O bitmap: ports 0 to 0xfff are ring 3's */
     .byte 0xff
tables_loaded: .byte 0
.globl serial_wanted
serial_wanted: .byte 0
.globl power_off_value
power_off_value: .byte 0
.align 2
.globl power_off_port
power_off_port: .word 0xf6
ring0_variables_end:
.org 0x1000

/* The first 4 GiB, one to one, everything allowed: until the kernel's own tables take over. */
.section .data.boot_tables,"aw",@progbits
.align 4096
boot_pml4: .quad boot_pdpt + 7
      .fill 511, 8, 0
boot_pdpt: .quad boot_pd + 7, boot_pd + 0x1007, boot_pd + 0x2007, boot_pd + 0x3007
      .fill 508, 8, 0
boot_pd:
.set a, 0
.rept 2048
  .quad a + 0x87
  .set a, a + 0x200000
.endr
