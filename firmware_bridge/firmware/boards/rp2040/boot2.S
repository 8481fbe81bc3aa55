/* Second stage of the RP2040's boot: the ROM copies the first 256 bytes of flash to RAM, checks the CRC in the last
 * four (filled in by uf2.py) and calls this. It sets up execution in place with the plain read command (03h), which
 * every flash chip understands, at core clock / 4, and starts the image behind it as its reset would. */
    .syntax unified
    .cpu cortex-m0plus
    .thumb

    .equ SSI, 0x18000000
    .equ SSI_CTRLR0, 0x00
    .equ SSI_CTRLR1, 0x04
    .equ SSI_SSIENR, 0x08
    .equ SSI_BAUDR, 0x14
    .equ SSI_SPI_CTRLR0, 0xF4
    .equ VTOR, 0xE000ED08

    .section .boot2, "ax"
    .global boot2
    .type boot2, %function
    .thumb_func
boot2:
    ldr r3, =SSI
    movs r1, #0
    str r1, [r3, #SSI_SSIENR]       /* off while it is set up */
    movs r1, #4
    str r1, [r3, #SSI_BAUDR]
    ldr r1, =(31 << 16) | (3 << 8)  /* frames of 32 bits, standard SPI, command and address before the data */
    str r1, [r3, #SSI_CTRLR0]
    movs r1, #0
    str r1, [r3, #SSI_CTRLR1]       /* one frame per access */
    ldr r1, =(0x03 << 24) | (2 << 8) | (6 << 2) /* command 03h of 8 bits, address of 24 bits, one wire */
    movs r2, #SSI_SPI_CTRLR0
    str r1, [r3, r2]
    movs r1, #1
    str r1, [r3, #SSI_SSIENR]

    ldr r0, =vectors
    ldr r1, =VTOR
    str r0, [r1]
    ldr r1, [r0]
    msr msp, r1
    ldr r1, [r0, #4]
    bx r1
    .ltorg
