// Program pause does nothing until it is told to stop. It stands in for the suite's pause image, whose
// program is C that the Go toolchain alone cannot build.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
