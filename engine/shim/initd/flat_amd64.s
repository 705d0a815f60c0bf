#include "textflag.h"

// func flatCodeAddress() uintptr
TEXT ·flatCodeAddress(SB), NOSPLIT, $0-8
	LEAQ flatCode<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// flatCode is the whole of the flat init: it maps the list of steps and executes
// one after the other. It is copied into a program of its own, where there is
// nothing else: it uses no stack, calls nothing, and refers to no symbol.
// The layout of what it reads is that of flat.go.
//
// R13 is the list's beginning, R12 the step at hand.
TEXT flatCode<>(SB), NOSPLIT|NOFRAME, $0-0
	// mmap(flatBase, flatSize, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED, RecipeFD, 0)
	MOVQ $9, AX
	MOVQ $0x10000000, DI
	MOVQ $0x100000, SI
	MOVQ $3, DX
	MOVQ $0x12, R10
	MOVQ $4, R8
	XORL R9, R9
	SYSCALL
	MOVQ $0x10000000, R13
	CMPQ AX, R13
	JNE  end
	MOVQ 432(R13), R12

step:
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9

	// Arguments that are results of earlier steps.
	MOVQ    56(R12), R14
	TESTQ   R14, R14
	JZ      call
	MOVBQZX R14B, R15
	TESTQ   R15, R15
	JZ      second
	MOVQ    (R13)(R15*8), DI

second:
	SHRQ    $8, R14
	MOVBQZX R14B, R15
	TESTQ   R15, R15
	JZ      third
	MOVQ    (R13)(R15*8), SI

third:
	SHRQ    $8, R14
	MOVBQZX R14B, R15
	TESTQ   R15, R15
	JZ      call
	MOVQ    (R13)(R15*8), DX

call:
	MOVQ 0(R12), AX
	CMPQ AX, $-1
	JEQ  compare
	SYSCALL

result:
	CMPQ AX, $-4095
	JCC  failed
	MOVQ 64(R12), R15
	MOVQ AX, (R13)(R15*8)
	MOVLQZX 92(R12), R15

advance:
	ADDQ  $1, R15
	IMUL3Q $96, R15, R15
	ADDQ  R15, R12
	JMP   step

failed:
	NEGQ AX
	MOVLQZX 76(R12), R15
	CMPL AX, 72(R12)
	JEQ  advance
	MOVLQZX 84(R12), R15
	CMPL AX, 80(R12)
	JEQ  advance
	XORL R15, R15
	CMPL 88(R12), $0
	JNE  advance

	// Tell the shim at which step it ended and with which error, in digits.
	SUBQ R13, R12
	SHLQ $32, R12
	ORQ  R12, AX
	MOVQ $16, CX
	LEAQ 452(R13), DI

digit:
	MOVQ AX, DX
	ANDL $15, DX
	ADDL $48, DX
	CMPL DX, $58
	JCS  decimal
	ADDL $39, DX

decimal:
	MOVB DL, -1(DI)(CX*1)
	SHRQ $4, AX
	DECQ CX
	JNZ  digit
	MOVQ $1, AX
	MOVQ $3, DI
	LEAQ 440(R13), SI
	MOVQ $28, DX
	SYSCALL

end:
	MOVQ $231, AX
	MOVQ $1, DI
	SYSCALL
	JMP  end

compare:
	MOVL (DI), AX
	ANDL SI, AX
	CMPL AX, DX
	JEQ  same
	MOVQ $-1, AX
	JMP  result

same:
	XORL AX, AX
	JMP  result

	// Where it ends, for whoever copies it.
	BYTE $0x67; BYTE $0x61; BYTE $0x6e; BYTE $0x74; BYTE $0x72; BYTE $0x79; BYTE $0x2d; BYTE $0x66
	BYTE $0x6c; BYTE $0x61; BYTE $0x74; BYTE $0x2d; BYTE $0x65; BYTE $0x6e; BYTE $0x64; BYTE $0x2e
