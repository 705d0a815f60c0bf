package eventloop

import (
	"crypto/tls"
	"errors"
	"net"
)

// A TLS connection is diverted once its ClientHello has been read, before
// anything is answered. For one that is not decrypted here all bytes read until
// then are kept, and whatever crypto/tls says to the failed handshake is not sent.
// Nor is it for a name that nobody serves: the connection is just closed.

var (
	errDiverted = errors.New("the connection is for another server")
	errUnknown  = errors.New("nobody serves this server name")
)

// diverting returns a configuration that asks divert about each connection.
func diverting(config *tls.Config, divert func(string) Diversion) *tls.Config {
	config = config.Clone()
	next := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		r := hello.Conn.(*record) // made by handshake
		r.serverName = hello.ServerName
		r.diversion = divert(hello.ServerName)
		if r.diversion == Encrypted {
			return nil, errDiverted
		}
		r.seen = nil
		switch {
		case r.diversion == Refuse:
			return nil, errUnknown
		case next == nil:
			return nil, nil
		}
		return next(hello)
	}
	return config
}

// stream gives a diverted connection away.
func (c *client) stream() {
	r := c.record
	conn := r.Conn
	if r.diversion == Encrypted {
		passed := &Conn{Conn: conn, prefix: r.seen}
		if c.introduced {
			passed.peer = net.TCPAddrFromAddrPort(c.peer)
		}
		conn = passed
	} else {
		conn = c.secure
	}
	r.seen = nil
	c.refused() // the connection has another descriptor
	c.port.Stream(conn, r.serverName)
}
