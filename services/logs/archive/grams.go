package archive

import "math/bits"

// The index of a chunk's text is a bitmap of some of its grams: of every window of gramWindow
// successive sequences of gramBytes bytes, in lower case, the one with the least hash. Any text of
// minIndexed bytes or more contains a whole window, so the gram that is chosen from it is chosen in
// each line that contains the text (winnowing: Schleimer, Wilkerson, Aiken, "Winnowing: local
// algorithms for document fingerprinting", SIGMOD 2003). What cannot be found in the bitmap is not
// in the chunk; what is found may be.
const (
	gramBytes  = 5
	gramWindow = 6
	minIndexed = gramBytes + gramWindow - 1

	gramMask    = 1<<(8*gramBytes) - 1
	maxGramBits = 1 << 18
	minGramBits = 1 << 9
)

var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// gramsOf sets the bits of the chosen grams of a text, of which no window goes across the end of a line; without
// a bitmap it appends their hashes to list.
func gramsOf(text []byte, bitmap *[maxGramBits / 8]byte, list []uint32) []uint32 {
	var gram uint64
	var window [8]uint32 // the last hashes, of which gramWindow count
	n, least := 0, 0     // grams in this line; which of them was chosen last
	have := 0            // bytes of this line in gram
	for _, c := range text {
		if c == '\n' {
			n, have = 0, 0
			continue
		}
		gram = (gram<<8 | uint64(lower[c])) & gramMask
		if have++; have < gramBytes {
			continue
		}
		h := uint32(gram * 0x9E3779B97F4A7C15 >> 32)
		window[n&7] = h
		n++
		switch {
		case n < gramWindow:
			continue
		case n == gramWindow, least < n-gramWindow: // the first window, or the chosen one has left
			least = n - gramWindow
			for i := least + 1; i < n; i++ {
				if window[i&7] <= window[least&7] {
					least = i
				}
			}
			h = window[least&7]
		case h <= window[least&7]:
			least = n - 1
		default:
			continue
		}
		if bitmap != nil {
			bitmap[h%maxGramBits/8] |= 1 << (h % 8)
		} else {
			list = append(list, h)
		}
	}
	return list
}

// gramIndex is the bitmap of a text, as small as it may be with at most a quarter of its bits set.
// It is valid until work is used again.
func gramIndex(text []byte, work *[maxGramBits / 8]byte) []byte {
	clear(work[:])
	gramsOf(text, work, nil)
	set, index := 0, work[:]
	for _, b := range index {
		set += bits.OnesCount8(b)
	}
	// Half the bitmap holds as much when both halves are laid over each other.
	for len(index) > minGramBits/8 && set*4 <= len(index)*8/2 {
		half := len(index) / 2
		for i := range half {
			index[i] |= index[half+i]
		}
		index = index[:half]
		set = 0
		for _, b := range index {
			set += bits.OnesCount8(b)
		}
	}
	return index
}

// Needle is a text that lines must contain, prepared for asking indexes. The case of ASCII letters
// makes no difference.
type Needle []uint32

// NewNeedle prepares a text; of one that is too short for the index every chunk may have it.
func NewNeedle(text []byte) Needle {
	if len(text) < minIndexed {
		return nil
	}
	return gramsOf(text, nil, nil)
}

// mayBeIn tells whether the text of an index may contain the needle.
func (n Needle) mayBeIn(index []byte) bool {
	size := uint32(len(index)) * 8
	if size == 0 {
		return true
	}
	for _, h := range n {
		if h %= size; index[h/8]&(1<<(h%8)) == 0 {
			return false
		}
	}
	return true
}
