//go:debug containermaxprocs=0

// Command probe runs inside containers and tells what it is allowed, what it
// sees and what it can reach. Started with "facts" it prints one JSON object of
// name to finding and, with "hold" behind it, stays. The other commands are
// attacks: hostile programs that the tests of test/isolation start on purpose.
//
// Everything that it tries it undoes, and nothing that it tries could harm the
// host if it succeeded. It is static, needs nothing in the image, and only those
// tests build it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// What /proc/self says of signals, capabilities and filters is said of the first
// thread, and the Go runtime blocks all signals of whichever thread makes a further
// one. So that thread is the one that looks: while it reads, it makes none.
func init() { runtime.LockOSThread() }

func main() {
	// Descriptors first, before this program opens any.
	facts := findings{}
	if len(os.Args) > 1 && os.Args[1] == "facts" {
		facts.descriptors()
	}
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "probe: which command?")
		os.Exit(2)
	}
	commands := map[string]func([]string){
		"facts": func(args []string) { report(facts, args) },
		"hold":  func([]string) { hold() },
		"bomb":  func([]string) { bomb() },
		"eat":   func([]string) { eat() },
		"swap":  swap,
		"watch": func([]string) { watch() },
		"true":  func([]string) { fmt.Println("reached") },
	}
	command, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "probe: unknown command", os.Args[1])
		os.Exit(2)
	}
	command(os.Args[2:])
}

// findings are named observations.
type findings map[string]string

// result names the outcome of an attempt.
func result(err error) string {
	if err == nil {
		return "done"
	}
	if errno, ok := errnoOf(err); ok {
		return errnoName(errno)
	}
	return err.Error()
}

func report(f findings, args []string) {
	f.process()
	f.limits()
	f.mounts()
	f.devices()
	f.visible()
	f.files()
	f.namespaces()
	f.calls()
	text, err := json.Marshal(f)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
	if len(args) > 0 && args[0] == "hold" {
		hold()
	}
}

// hold waits to be ended.
func hold() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	<-c
}
