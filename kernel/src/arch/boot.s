/* PVH entry to ring 3, the ring-0 stub, and the page tables.
 *
 * Ring 0 does two things and no more: the mode switch below, and faults (write the epitaph, power
 * off); in provoking images it can also break its own stack. It is integer code only: on some hosts
 * ring 0 is interpreted.
 *
 * Everything lies at fixed addresses, so gates, descriptors and page tables are constants, and every
 * page has its rights from the first instruction of ring 3 on:
 *   RING0_TEXT   supervisor: stubs, one every 16 bytes from the first byte; then the code
 *   RING0_DATA   supervisor: IDT, GDT, TSS with an I/O bitmap of ports 0 to 0xfff, two small stacks
 *   PAGE_TABLES  mapped nowhere: nothing can change them
 *
 * State at entry (PVH): 32-bit protected mode, flat segments, paging off, ebx = start info.
 */
.set RING0_TEXT, IMAGE
.set MEMORY_MAP_COPY, EPITAPH + 0x400
.set RING0_DATA, IMAGE + 0x1000
.set PAGE_TABLES, IMAGE + 0x2000
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
  .if (v == 6) && PROVOKE
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
.if PROVOKE
/* Vector 6, `ud2` with rdx = "brea": the next fault finds no stack. */
invalid_opcode:
    cmp $0x62726561, %rdx
    jne 1f
    movq $0, TSS_AT + 4
    addq $2, (%rsp)
    iretq
1:  pushq $0
    pushq $6
    jmp fault
.endif

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
    cmpb $0, EPITAPH + WAY_OUT + 3
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
5:  mov EPITAPH + WAY_OUT, %dx
    mov EPITAPH + WAY_OUT + 2, %al
    test %dx, %dx
    jnz 8f
    mov $POWER_OFF_PORT, %edx
8:  outb %al, %dx
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
    /* The firmware of some machines leaves the memory map in the null page, which is never mapped. */
    mov 40(%ebx), %esi
    cmp $0x1000, %esi
    jae 11f
    mov $MEMORY_MAP_COPY, %edi
    mov $16 * 24 / 4, %ecx          /* as many entries as are looked at */
    rep movsl
    movl $MEMORY_MAP_COPY, 40(%ebx)
11: mov $pml4, %eax
    mov %eax, %cr3
    mov %ebx, %esi
    mov $1, %eax
    cpuid
    mov $0x620, %eax                /* PAE | OSFXSR | OSXMMEXCPT */
    bt $28, %ecx                    /* AVX, which implies XSAVE */
    jnc 9f
    bts $18, %eax                   /* OSXSAVE */
    mov %eax, %cr4
    xor %ecx, %ecx
    xor %edx, %edx
    mov $7, %eax                    /* XCR0: x87, SSE and AVX state */
    xsetbv
    jmp 10f
9:  mov %eax, %cr4
10: mov %esi, %ebx
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
.org 0x1000

/* The page tables, one to one:
 *   0 .. 2 MiB        4 KiB pages, data; the null page is left out
 *   the image         4 KiB pages: ring 0's two (supervisor), the tables (left out), text,
 *                     read-only data, data
 *   the stacks        4 KiB pages, one left out below each
 *   .. 1 GiB          2 MiB pages, data: heap and buffers, as far as there is memory
 *   3 GiB .. 4 GiB    2 MiB pages, data past the caches: device windows
 * No entry is both writable and executable. */
.set PRESENT, 1
.set WRITABLE, 2
.set USER, 4
.set UNCACHED, 0x18
.set LARGE, 0x80
.set NO_EXECUTE, 0x8000000000000000
.set DATA_PAGE, NO_EXECUTE + PRESENT + WRITABLE + USER

/* Entries for the pages from `from` up to `to`. */
.macro PAGES from, to, rights
.set page, \from
.rept ((\to) - (\from)) / 0x1000
    .quad page + \rights
    .set page, page + 0x1000
.endr
.endm

.section .ring0.tables,"a",@progbits
.align 4096
pml4:
    .quad pdpt + PRESENT + WRITABLE + USER
    .fill 511, 8, 0
pdpt:
    .quad pd_memory + PRESENT + WRITABLE + USER, 0, 0, pd_devices + PRESENT + WRITABLE + USER
    .fill 508, 8, 0
pd_memory:
    .quad pt_low + PRESENT + WRITABLE + USER, pt_image + PRESENT + WRITABLE + USER
    .quad pt_stacks + PRESENT + WRITABLE + USER
.set page, HEAP
.rept 509
    .quad page + DATA_PAGE + LARGE
    .set page, page + 0x200000
.endr
pd_devices:
.set page, 0xc0000000
.rept 512
    .quad page + DATA_PAGE + LARGE + UNCACHED
    .set page, page + 0x200000
.endr
pt_low:
    .quad 0
    PAGES 0x1000, IMAGE, DATA_PAGE
pt_image:
    .quad RING0_TEXT + PRESENT
    .quad RING0_DATA + PRESENT + WRITABLE + NO_EXECUTE
    .fill (TEXT - PAGE_TABLES) / 0x1000, 8, 0
    PAGES TEXT, RODATA, PRESENT + USER
    PAGES RODATA, DATA, PRESENT + USER + NO_EXECUTE
    PAGES DATA, STACKS, DATA_PAGE
pt_stacks:
.set stack, STACKS
.rept LANES_MAX
    .quad 0
    PAGES stack + 0x1000, stack + 0x1000 + STACK_LEN, DATA_PAGE
    .set stack, stack + 0x1000 + STACK_LEN
.endr
    .fill (HEAP - stack) / 0x1000, 8, 0
