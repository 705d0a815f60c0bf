package proxy

import (
	"net/http"
	"strings"
)

// The attacks of TestAttacks. Sections are of RFC 9112 (HTTP/1.1) unless they name
// RFC 9110 (semantics).

// lengthAttacks are messages with more than one length, or none that is clear.
func lengthAttacks() []attack {
	const bad = http.StatusBadRequest
	return []attack{
		refused("length and chunks", "6.1: a server may refuse it, and this is how requests are smuggled", bad,
			post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"+smuggled)),
		refused("chunks and length", "6.1", bad, post("Transfer-Encoding: chunked\r\nContent-Length: 50\r\n", "0\r\n\r\n"+smuggled)),
		refused("two lengths that differ", "6.3, rule 5: unrecoverable", bad, post("Content-Length: 5\r\nContent-Length: 0\r\n", "hello"+smuggled)),
		refused("two lengths that agree", "6.3, rule 5: may be refused, and is", bad, post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"+smuggled)),
		refused("list of lengths", "RFC 9110, 8.6", bad, post("Content-Length: 5, 5\r\n", "hello"+smuggled)),
		refused("length with sign", "RFC 9110, 8.6: 1*DIGIT", bad, post("Content-Length: +5\r\n", "hello"+smuggled)),
		refused("negative length", "RFC 9110, 8.6", bad, post("Content-Length: -1\r\n", smuggled)),
		refused("hexadecimal length", "RFC 9110, 8.6", bad, post("Content-Length: 0x5\r\n", "hello"+smuggled)),
		refused("length with a space inside", "RFC 9110, 8.6", bad, post("Content-Length: 1 0\r\n", "hello"+smuggled)),
		refused("empty length", "RFC 9110, 8.6", bad, post("Content-Length: \r\n", smuggled)),
		refused("length beyond 64 bits", "RFC 9110, 8.6: must not overflow", bad, post("Content-Length: 18446744073709551621\r\n", "hello"+smuggled)),
		refused("length with a dot", "RFC 9110, 8.6", bad, post("Content-Length: 5.0\r\n", "hello"+smuggled)),
		refused("length with other digits", "RFC 9110, 8.6", bad, post("Content-Length: \xd9\xa5\r\n", "hello"+smuggled)),
		refused("length after a vertical tab", "RFC 9110, 5.5: no control characters", bad, post("Content-Length: \x0b5\r\n", "hello"+smuggled)),
		passed("length with leading zeros", "RFC 9110, 8.6: 1*DIGIT", post("Content-Length: 0005\r\n", "hello"), "POST shop.test /p hello"),
		passed("length with spaces around", "RFC 9110, 5.5: optional white space", post("Content-Length: \t 5 \t\r\n", "hello"), "POST shop.test /p hello"),
		passed("GET with a body", "RFC 9110, 9.3.1: no meaning, but framed", head("Content-Length: 5\r\n")+"hello"+get, "GET shop.test /g hello", gotNext),
		passed("no length is no body", "6.3, rule 7", post("", "")+get, "POST shop.test /p ", gotNext),
	}
}

// chunkAttacks are about the chunked coding.
func chunkAttacks() []attack {
	const bad = http.StatusBadRequest
	chunked := func(body string) string { return post("Transfer-Encoding: chunked\r\n", body) }
	attacks := []attack{
		refused("coding with another before it", "6.1: chunked and what is not understood", bad, post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"+smuggled)),
		refused("coding that is not last", "6.3, rule 4", bad, post("Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"+smuggled)),
		refused("coding twice in a line", "7.1: not applied more than once", bad, post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"+smuggled)),
		refused("coding in two lines", "7.1", bad, post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"+smuggled)),
		refused("identity", "7: not a coding any more", bad, post("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "hello"+smuggled)),
		refused("coding with a letter before", "7", bad, post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"+smuggled)),
		refused("coding after a vertical tab", "RFC 9110, 5.5", bad, post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"+smuggled)),
		refused("coding in quotes", "7", bad, post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"+smuggled)),
		refused("coding with a parameter", "7: chunked has none", bad, post("Transfer-Encoding: chunked;a=b\r\n", "0\r\n\r\n"+smuggled)),
		refused("empty coding", "7", bad, post("Transfer-Encoding: \r\nContent-Length: 5\r\n", "hello"+smuggled)),
		refused("name with a space before the colon", "5.1: must be refused", bad, post("Transfer-Encoding : chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+smuggled)),
		refused("name with a tab before the colon", "5.1", bad, post("Transfer-Encoding\t: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+smuggled)),
		refused("name with a zero byte", "RFC 9110, 5.1: a token", bad, post("Transfer-Encoding\x00: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+smuggled)),
		refused("folded coding", "5.2: refused or replaced by spaces", bad, post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"+smuggled)),
		refused("coding in HTTP/1.0", "6.1: faulty framing", bad, "POST /p HTTP/1.0\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+smuggled),
		passed("coding in capitals", "7: case does not matter", post("Transfer-Encoding: CHUNKED\r\n", "5\r\nhello\r\n0\r\n\r\n"), "POST shop.test /p hello"),
		passed("chunks", "7.1", chunked("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")+get, "POST shop.test /p hello world", gotNext),
		passed("chunks with leading zeros", "7.1: 1*HEXDIG", chunked("0005\r\nhello\r\n000\r\n\r\n")+get, "POST shop.test /p hello", gotNext),
		passed("extension", "7.1.1: ignored", chunked("5;a=\"b;c\"\r\nhello\r\n0;d\r\n\r\n")+get, "POST shop.test /p hello", gotNext),
		passed("trailers", "7.1.2: not merged into the fields", post("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n")+get, "POST shop.test /p hello", gotNext),
	}
	for name, body := range map[string]string{
		"chunk size with a sign":            "+5\r\nhello\r\n0\r\n\r\n",
		"chunk size with a prefix":          "0x5\r\nhello\r\n0\r\n\r\n",
		"chunk size that is none":           "five\r\nhello\r\n0\r\n\r\n",
		"empty chunk size":                  "\r\nhello\r\n0\r\n\r\n",
		"negative chunk size":               "-1\r\nhello\r\n0\r\n\r\n",
		"chunk size beyond 64 bits":         "10000000000000005\r\nhello\r\n0\r\n\r\n",
		"chunk size with a space before":    " 5\r\nhello\r\n0\r\n\r\n",
		"chunk size with an underscore":     "0_5\r\nhello\r\n0\r\n\r\n",
		"chunk size that ends in LF":        "5\nhello\r\n0\r\n\r\n",
		"chunk that ends in LF":             "5\r\nhello\n0\r\n\r\n",
		"chunk that is longer than it says": "5\r\nhelloo\r\n0\r\n\r\n",
		"chunk without its end":             "5\r\nhello0\r\n\r\n",
		"extension that ends in LF":         "5;a\nhello\r\n0\r\n\r\n",
		"extension with a zero byte":        "5;a\x00\r\nhello\r\n0\r\n\r\n",
		"extension without end":             "5;" + strings.Repeat("a", 8<<10) + "\r\nhello\r\n0\r\n\r\n",
		"last chunk that ends in LF":        "0\n\r\n",
		"end of the body that is LF":        "0\r\n\n",
		"folded trailer":                    "0\r\nA: b\r\n c\r\n\r\n",
		"trailer without a name":            "0\r\n: b\r\n\r\n",
		"trailer with a zero byte":          "0\r\nA: \x00\r\n\r\n",
		"trailers without end":              "0\r\n" + strings.Repeat("A: b\r\n", 8<<10) + "\r\n",
	} {
		attacks = append(attacks, refused(name, "7.1", bad, chunked(body+smuggled)))
	}
	return attacks
}

// lineAttacks are about lines, names, values and versions.
func lineAttacks() []attack {
	const bad, tooLong, uriTooLong = http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge, http.StatusRequestURITooLong
	attacks := []attack{
		refused("field of 100 KB", "RFC 6585, 5", tooLong, head("A: "+strings.Repeat("b", 100<<10)+"\r\n")),
		refused("ten thousand fields", "RFC 6585, 5", tooLong, head(strings.Repeat("A: bcdefg\r\n", 10_000))),
		refused("target of 100 KB", "3: 414", uriTooLong, "GET /"+strings.Repeat("a", 100<<10)+" HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
		refused("method of 100 KB", "3: longer than any implemented", uriTooLong, strings.Repeat("A", 100<<10)+" / HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
		passed("field of 60 KB", "RFC 9110, 5.4: within the limit", head("A: "+strings.Repeat("b", 60<<10)+"\r\n"), "GET shop.test /g "),
		passed("bytes above ASCII in a value", "RFC 9110, 5.5: opaque data", head("A: \xe4\xff\r\n")+get, "GET shop.test /g ", gotNext).with("A: \xe4\xff\r\n"),
		passed("empty value", "RFC 9110, 5.5", head("A:\r\n")+get, "GET shop.test /g ", gotNext),
		passed("unknown method", "RFC 9110, 9.1: the origin's business", "BREW /p HTTP/1.1\r\nHost: shop.test\r\n\r\n"+get, "BREW shop.test /p ", gotNext),
	}
	for name, send := range map[string]string{
		"lines that end in LF":           "GET /g HTTP/1.1\nHost: shop.test\n\n" + smuggled,
		"one line that ends in LF":       "GET /g HTTP/1.1\r\nHost: shop.test\r\nA: b\nX: y\r\n\r\n" + smuggled,
		"end of the head that is LF":     "GET /g HTTP/1.1\r\nHost: shop.test\r\n\n" + smuggled,
		"CR inside a value":              head("A: b\rTransfer-Encoding: chunked\r\n") + smuggled,
		"CR inside a name":               head("A\rB: b\r\n") + smuggled,
		"zero byte in a value":           head("A: b\x00c\r\n") + smuggled,
		"control character in a value":   head("A: b\x01c\r\n") + smuggled,
		"folded field":                   head("A: b\r\n c\r\n") + smuggled,
		"folded first field":             "GET /g HTTP/1.1\r\n Host: shop.test\r\nHost: shop.test\r\n\r\n" + smuggled,
		"space in a name":                head("A B: c\r\n") + smuggled,
		"no colon":                       head("A\r\n") + smuggled,
		"no name":                        head(": b\r\n") + smuggled,
		"name with a bracket":            head("A(: b\r\n") + smuggled,
		"name above ASCII":               head("\xc3\xa4: b\r\n") + smuggled,
		"two spaces before the target":   "GET  /g HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"space in the target":            "GET /g g HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"tab before the target":          "GET\t/g HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"space after the version":        "GET /g HTTP/1.1 \r\nHost: shop.test\r\n\r\n" + smuggled,
		"space before the method":        " GET /g HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"no version":                     "GET /g\r\nHost: shop.test\r\n\r\n" + smuggled,
		"version 1.2":                    "GET /g HTTP/1.2\r\nHost: shop.test\r\n\r\n" + smuggled,
		"version 2.0":                    "GET /g HTTP/2.0\r\nHost: shop.test\r\n\r\n" + smuggled,
		"version with two digits":        "GET /g HTTP/1.10\r\nHost: shop.test\r\n\r\n" + smuggled,
		"version in small letters":       "GET /g http/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"method with a bracket":          "G(T /g HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"zero byte in the target":        "GET /g\x00 HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"byte above ASCII in the target": "GET /\xe4 HTTP/1.1\r\nHost: shop.test\r\n\r\n" + smuggled,
		"TLS on the plain port":          "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
		"no host":                        "GET /g HTTP/1.1\r\n\r\n" + smuggled,
		"two hosts":                      "GET /g HTTP/1.1\r\nHost: shop.test\r\nHost: other.test\r\n\r\n" + smuggled,
		"two hosts that agree":           "GET /g HTTP/1.1\r\nHost: shop.test\r\nHost: shop.test\r\n\r\n" + smuggled,
		"host with a space":              "GET /g HTTP/1.1\r\nHost: shop.test evil\r\n\r\n" + smuggled,
		"host with a slash":              "GET /g HTTP/1.1\r\nHost: shop.test/smuggled\r\n\r\n" + smuggled,
		"host with user":                 "GET /g HTTP/1.1\r\nHost: a@shop.test\r\n\r\n" + smuggled,
		"host with a control character":  "GET /g HTTP/1.1\r\nHost: shop.test\x7f\r\n\r\n" + smuggled,
	} {
		attacks = append(attacks, refused(name, "2.2, 3, 3.2, 5", bad, send))
	}
	return attacks
}

// targetAttacks are about what a request is for.
func targetAttacks() []attack {
	const bad = http.StatusBadRequest
	return []attack{
		passed("absolute target", "3.2.2: its host counts", "GET http://shop.test/g HTTP/1.1\r\nHost: shop.test\r\n\r\n"+get, "GET shop.test /g ", gotNext),
		passed("absolute target against Host", "3.2.2: Host is ignored, and replaced when forwarding", "GET http://shop.test/g HTTP/1.1\r\nHost: evil.test\r\n\r\n"+get,
			"GET shop.test /g ", gotNext).without("evil.test"),
		passed("question mark only", "3.2.1", "GET /g? HTTP/1.1\r\nHost: shop.test\r\n\r\n"+get, "GET shop.test /g? ", gotNext),
		passed("encoded slash", "RFC 3986, 2.2: not the same as a slash", "GET /g%2fh HTTP/1.1\r\nHost: shop.test\r\n\r\n"+get, "GET shop.test /g%2fh ", gotNext),
		passed("query that is not a form", "3.2.1: byte for byte", "GET /g?a;b=%zz&|^ HTTP/1.1\r\nHost: shop.test\r\n\r\n"+get, "GET shop.test /g?a;b=%zz&|^ ", gotNext),
		refused("target that is no path", "3.2", bad, "GET g HTTP/1.1\r\nHost: shop.test\r\n\r\n"+smuggled),
		refused("bad encoding in the path", "RFC 3986, 2.1", bad, "GET /%zz HTTP/1.1\r\nHost: shop.test\r\n\r\n"+smuggled),
		passed("dot segments", "RFC 3986, 6.2.2.3: a route must not be chosen by another path than the backend sees",
			"GET /a/../b HTTP/1.1\r\nHost: shop.test\r\n\r\n"+get, gotNext).answering(bad, http.StatusOK),
		passed("encoded dot segments", "RFC 3986, 6.2.2.2", "GET /a/%2e%2e/b HTTP/1.1\r\nHost: shop.test\r\n\r\n"+get, gotNext).answering(bad, http.StatusOK),
	}
}

// hopAttacks are about fields that end at this hop.
func hopAttacks() []attack {
	named := func(name, fields string, lacks ...string) attack {
		return passed(name, "RFC 9110, 7.6.1", head(fields)+get, "GET shop.test /g ", gotNext).without(lacks...)
	}
	return []attack{
		named("fields that Connection names", "Connection: X-Secret\r\nX-Secret: a\r\n", "x-secret"),
		named("fields that two Connection lines name", "Connection: X-One\r\nConnection: X-Two\r\nX-One: a\r\nX-Two: b\r\n", "x-one", "x-two"),
		named("fields of the hop", "Keep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\n", "keep-alive", "proxy-"),
		passed("Connection that names Host", "RFC 9110, 7.6.1: must not be named; a backend never gets a request without", head("Connection: Host\r\n")+get, "GET shop.test /g ", gotNext),
		passed("Connection that names Content-Length", "RFC 9110, 7.6.1: the framing stays right", post("Connection: Content-Length\r\nContent-Length: 5\r\n", "hello")+get, "POST shop.test /p hello", gotNext),
		passed("Connection that names what the gateway adds", "RFC 9110, 7.6.1: a client cannot hide where it comes from",
			head("Connection: X-Forwarded-For, X-Forwarded-Proto\r\n")+get, "GET shop.test /g ", gotNext).with("X-Forwarded-For: 127.0.0.1\r\n"),
		passed("forwarded address that a client invents", "not believed", head("X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n")+get, "GET shop.test /g ", gotNext).without("10.0.0.1"),
		passed("TE", "RFC 9110, 10.1.4: only trailers goes on", head("TE: gzip, trailers;q=0.5\r\nConnection: TE\r\n")+get, "GET shop.test /g ", gotNext).without("gzip"),
		passed("close", "9.6", head("Connection: close\r\n"), "GET shop.test /g ").ending(),
		passed("close in another case, among others", "9.6", head("Connection: foo, CLOSE\r\n"), "GET shop.test /g ").ending(),
		passed("Expect", "RFC 9110, 10.1.1", post("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello")+get, "POST shop.test /p hello", gotNext),
		refused("unknown expectation", "RFC 9110, 10.1.1: 417", http.StatusExpectationFailed, post("Expect: 200-ok\r\nContent-Length: 5\r\n", "hello")),
		passed("upgrade to h2c that hides a request", "RFC 9113, 3.1: h2c by upgrade is obsolete, never forwarded as such",
			head("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"), "GET shop.test /g ").without("http2-settings", "h2c").ending(),
		passed("upgrade that the backend does not want", "RFC 9110, 7.8: ignored", head("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "GET shop.test /g ").ending(),
	}
}

// sequenceAttacks are about what follows on the connection.
func sequenceAttacks() []attack {
	const bad = http.StatusBadRequest
	return []attack{
		passed("pipelined requests", "9.3.2", get+get+get, gotNext, gotNext, gotNext),
		{name: "pipelined after an error", section: "9.3.2, 2.2: nothing after a malformed message counts", send: get + "GET /g HTTP/1.1\r\nA : b\r\n\r\n" + smuggled,
			answers: []int{http.StatusOK, bad}, closed: true, requests: []string{gotNext}},
		{name: "error after a body", section: "6.3: what follows a body is the next request", send: post("Content-Length: 5\r\n", "hello") + "X\r\n\r\n" + smuggled,
			answers: []int{http.StatusOK, bad}, closed: true, requests: []string{"POST shop.test /p hello"}},
		passed("HTTP/1.0", "9.3: closes", "GET /g HTTP/1.0\r\nHost: shop.test\r\n\r\n", "GET shop.test /g ").ending(),
		passed("HTTP/1.0 that stays", "9.3", "GET /g HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n"+get, "GET shop.test /g ", gotNext),
	}
}
