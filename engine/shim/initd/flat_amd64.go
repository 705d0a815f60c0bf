package initd

import (
	"strings"
	"unsafe"
)

func flatCodeAddress() uintptr

// flatEnd follows the code.
const flatEnd = "gantry-flat-end."

// executable begins an ELF file: Elf64_Ehdr with two Elf64_Phdr, as elf(5) has them.
type executable struct {
	magic                                     [4]byte
	class, encoding, identVersion             byte
	_                                         [9]byte
	kind, machine                             uint16
	version                                   uint32
	entry, segmentsAt, sectionsAt             uint64
	flags                                     uint32
	size, segmentSize, segments               uint16
	sectionSize, sections, sectionNamesAtWhat uint16
	code, stack                               segment
}

type segment struct {
	kind, flags                                 uint32
	offset, address, physical, inFile, inMemory uint64
	align                                       uint64
}

// FlatProgram is the executable that follows what [Flat] returns: a header and some
// hundred instructions.
func FlatProgram() []byte {
	const most, base = 2048, 0x400000
	// The text of this program, in which the code is.
	address := flatCodeAddress()
	text := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&address))), most)
	size := strings.Index(string(text), flatEnd)
	if size < 0 {
		return nil
	}
	const (
		load, gnuStack       = 1, 0x6474e551 // PT_LOAD, PT_GNU_STACK
		execute, write, read = 1, 2, 4
	)
	begin := uint64(unsafe.Sizeof(executable{}))
	whole := begin + uint64(size)
	head := executable{
		magic: [4]byte{0x7f, 'E', 'L', 'F'}, class: 2, encoding: 1, identVersion: 1,
		kind: 2, machine: 62, version: 1, entry: base + begin,
		segmentsAt: uint64(unsafe.Offsetof(executable{}.code)), size: uint16(unsafe.Offsetof(executable{}.code)),
		segmentSize: uint16(unsafe.Sizeof(segment{})), segments: 2,
		code:  segment{kind: load, flags: read | execute, address: base, physical: base, inFile: whole, inMemory: whole, align: 4096},
		stack: segment{kind: gnuStack, flags: read | write, align: 16}, // not executable
	}
	out := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&head)), begin)...)
	return append(out, text[:size]...)
}
