#include "textflag.h"

// func handler() (handler, restorer uintptr)
//
// What a handler returns to is the kernel's own here.
TEXT ·handler(SB),NOSPLIT,$0-16
	MOVD	$catch<>(SB), R0
	MOVD	R0, handler+0(FP)
	MOVD	ZR, restorer+8(FP)
	RET

// catch is called by the kernel, with the signal's number in R0, on the thread's signal stack.
TEXT catch<>(SB),NOSPLIT|NOFRAME,$0
	SUB	$16, RSP
	MOVB	R0, (RSP)
	MOVWU	·caught(SB), R0
	MOVD	RSP, R1
	MOVD	$1, R2
	MOVD	$64, R8 // SYS_write
	SVC
	ADD	$16, RSP
	RET
