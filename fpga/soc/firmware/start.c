/* The first instructions, at address 0. SPDX-License-Identifier: Apache-2.0 */
__asm__(".section .start, \"ax\"\n"
        ".globl _start\n"
        "_start:\n"
        "    la sp, stack_end\n"
        "    la t0, bss_start\n"
        "    la t1, bss_end\n"
        "1:  bgeu t0, t1, 2f\n"
        "    sw zero, 0(t0)\n"
        "    addi t0, t0, 4\n"
        "    j 1b\n"
        "2:  call main\n"
        "3:  j 3b\n");
