#include "textflag.h"

// func handler() (handler, restorer uintptr)
TEXT ·handler(SB),NOSPLIT,$0-16
	LEAQ	catch<>(SB), AX
	MOVQ	AX, handler+0(FP)
	LEAQ	restore<>(SB), AX
	MOVQ	AX, restorer+8(FP)
	RET

// catch is called by the kernel, with the signal's number in DI, on the thread's signal stack.
TEXT catch<>(SB),NOSPLIT|NOFRAME,$0
	SUBQ	$24, SP
	MOVB	DI, (SP)
	MOVL	·caught(SB), DI
	MOVQ	SP, SI
	MOVL	$1, DX
	MOVL	$1, AX // SYS_write
	SYSCALL
	ADDQ	$24, SP
	RET

TEXT restore<>(SB),NOSPLIT|NOFRAME,$0
	MOVL	$15, AX // SYS_rt_sigreturn
	SYSCALL
	INT	$3
