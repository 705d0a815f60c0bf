package eventloop

import (
	"time"

	"github.com/gantryhq/gantry/services/gateway/proxyproto"
)

// introduceTimeout bounds how long a proxy may take to name its client.
const introduceTimeout = 10 * time.Second

// introduce runs beside the loop: it reads whom a proxy stands for, and then
// begins the connection as that client's. One that does not say is closed.
func (c *client) introduce() {
	conn, err := netConn(c.fd)
	if err != nil {
		c.refused()
		return
	}
	conn.SetReadDeadline(time.Now().Add(introduceTimeout))
	source, err := proxyproto.Read(conn)
	conn.Close() // another descriptor of it
	if err != nil {
		c.refused()
		return
	}
	if source.IsValid() {
		c.peer, c.introduced = source, true
	}
	if c.port.TLS != nil {
		c.handshake()
		return
	}
	c.loop.post(c.begin)
}
