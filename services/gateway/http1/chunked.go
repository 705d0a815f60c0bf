package http1

// Chunks follows a chunked body (RFC 9112, section 7.1) through any division
// into pieces, to find its end. The zero value stands before the first chunk.
type Chunks struct {
	state  chunkState
	digits uint8
	left   int64 // bytes of the chunk, or its size while that is read
	line   int   // bytes of extensions, or of all trailers
}

type chunkState uint8

const (
	inSize chunkState = iota
	inExtension
	afterSize // CR seen
	inData
	afterData // the chunk's CR
	dataEnd   // the chunk's LF
	trailerStart
	inTrailerName
	inTrailer
	afterTrailer // CR seen
	bodyEnd      // CR of the empty line seen
)

// Extensions of one chunk and all trailers together may have so many bytes.
const (
	maxExtension = 4 << 10
	maxTrailers  = 16 << 10
)

// Scan reads the next piece. It returns how many bytes of it belong to the body,
// and whether the body ends with them.
func (c *Chunks) Scan(b []byte) (used int, done bool, err error) {
	for i := 0; i < len(b); i++ {
		if c.state == inData {
			n := min(c.left, int64(len(b)-i))
			c.left -= n
			i += int(n)
			if c.left > 0 {
				return len(b), false, nil
			}
			c.state = afterData
			if i == len(b) {
				return i, false, nil
			}
		}
		if done, err = c.next(b[i]); err != nil || done {
			return i + 1, done, err
		}
	}
	return len(b), false, nil
}

// next reads one byte that is not data.
func (c *Chunks) next(b byte) (done bool, err error) {
	switch c.state {
	case inSize:
		return false, c.size(b)
	case inExtension:
		return false, c.text(b, afterSize, maxExtension)
	case afterSize:
		if b != '\n' {
			return false, ErrMalformed
		}
		c.digits, c.line = 0, 0
		if c.state = inData; c.left == 0 {
			c.state = trailerStart
		}
	case afterData:
		return false, c.expect(b, '\r', dataEnd)
	case dataEnd:
		return false, c.expect(b, '\n', inSize)
	case trailerStart:
		if b == '\r' {
			c.state = bodyEnd
			return false, nil
		}
		if classes[b]&tokenByte == 0 {
			return false, ErrMalformed // folded, or no name
		}
		c.state = inTrailerName
	case inTrailerName:
		if b == ':' {
			c.state = inTrailer
		} else if c.line++; classes[b]&tokenByte == 0 || c.line > maxTrailers {
			return false, ErrMalformed
		}
	case inTrailer:
		return false, c.text(b, afterTrailer, maxTrailers)
	case afterTrailer:
		return false, c.expect(b, '\n', trailerStart)
	case bodyEnd:
		if b != '\n' {
			return false, ErrMalformed
		}
		return true, nil
	}
	return false, nil
}

func (c *Chunks) expect(b, want byte, then chunkState) error {
	if b != want {
		return ErrMalformed
	}
	c.state = then
	return nil
}

// size reads a chunk's size in hexadecimal.
func (c *Chunks) size(b byte) error {
	var digit byte
	switch {
	case b >= '0' && b <= '9':
		digit = b - '0'
	case b >= 'a' && b <= 'f':
		digit = b - 'a' + 10
	case b >= 'A' && b <= 'F':
		digit = b - 'A' + 10
	case c.digits > 0 && b == '\r':
		c.state = afterSize
		return nil
	case c.digits > 0 && (b == ';' || b == ' ' || b == '\t'):
		c.state = inExtension
		return nil
	default:
		return ErrMalformed
	}
	if c.digits == 0 {
		c.left = 0
	}
	if c.digits++; c.digits > 15 {
		return ErrMalformed
	}
	c.left = c.left<<4 | int64(digit)
	return nil
}

// text reads one byte of a line whose content does not matter.
func (c *Chunks) text(b byte, then chunkState, limit int) error {
	if c.line++; c.line > limit {
		return ErrMalformed
	}
	if b == '\r' {
		c.state = then
		return nil
	}
	if classes[b]&valueByte == 0 {
		return ErrMalformed
	}
	return nil
}
