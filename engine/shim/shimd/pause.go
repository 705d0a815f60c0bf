package shimd

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Pause is the first process of a pid namespace that several containers share:
// it reaps what they leave behind and exits when it is told to.
func Pause() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGCHLD, unix.SIGTERM, unix.SIGINT)
	for s := range signals {
		if s != unix.SIGCHLD {
			return
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err != unix.EINTR && (err != nil || pid <= 0) {
				break
			}
		}
	}
}
