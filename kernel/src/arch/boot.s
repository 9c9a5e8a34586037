/* PVH entry to ring 3, the ring-0 stub, and the page tables.
 *
 * Ring 0 does four things and no more: the mode switch below; starting the other cores, before ring 3 runs;
 * sleeping for a moment (`instar_sleep`); and faults (write the epitaph, power off). In provoking images it can
 * also break its own stack. It is integer code only: on some hosts ring 0 is interpreted.
 *
 * Everything lies at fixed addresses, so gates, descriptors and page tables are constants, and every
 * page has its rights from the first instruction of ring 3 on:
 *   RING0_TEXT   supervisor: stubs, one every 16 bytes from the first byte; then the code
 *   RING0_DATA   supervisor: IDT, GDT, a TSS a core with one I/O bitmap of ports 0 to 0xfff, small stacks
 *   PAGE_TABLES  mapped nowhere: nothing can change them
 *
 * State at entry (PVH): 32-bit protected mode, flat segments, paging off, ebx = start info.
 *
 * Where the command line starts with "apic=", the machine has local APICs at the usual place. Then every other core
 * is started at once, at the null page, which is never mapped later: it comes to ring 3 at `instar_core` with its lane's
 * number. Ring 3 reaches no APIC.
 */
.set RING0_TEXT, IMAGE
.set MEMORY_MAP_COPY, EPITAPH + 0x400
.set RING0_DATA, IMAGE + 0x1000
.set PAGE_TABLES, IMAGE + 0x2000
.set IDT_AT, RING0_DATA
.set GATES, 33
.set TSS_AT, RING0_DATA + 0x2c0
.set TSS_LEN, 0x68
.set IO_BITMAP, TSS_AT + LANES_MAX * TSS_LEN
.set IO_BITMAP_END, IO_BITMAP + 0x200 + 1
.set STACK0_LEN, 0xd0
.set DF_STACK, RING0_DATA + 0x1000 - LANES_MAX * STACK0_LEN
.set STACK0, RING0_DATA + 0x1000        /* of lane 0; the others' lie below */

/* Local APIC (Intel SDM 3A, 11.4): base, and offsets. */
.set APIC, 0xfee00000
.set APIC_TPR, 0x80
.set APIC_EOI, 0xb0
.set APIC_SPURIOUS, 0xf0
.set APIC_COMMAND, 0x300
.set APIC_TIMER, 0x320
.set APIC_LINT0, 0x350
.set APIC_LINT1, 0x360
.set APIC_COUNT, 0x380
.set APIC_DIVIDE, 0x3e0
.set APIC_VECTOR, 32                    /* the one interrupt there is: the timer's */

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
  .if v == 13
    jmp general_protection
  .endif
  .if (v == 8) || (v == 10) || (v == 11) || (v == 12) || (v == 13) || (v == 14) || (v == 17) || (v == 21) || (v == 29) || (v == 30)
  .else
    pushq $0
  .endif
    pushq $v
    jmp fault
  .set v, v + 1
.endr
/* Vector 32: it has woken its core, and that is all. */
.align 16
timer:
    pushq %rax
    mov $APIC + APIC_EOI, %eax
    movl $0, (%rax)
    popq %rax
    iretq

/* Vector 13, at the one `hlt` of ring 3: sleeps until the timer has run down from edi. */
general_protection:
    cmpq $instar_sleep, 8(%rsp)
    je 1f
    pushq $13
    jmp fault
1:  mov $APIC + APIC_COUNT, %eax
    mov %edi, (%rax)
    sti
    hlt
    cli
    add $8, %rsp
    incq (%rsp)
    iretq

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
/* This core's local APIC: on, nothing from outside, a timer that fires once. */
.macro LOCAL_APIC
    movl $0x100 + APIC_VECTOR, APIC + APIC_SPURIOUS
    movl $0x10000, APIC + APIC_LINT0
    movl $0x10000, APIC + APIC_LINT1
    movl $0, APIC + APIC_TPR
    movl $0xb, APIC + APIC_DIVIDE           /* by 1 */
    movl $APIC_VECTOR, APIC + APIC_TIMER
.endm

/* Where another core starts, in real mode, once copied to address 0. */
.code16
trampoline:
    cli
    cld
    xor %ax, %ax
    mov %ax, %ds
    lgdtl trampoline_pointer - trampoline
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $0x08, $core_start
.align 8
trampoline_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* 08 code, 32-bit, flat */
    .quad 0x00cf93000000ffff        /* 10 data, flat */
trampoline_pointer:
    .word trampoline_pointer - trampoline_gdt - 1
    .long trampoline_gdt - trampoline
.set TRAMPOLINE_LEN, . - trampoline

.code32
core_start:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    LOCAL_APIC
    mov $1, %ebp
    jmp paging

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
11: movl $0, APIC_READY
    mov 24(%ebx), %eax
    test %eax, %eax
    jz 12f
    cmpl $0x63697061, (%eax)        /* "apic" */
    jne 12f
    cmpb $'=', 4(%eax)
    jne 12f
    mov $0x1b, %ecx                 /* IA32_APIC_BASE: on, not x2APIC, at the usual place */
    rdmsr
    and $0xfffffc00, %eax
    cmp $APIC + 0x800, %eax
    jne 12f
    test %edx, %edx
    jnz 12f
    movl $1, APIC_READY
    LOCAL_APIC
    mov $trampoline, %esi
    xor %edi, %edi
    mov $TRAMPOLINE_LEN, %ecx
    rep movsb
    movl $0xc4500, APIC + APIC_COMMAND      /* INIT to all but this one */
    movl $0xc4600, APIC + APIC_COMMAND      /* start at page 0 */
12: xor %ebp, %ebp
paging:
    mov $pml4, %eax
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
    lidt idt_pointer(%rip)
    xor %eax, %eax
    test %ebp, %ebp
    jz 1f
    mov $1, %eax
    lock xadd %eax, NEXT_LANE       /* cores come in any order */
    cmp $LANES_MAX, %eax
    jae spare
1:  mov %eax, %edx                  /* the lane */
    shl $4, %eax
    add $0x28, %eax
    ltr %ax
    imul $STACK0_LEN, %edx, %eax
    mov $STACK0, %esp
    sub %rax, %rsp
    mov $STACK3, %eax
    lea instar_main(%rip), %rcx
    mov %ebx, %edi
    test %edx, %edx
    jz 2f
    imul $STACK_LEN + 0x1000, %edx, %eax
    add $STACKS - 24, %eax
    lea instar_core(%rip), %rcx
    mov %edx, %edi
2:  pushq $0x1b
    pushq %rax
    pushq $2
    pushq $0x23
    pushq %rcx
    iretq
spare:
    cli
    hlt
    jmp spare

gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word GATES * 16 - 1
    .quad IDT_AT
idt_none:
    .word 0
    .quad 0

.section .ring0.data,"aw",@progbits
.macro GATE at, attributes, ist
    .word (\at) & 0xffff, 0x08, \ist | (\attributes << 8), (\at) >> 16
    .quad 0
.endm
/* IDT: 32 exception gates, and the timer's. */
.set v, 0
.rept GATES
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
.set tss, TSS_AT                    /* 28 and on: the TSS of each lane, up to the end of the bitmap that all share */
.rept LANES_MAX
     .word IO_BITMAP_END - tss - 1, tss & 0xffff
     .byte (tss >> 16) & 0xff, 0x89, 0, tss >> 24
     .quad 0
  .set tss, tss + TSS_LEN
.endr
gdt_end:
     .align 4
NEXT_LANE: .long 1
.org 0x2c0
.set tss, TSS_AT
.set stack, STACK0
.rept LANES_MAX
     .long 0
     .quad stack, 0, 0, 0           /* rsp0 .. reserved */
     .quad DF_STACK                 /* IST 1: double faults */
     .fill 58, 1, 0
     .word IO_BITMAP - tss
  .set tss, tss + TSS_LEN
  .set stack, stack - STACK0_LEN
.endr
     .fill 0x200, 1, 0              /* I/O bitmap: ports 0 to 0xfff are ring 3's */
     .byte 0xff
.org 0x1000

/* The page tables, one to one:
 *   0 .. 2 MiB        4 KiB pages, data; the null page is left out
 *   2 .. 4 MiB        4 KiB pages: ring 0's two (supervisor), the tables (left out), read-only data, and
 *                     the stacks of lanes 1 and on, a page left out below each
 *   4 .. 6 MiB        one 2 MiB page, text
 *   .. 1 GiB          2 MiB pages, data: stack of lane 0, data, heap and buffers, as far as there is memory
 *   3 GiB .. 4 GiB    2 MiB pages, data past the caches: device windows; the local APIC's is ring 0's alone
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
    .quad TEXT + PRESENT + USER + LARGE
.set page, STACK_0
.rept 509
    .quad page + DATA_PAGE + LARGE
    .set page, page + 0x200000
.endr
pd_devices:
.set page, 0xc0000000
.rept 512
  .if page == APIC
    .quad page + DATA_PAGE + LARGE + UNCACHED - USER
  .else
    .quad page + DATA_PAGE + LARGE + UNCACHED
  .endif
    .set page, page + 0x200000
.endr
pt_low:
    .quad 0
    PAGES 0x1000, IMAGE, DATA_PAGE
pt_image:
    .quad RING0_TEXT + PRESENT
    .quad RING0_DATA + PRESENT + WRITABLE + NO_EXECUTE
    .fill (RODATA - PAGE_TABLES) / 0x1000, 8, 0
    PAGES RODATA, STACKS, PRESENT + USER + NO_EXECUTE
.set stack, STACKS
.rept LANES_MAX - 1
    .quad 0
    PAGES stack + 0x1000, stack + 0x1000 + STACK_LEN, DATA_PAGE
    .set stack, stack + 0x1000 + STACK_LEN
.endr
    .fill (TEXT - stack) / 0x1000, 8, 0

/* `extern "C" fn instar_sleep(count: u32)`: ring 3 may not halt, and ring 0 does it for it. Where there is no APIC to
   end the sleep, nobody calls this. */
.section .text.instar_sleep,"ax",@progbits
.globl instar_sleep
instar_sleep:
    hlt
    ret
